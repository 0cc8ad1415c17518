package cli

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// shipped is a directory with a key and two releases, which tests share and do not
// change.
var shipped struct {
	sync.Once
	dir string
}

// shippedIn returns a directory with a key, and a copy of the outputs of two
// releases: ci.key, ci.pub, one, two.
func shippedIn(t *testing.T) string {
	t.Helper()
	needsStarter(t)
	shipped.Do(func() {
		dir, err := os.MkdirTemp("", "pikelet-shipped-")
		if err != nil {
			t.Fatal(err)
		}
		newSpec(t, dir)
		warmCache(t, dir)
		t.Setenv(passwordVariable, "open sesame")
		made := func(args ...string) {
			if out, code := pikelet(t, dir, []string{passwordVariable + "=open sesame"}, args...); code != 0 {
				t.Fatalf("%v: %s", args, out)
			}
		}
		made("keygen", "-o", "ci")
		made("build", "--sign-key", "ci.key", "-o", "one", "image.yaml")
		edit(t, dir+"/image.yaml", `release: "1.0"`, `release: "1.1"`)
		made("build", "--sign-key", "ci.key", "-o", "two", "image.yaml")
		shipped.dir = dir
	})
	if shipped.dir == "" {
		t.Fatal("a test before this one failed to build what they share")
	}
	dir := t.TempDir()
	must(t, dir, "cp -r "+shipped.dir+"/ci.* "+shipped.dir+"/one "+shipped.dir+"/two .")
	return dir
}

// registry starts a real registry that ends with the test.
func startRegistry(t *testing.T, o registrytest.Options) *registrytest.Server {
	t.Helper()
	needsStarter(t)
	s, err := registrytest.Start("../../../build/tools/registry", t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

// logIn writes a configuration of Docker's that logs in at a registry.
func logIn(t *testing.T, dir, addr string) {
	t.Helper()
	auth := fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, addr, registrytest.User, registrytest.Secret)
	write(t, dir+"/.docker/config.json", auth, 0o600)
}

// TestPublishAndPull publishes to a registry with a certificate authority of its own
// and a password; publishes again, which sends nothing; and pulls in every form.
func TestPublishAndPull(t *testing.T) {
	dir := shippedIn(t)
	s := startRegistry(t, registrytest.Options{TLS: true, Password: true})
	p := startProxy(t, s)
	repo := p.addr + "/os/twin"
	ca := []string{"--ca", p.ca, "--retry-after", "10ms"}
	fails(t, dir, []string{"publish", repo, "--image", "one"}, "untrusted certificate", "hint: --ca FILE.pem")
	fails(t, dir, append([]string{"publish", repo, "--image", "one"}, ca...), "access denied", "hint: ", "docker login")
	logIn(t, dir, p.addr)
	digest := digestLine(t, ok(t, dir, append([]string{"publish", repo, "--image", "one", "--channel", "stable"}, ca...)...))
	if p.sent.Swap(0) == 0 {
		t.Error("the proxy saw nothing sent: it counts nothing")
	}
	ok(t, dir, append([]string{"publish", repo, "--image", "one"}, ca...)...)
	if n := p.sent.Load(); n != 0 {
		t.Errorf("publishing again sent %d bytes", n)
	}
	fails(t, dir, append([]string{"publish", repo + ":1.0", "--image", "one"}, ca...), "leave out the tag")

	// By a credential helper, as docker-credential-* are called.
	write(t, dir+"/.docker/config.json", fmt.Sprintf(`{"credHelpers":{%q:"test"}}`, p.addr), 0o600)
	write(t, dir+"/bin/docker-credential-test", fmt.Sprintf("#!/bin/sh\necho '{\"Username\":%q,\"Secret\":%q}'\n", registrytest.User,
		registrytest.Secret), 0o755)
	out, code := pikelet(t, dir, []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH")}, append([]string{"verify", repo + ":stable", "--key",
		"ci.pub"}, ca...)...)
	if code != 0 || !strings.Contains(out, "twin 1.0 (OCI manifest "+digest+"): signatures, manifests and every file verified") {
		t.Errorf("verify with a credential helper: %s", out)
	}
	logIn(t, dir, p.addr)

	fails(t, dir, append([]string{"pull", repo + ":1.0", "-o", "files"}, ca...),
		"you trust no key yet\nhint: name the public key that counts with --key")
	must(t, dir, "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out o.key && openssl pkey -in o.key -pubout -out o.pub && "+
		"mkdir -p .config/pikelet/keys && cp o.pub .config/pikelet/keys")
	fails(t, dir, append([]string{"pull", repo + ":1.0", "-o", "files"}, ca...), "none of the 1 keys that are trusted made it",
		"name the public key that counts with --key")
	must(t, dir, "cp ci.pub .config/pikelet/keys")
	for out, more := range map[string][]string{"files": nil, "layout": {"--as", "layout"}, "a.tar": nil, "twin.img": nil} {
		if got := digestLine(t, ok(t, dir, append(append([]string{"pull", repo + ":1.0", "-o", out}, ca...), more...)...)); got != digest {
			t.Errorf("%s has digest %s", out, got)
		}
	}
	must(t, dir, "cmp twin.img one/disk.img && diff -r layout one/artifact && for f in manifest.json signature.json config.txt "+
		"cmdline-a.txt; do cmp files/$f one/$f; done")
	if left, _ := filepath.Glob(dir + "/*partial*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	fails(t, dir, append([]string{"pull", repo + ":1.0", "-o", "files"}, ca...), "writing files: file already exists\nhint: name another")
	fails(t, dir, append([]string{"pull", repo, "-o", "x"}, ca...), "want an image in it\nhint: write ")
	fails(t, dir, append([]string{"pull", repo + ":7", "-o", "x"}, ca...), "manifests/7", "not exist")
	fails(t, dir, append([]string{"pull", repo + ":1.0", "--stream", "cabin", "-o", "x"}, ca...), `is of stream "twin"; want "cabin"`)
	for _, from := range []string{"layout", "a.tar", "twin.img", "one"} {
		ok(t, dir, "inspect", from)
		ok(t, dir, "verify", "--key", "ci.pub", from)
	}
	ok(t, dir, append([]string{"inspect", repo + ":1.0"}, ca...)...)
	mirrorAndPromote(t, dir, repo, ca)
}

// mirrorAndPromote goes on: a second release, channels, downgrades, and another
// registry under another name.
func mirrorAndPromote(t *testing.T, dir, repo string, ca []string) {
	run := func(args ...string) string { t.Helper(); return ok(t, dir, append(args, ca...)...) }
	refused := func(args []string, texts ...string) { t.Helper(); fails(t, dir, append(args, ca...), texts...) }
	run("publish", repo, "--image", "two")
	refused([]string{"pull", repo + ":stable", "--at-least", "1.1", "-o", "x"}, "is release 1.0; want 1.1 at least")
	run("promote", repo+":1.1", "stable")
	out := run("diff", repo+":1.0", repo+":stable")
	if !strings.Contains(out, "by the files that changed: ") || !strings.Contains(out, "root.squashfs") {
		t.Errorf("diff across a registry says\n%s", out)
	}
	refused([]string{"promote", repo + ":1.0", "stable"}, "channel stable is at release 1.1, and this is 1.0", "--allow-downgrade")
	refused([]string{"promote", repo + ":1.0", "stable", "--allow-downgrade"}, "[allow-downgrade sign-key]")
	t.Setenv(passwordVariable, "")
	if out, code := pikelet(t, dir, []string{passwordVariable + "=wrong"}, append([]string{"promote", repo + ":1.0", "stable",
		"--allow-downgrade", "--sign-key", "ci.key"}, ca...)...); code == 0 || !strings.Contains(out, "incorrect password") {
		t.Errorf("a wrong password: %s", out)
	}
	if out, code := pikelet(t, dir, []string{passwordVariable + "=open sesame"}, append([]string{"promote", repo + ":1.0", "stable",
		"--allow-downgrade", "--sign-key", "ci.key"}, ca...)...); code != 0 {
		t.Fatalf("a downgrade: %s", out)
	}
	run("pull", repo+":stable", "-o", "down")
	b, err := os.ReadFile(dir + "/down/" + image.SignatureFile)
	if err != nil || strings.Count(string(b), `"payload"`) != 3 { // beside the signatures in both forms
		t.Errorf("the statement did not come along (%v): %s", err, b)
	}

	// A release is what it was first published as.
	must(t, dir, "cp -r two three && cp two/manifest.json m")
	other := t.TempDir()
	newSpec(t, other)
	warmCache(t, other)
	edit(t, other+"/image.yaml", "disable_splash=1", "disable_splash=0")
	if out, code := pikelet(t, other, []string{passwordVariable + "=open sesame"}, "build", "--sign-key", dir+"/ci.key", "-o", dir+"/changed",
		"image.yaml"); code != 0 {
		t.Fatal(out)
	}
	refused([]string{"publish", repo, "--image", "changed"}, "publishing release 1.0 to", "release already published with other contents")

	// A mirror, without TLS and only because it was told to; under another name.
	m := startRegistry(t, registrytest.Options{})
	to := m.Addr + "/elsewhere/mirror/twin"
	fails(t, dir, []string{"publish", to, "--image", "one", "--retry-after", "10ms"}, "does not speak TLS\nhint: --plain-http")
	run("pull", repo+":1.0", "-o", "carried.tar")
	ok(t, dir, "publish", to, "--plain-http", "--image", "carried.tar")
	ok(t, dir, "pull", to+":1.0", "--plain-http", "--key", "ci.pub", "-o", "mirrored")
	must(t, dir, "cmp mirrored/root.squashfs down/root.squashfs && cmp mirrored/signature.json down/signature.json")
	if out := ok(t, dir, "sign", "--plain-http", "--sign-key", "o.key", to+":1.0"); strings.Count(out, "signed sha256:") != 3 {
		t.Errorf("sign says %s", out)
	}
	ok(t, dir, "verify", to+":1.0", "--plain-http", "--key", "o.pub", "--signatures-only")
	ok(t, dir, "publish", m.Addr+"/by/two", "--plain-http", "--image", "one", "--sign-key", "o.key")
	for _, key := range []string{"o.pub", "ci.pub"} {
		ok(t, dir, "verify", m.Addr+"/by/two:1.0", "--plain-http", "--key", key)
	}
	fails(t, dir, []string{"verify", "two", "--key", "o.pub"}, "none of the 1 keys that are trusted made it")
	ok(t, dir, "sign", "--sign-key", "o.key", "two/artifact")
	ok(t, dir, "verify", "two", "--key", "o.pub")
}

// TestPublishWritesRollout: once a release is published, the Rollouts of a file name
// it by tag and by the digest that nodes report, and nothing else of the file
// changes. Where that cannot be done, nothing is published.
func TestPublishWritesRollout(t *testing.T) {
	dir := shippedIn(t)
	s := startRegistry(t, registrytest.Options{})
	repo := s.Addr + "/os/twin"
	publish := func(image string) []string {
		return []string{"--json", "publish", repo, "--plain-http", "--from", "0", "--image", image, "--channel", "stable",
			"--rollout", "link.yaml"}
	}
	const other = "apiVersion: pikelet.dev/v1alpha1\nkind: Rollout\nspec: {image: registry.example/x:1} # another\n"
	write(t, dir+"/link.yaml", other, 0o644)
	fails(t, dir, publish("one"), "no Rollout of the repository "+repo)
	fails(t, dir, []string{"pull", repo + ":1.0", "--plain-http", "--key", "ci.pub", "-o", "x"}, "not exist")

	file := strings.Replace(other, "registry.example/x:1", "'"+repo+"'", 1) + "---\n" + other
	write(t, dir+"/git/rollout.yaml", file, 0o640)
	must(t, dir, "rm link.yaml && ln -s git/rollout.yaml link.yaml")
	for _, c := range [][2]string{{"one", "1.0"}, {"two", "1.1"}} {
		image, release := c[0], c[1]
		for _, wanted := range []string{"link.yaml", ""} { // the second time there is nothing to change
			var said struct {
				Result struct{ Digest, Rollout, Channel string }
			}
			out := ok(t, dir, publish(image)...)
			_, result, _ := strings.Cut(out, `{"result"`)
			if err := json.Unmarshal([]byte(`{"result"`+result), &said); err != nil {
				t.Fatalf("%v in\n%s", err, out)
			}
			if said.Result.Rollout != wanted {
				t.Errorf("publishing %s says that the file %q is changed, want %q\n%s", image, said.Result.Rollout, wanted, out)
			}
			if got := ok(t, dir, "verify", "--key", "ci.pub", image); !strings.Contains(got, "(OCI manifest "+said.Result.Digest+")") {
				t.Errorf("the digest is %s, and the image's manifest is another one: %s", said.Result.Digest, got)
			}
			if tag := tagDigest(t, s.Addr, "os/twin", release); tag == said.Result.Digest || tag != tagDigest(t, s.Addr, "os/twin", "stable") {
				t.Errorf("the tag has digest %s, want that of an index, and the channel's: examples/gitops says so", tag)
			}
			want := strings.Replace(file, "'"+repo+"'", "'"+repo+":"+release+"@"+said.Result.Digest+"'", 1)
			if got := mustRead(t, dir+"/git/rollout.yaml"); got != want {
				t.Errorf("after %s the file is\n%s\nwant\n%s", image, got, want)
			}
		}
	}
	st, err := os.Lstat(dir + "/link.yaml")
	if err != nil || st.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v (%v)", st, err)
	}
}

// tagDigest asks a registry for the digest of a tag, as Renovate does.
func tagDigest(t *testing.T, addr, repository, tag string) string {
	t.Helper()
	req, err := http.NewRequest(http.MethodHead, "http://"+addr+"/v2/"+repository+"/manifests/"+tag, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", image.MediaOCIIndex+", "+image.MediaOCIManifest)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	digest := resp.Header.Get("Docker-Content-Digest")
	if digest == "" {
		t.Fatalf("%s: no digest in %v", resp.Status, resp.Header)
	}
	return digest
}

// rootBlob returns the file of the root in a build's output.
func rootBlob(t *testing.T, out string) string {
	t.Helper()
	var m image.Manifest
	if err := json.Unmarshal([]byte(mustRead(t, out+"/manifest.json")), &m); err != nil {
		t.Fatal(err)
	}
	return out + "/artifact/blobs/sha256/" + digest(&m, image.RootFile)
}

// TestRegistryMistakes: what people get wrong.
func TestRegistryMistakes(t *testing.T) {
	dir := shippedIn(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	write(t, dir+"/no.pem", "hello", 0o644)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"publish", "nowhere"}, "is not a registry's reference"},
		{[]string{"publish", closed + "/x", "--image", "nothing"}, "opening nothing: file does not exist"},
		{[]string{"publish", closed + "/x", "--image", "one", "--retry-after", "1ms"}, "connection refused"},
		{[]string{"publish", closed + "/UPPER", "--image", "one"}, "reading the reference"},
		{[]string{"publish", closed + "/x", "--image", "one", "--ca", "no.pem"}, "holds no PEM certificate"},
		{[]string{"publish", closed + "/x", "--image", "one", "--sign-key", "ci.pub"}, "got a public key, want a private key"},
		{[]string{"publish", "one/artifact"}, "is not a registry's reference"},
		{[]string{"pull", "one", "--as", "cake"}, "want files, layout, archive or disk"},
		{[]string{"sign", "one"}, `required flag(s) "sign-key" not set`},
		{[]string{"keygen", "-o", "ci"}, "ci.key: file already exists"},
		{[]string{"verify", "ci.pub"}, "not a card and not a disk image"},
		{[]string{"verify", "one", "--key", "ci.key"}, "reading the public key ci.key"},
	} {
		out, code := pikelet(t, dir, []string{passwordVariable + "=open sesame"}, c.args...)
		if code == 0 || !strings.Contains(out, c.want) {
			t.Errorf("%v: exit %d, no %q in\n%s", c.args, code, c.want, out)
		}
	}
}
