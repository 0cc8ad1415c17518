package cli

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pikelet-os/pikelet/builder/lock"
)

// mirror serves a copy of the starter repository over HTTP and a container
// image from a registry, and writes a spec that uses both, with a tar layer
// and an OCI layout beside, into a new directory. gone takes the servers away.
func mirror(t *testing.T) (dir string, gone func(), asked *[]string) {
	t.Helper()
	dir = t.TempDir()
	newSpec(t, dir)
	asked = new([]string)
	files := http.FileServer(http.Dir(dir + "/starter"))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.URL.Path)
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	must(t, dir, "mkdir -p tree/opt && echo tarred > tree/opt/tarred && tar -C tree -czf more.tar.gz opt")
	must(t, dir, "mkdir -p oci/blobs/sha256 && tar -C tree -cf layer.tar --transform s/tarred/imaged/ opt/tarred")
	img := writeLayout(t, dir+"/oci", dir+"/layer.tar")
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(reg.Close)
	ref := strings.TrimPrefix(reg.URL, "http://") + "/lab/tools:1"
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	edit(t, dir+"/image.yaml", "url: starter", "url: "+s.URL)
	edit(t, dir+"/image.yaml", "  - folder: files\n", "  - folder: files\n  - tar: more.tar.gz\n  - {oci: 'oci:oci', to: srv}\n  - "+
		"{oci: 'http://"+ref+"', to: opt/tools}\n")
	return dir, func() { s.Close(); reg.Close() }, asked
}

func must(t *testing.T, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func edit(t *testing.T, name, from, to string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(b), from) {
		t.Fatalf("%s has no %q (%v)", name, from, err)
	}
	write(t, name, strings.Replace(string(b), from, to, 1), 0o644)
}

// ok runs pikelet and fails the test when it fails.
func ok(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, code := pikelet(t, dir, []string{"XDG_CACHE_HOME=" + dir + "/cache"}, args...)
	if code != 0 {
		t.Fatalf("pikelet %v: exit %d\n%s", args, code, out)
	}
	return out
}

// fails runs pikelet, which must fail with texts.
func fails(t *testing.T, dir string, args []string, texts ...string) {
	t.Helper()
	out, code := pikelet(t, dir, []string{"XDG_CACHE_HOME=" + dir + "/cache"}, args...)
	if code == 0 {
		t.Errorf("pikelet %v: no error\n%s", args, out)
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("pikelet %v: no %q in\n%s", args, text, out)
		}
	}
}

func digestLine(t *testing.T, out string) string {
	t.Helper()
	_, rest, found := strings.Cut(out, "(OCI manifest ")
	if !found {
		t.Fatalf("no digest in\n%s", out)
	}
	return strings.TrimSuffix(strings.TrimSpace(rest), ")")
}

// TestLockAndVendor: locked, with the mirror gone, built from a vendor directory
// and from a vendor artifact: the same image.
func TestLockAndVendor(t *testing.T) {
	dir, gone, asked := mirror(t)
	free := ok(t, dir, "build", "-o", "out", "image.yaml")
	if !strings.Contains(free, "building without a lock\nhint: pikelet lock image.yaml pins") {
		t.Errorf("a build without a lock does not say so:\n%s", free)
	}
	fails(t, dir, []string{"outdated", "none.yaml"}, "none.yaml: no such file")
	fails(t, dir, []string{"outdated", "image.yaml"}, "image.yaml has no lock", "pikelet lock image.yaml")
	if out := ok(t, dir, "lock", "image.yaml"); !strings.Contains(out, "new lock: ") {
		t.Errorf("a first lock says\n%s", out)
	}
	if out := ok(t, dir, "lock", "image.yaml"); !strings.Contains(out, "nothing changed") {
		t.Errorf("a second lock says\n%s", out)
	}
	*asked = nil
	locked := ok(t, dir, "build", "-o", "out", "image.yaml")
	for _, path := range *asked {
		if strings.Contains(path, "APKINDEX") {
			t.Error("a build with a lock read an index")
		}
	}
	if digestLine(t, free) != digestLine(t, locked) {
		t.Error("the lock made another image")
	}
	ok(t, dir, "build", "--offline", "-o", "out", "image.yaml") // all from the cache
	ok(t, dir, "vendor", "image.yaml", "kept")
	reg := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer reg.Close()
	ref := reg.URL + "/lab/inputs:1" // http:// says that there is no TLS
	ok(t, dir, "vendor", "image.yaml", ref)
	gone()
	must(t, dir, "rm -rf cache")
	fails(t, dir, []string{"build", "--offline", "-o", "out", "image.yaml"}, "is not in the cache, and the build is offline",
		"pikelet vendor image.yaml DIR")
	for _, vendor := range []string{"kept", ref} {
		must(t, dir, "rm -rf cache")
		args := []string{"build", "--vendor", vendor, "-o", "out", "image.yaml"}
		if vendor == "kept" {
			args = append(args, "--offline")
		}
		if out := ok(t, dir, args...); digestLine(t, out) != digestLine(t, free) {
			t.Errorf("built from the vendor %s it is another image", vendor)
		}
	}
	fails(t, dir, []string{"build", "--vendor", "nowhere", "image.yaml"}, `opening the vendor directory "nowhere": file does not exist`)
	if tree := mustRead(t, dir+"/out/tree.txt"); !strings.Contains(tree, " /opt/tools/opt/imaged\n") ||
		!strings.Contains(tree, " /srv/opt/imaged\n") || !strings.Contains(tree, " /opt/tarred\n") {
		t.Error("a layer did not reach the tree")
	}
	judgeVendor(t, dir)
}

// judgeVendor builds from the vendor directory as from any repository, its own
// index included.
func judgeVendor(t *testing.T, dir string) {
	t.Helper()
	must(t, dir, "rm -rf cache image.yaml.lock && cp starter/starter.rsa.pub kept/ && sed -i /opt.tools/d image.yaml")
	b, err := os.ReadFile(dir + "/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	start := strings.Index(string(b), "  - url: ")
	end := strings.Index(string(b), "packages:")
	write(t, dir+"/image.yaml", string(b[:start])+"  - {url: kept, keys: [kept/vendor.rsa.pub, kept/starter.rsa.pub]}\n"+string(b[end:]),
		0o644)
	ok(t, dir, "build", "--offline", "-o", "out", "image.yaml")
}

// TestOutdatedLockIsRefused: the error names the input that does not fit the lock,
// with a hint.
func TestOutdatedLockIsRefused(t *testing.T) {
	dir, _, _ := mirror(t)
	ok(t, dir, "lock", "image.yaml")
	good, err := os.ReadFile(dir + "/image.yaml.lock")
	if err != nil {
		t.Fatal(err)
	}
	spec, err := os.ReadFile(dir + "/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	build := []string{"build", "-o", "out", "image.yaml"}
	for what, c := range map[string]struct {
		script string
		want   []string
	}{
		"a package more": {"sed -i 's/dropbear\\]/dropbear, chrony]/' image.yaml",
			[]string{"does not fit the spec: the spec asks for the packages", "hint: bring the lock up to date with: pikelet lock image.yaml"}},
		"another repository": {"sed -i 's/^repositories:/repositories:\\n  - {url: starter, keys: [starter\\/starter.rsa.pub]}/' image.yaml",
			[]string{"the spec has the repositories"}},
		"a changed directory": {"echo new > files/etc/new", []string{" files is sha256:"}},
		"a changed tar":       {"echo x >> more.tar.gz", []string{"the layer tar more.tar.gz is sha256:"}},
		"a layer less":        {"sed -i '/oci:oci/d' image.yaml", []string{"the spec has 3 layers, the lock 4"}},
		"an overlay": {"printf 'overlays: [{name: ssh, with: {keys: ssh-ed25519 AAAA}}]\\n' >> image.yaml",
			[]string{"the spec has 2 overlays, the lock 1"}},
		"a lock that is cut": {"head -c 300 image.yaml.lock > l && mv l image.yaml.lock", []string{"image.yaml.lock: reading the lock",
			"hint: write a new lock"}},
		"another lock format": {"sed -i 's/^format: 1/format: 9/' image.yaml.lock", []string{"unsupported format 9, want 1"}},
		"a package changed": {"sed -i '0,/identity: Q1/s/identity: Q1./identity: Q1_/' image.yaml.lock", []string{"identity mismatch: got Q1",
			"another build of the same version"}},
		"a package that's gone": {"sed -i '0,/version: .*/s/version: .*/version: 0.1-r0/' image.yaml.lock", []string{"is not there any more",
			"hint: mirrors drop superseded packages: pikelet lock image.yaml chooses anew, and pikelet vendor image.yaml DIR keeps copies"}},
	} {
		must(t, dir, c.script)
		fails(t, dir, build, c.want...)
		must(t, dir, "rm -f files/etc/new; tar -C tree -czf more.tar.gz opt")
		write(t, dir+"/image.yaml.lock", string(good), 0o644)
		write(t, dir+"/image.yaml", string(spec), 0o644)
		if t.Failed() {
			t.Fatal(what)
		}
	}
	must(t, dir, "cp image.yaml.lock now && sed -i 's/    newest: [0-9]*$/    newest: 9999999999/; s/ digest: sha256:./&x/' image.yaml.lock")
	fails(t, dir, []string{"lock", "image.yaml"}, "the index is older than the one the lock was made with", "--allow-older")
	must(t, dir, "mv now image.yaml.lock")
	edit(t, dir+"/image.yaml.lock", "tool: dev", "tool: v0")
	if out := ok(t, dir, build...); !strings.Contains(out, "lock was made by another version of pikelet, "+
		"the image may differ lock=v0 this=dev") {
		t.Errorf("another tool is not named:\n%s", out)
	}
	before := mustRead(t, dir+"/image.yaml.lock")
	var said struct {
		Result struct{ Changes []lock.Change }
	}
	_, result, _ := strings.Cut(ok(t, dir, "outdated", "--json", "image.yaml"), `{"result"`)
	if err := json.Unmarshal([]byte(`{"result"`+result), &said); err != nil {
		t.Fatal(err)
	}
	if want := []lock.Change{{Kind: lock.OfTool, From: "v0", To: "dev"}}; !slices.Equal(said.Result.Changes, want) {
		t.Errorf("outdated says %+v, want %+v", said.Result.Changes, want)
	}
	if mustRead(t, dir+"/image.yaml.lock") != before {
		t.Error("outdated changed the lock")
	}
	if out := ok(t, dir, "lock", "image.yaml"); !strings.Contains(out, "~ tool v0 -> dev") {
		t.Errorf("lock does not say what changed:\n%s", out)
	}
	if left, _ := filepath.Glob(dir + "/out/.*"); len(left) > 0 {
		t.Errorf("failed builds left %v", left)
	}
}
