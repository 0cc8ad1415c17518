package overlays

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// directory writes an overlay: name to text.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mine")
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const full = `description: everything
packages: [nfs-utils]
services: {default: [nfs]}
modules: [nfs, nfsd]
sysctls: {vm.swappiness: "10", fs.file-max: "9"}
kernel: [NFS_FS]
parameters:
  server: {description: "the server's address", pattern: '[a-z.]+'}
  path: {description: the export, default: /srv}
`

func TestDirectoryOverlay(t *testing.T) {
	dir := folder(t, map[string]string{"overlay.yaml": full, "files/etc/nfs.conf.tmpl": "{{.server}}:{{.path}}\n",
		"files/etc/raw":           "{{.server}}",
		"manifests/nfs.yaml.tmpl": "server: {{.server}}\n"})
	o, err := Find("./mine", dir, map[string]string{"server": "nas.lan"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"etc/nfs.conf": "nas.lan:/srv\n", "etc/raw": "{{.server}}", "etc/modules-load.d/mine.conf": "nfs\nnfsd\n",
		"etc/sysctl.d/mine.conf": "fs.file-max = 9\nvm.swappiness = 10\n", "usr/lib/pikelet/manifests/mine-nfs.yaml": "server: nas.lan\n"}
	got := o.Tree()
	for name, text := range want {
		if string(got[name]) != text {
			t.Errorf("%s is %q, want %q", name, got[name], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files, want %d: %v", len(got), len(want), slices.Sorted(maps.Keys(got)))
	}
	other, err := Find("./mine", dir, map[string]string{"server": "nas.wan"})
	if err != nil || other.Digest() == o.Digest() {
		t.Errorf("told something else, it has the same digest (%v)", err)
	}
}

func TestOverlayMistakes(t *testing.T) {
	for what, c := range map[string]struct {
		yaml string
		with map[string]string
		want string
	}{
		"required":          {full, nil, "with.server: missing: the server's address"},
		"does not fit":      {full, map[string]string{"server": "NAS"}, `with.server: "NAS" does not fit: the server's address ([a-z.]+)`},
		"more than matches": {full, map[string]string{"server": "nas\nx"}, "does not fit"},
		"unknown":           {full, map[string]string{"server": "a", "port": "1"}, "with.port: it has no such parameter; it has: path, server"},
		"unknown field":     {"packges: [a]\n", nil, "field packges not found"},
		"bad pattern":       {"parameters: {x: {default: a, pattern: '('}}\n", nil, "parameters.x.pattern"},
	} {
		_, err := Find("mine", folder(t, map[string]string{"overlay.yaml": c.yaml}), c.with)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	if _, err := Find("mine", folder(t, map[string]string{"overlay.yaml": "{}", "files/x.tmpl": "{{.ghost}}"}), nil); err == nil ||
		!strings.Contains(err.Error(), "ghost") {
		t.Errorf("a template over an unknown parameter: %v", err)
	}
	if _, err := Find("mine", folder(t, map[string]string{"files/x": ""}), nil); err == nil || !strings.Contains(err.Error(), "overlay.yaml") {
		t.Errorf("no overlay.yaml: %v", err)
	}
}

func TestClash(t *testing.T) {
	a := Overlay{Name: "a", Files: map[string][]byte{"etc/x": []byte("1"), "etc/same": []byte("s")},
		Sysctls: map[string]string{"k": "1"}, Services: map[string][]string{"boot": {"s"}}, Modules: []string{"m"}}
	b := Overlay{Name: "b", Files: map[string][]byte{"etc/x": []byte("2"), "etc/same": []byte("s")},
		Sysctls: map[string]string{"k": "2"}, Services: map[string][]string{"default": {"s"}}, Modules: []string{"m"}}
	want := "the overlays a and b clash: both have the file /etc/x\nthe overlays a and b clash: both have the sysctl k\nthe " +
		"overlays a and b clash: both have the service s"
	if err := Clash([]Overlay{a, b}); err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
	b.Files, b.Sysctls, b.Services = nil, a.Sysctls, a.Services
	if err := Clash([]Overlay{a, b}); err != nil {
		t.Errorf("overlays that agree: %v", err)
	}
}

// TestEmbedded: what is shipped loads, and ssh refuses passwords.
func TestEmbedded(t *testing.T) {
	if got := strings.Join(Names(), " "); got != "backup base chrony iscsi k3s luks metallb rollout seed-node ssh wifi" {
		t.Errorf("embedded: %s", got)
	}
	if _, err := Base(); err != nil {
		t.Error(err)
	}
	o, err := Find("ssh", "", map[string]string{"keys": "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two"})
	if err != nil {
		t.Fatal(err)
	}
	if got := string(o.Files["root/.ssh/authorized_keys"]); got != "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n" {
		t.Errorf("authorized_keys: %q", got)
	}
	got := string(o.Files["etc/init.d/pikelet-ssh"])
	if !strings.Contains(got, "-s -g -p 22") || strings.Contains(got, "-R") {
		t.Errorf("the service lets passwords in, or makes keys: %q", got)
	}
	for _, keys := range []string{"hunter2", "ssh-ed25519 A\ncommand"} {
		if _, err := Find("ssh", "", map[string]string{"keys": keys}); err == nil {
			t.Errorf("%q passes for keys", keys)
		}
	}
}

// TestMetalLB: the overlay names chart, version and digest, fills in the
// pools, and lists its images for the store that needs no registry.
func TestMetalLB(t *testing.T) {
	digest := strings.Repeat("a", 64)
	with := map[string]string{"chart": "https://charts.example/metallb-0.1.2.tgz", "version": "0.1.2", "sha256": digest,
		"pools":      "10.0.0.1-10.0.0.9, 10.1.0.0/24",
		"controller": "registry.example/controller@sha256:" + digest}
	o, err := Find("metallb", "", with)
	if err != nil {
		t.Fatal(err)
	}
	tree := o.Tree()
	if got := string(tree["usr/share/k3s/images/metallb.txt"]); got != with["controller"]+"\n" {
		t.Errorf("images: %q", got)
	}
	if len(o.Fetch) != 1 || o.Fetch[0].URL != with["chart"] || o.Fetch[0].SHA256 != digest ||
		o.Fetch[0].To != "usr/share/k3s/charts/metallb-0.1.2.tgz" {
		t.Errorf("fetch: %+v", o.Fetch)
	}
	chart, pools := string(tree[ManifestsFolder+"metallb-metallb.yaml"]), string(tree[ManifestsFolder+"metallb-metallb-pools.yaml"])
	for text, in := range map[string]string{"kind: HelmChart": chart, "version: 0.1.2": chart,
		"/static/charts/metallb-0.1.2.tgz": chart, "chart-sha256: " + digest: chart,
		"    - 10.0.0.1-10.0.0.9\n    - 10.1.0.0/24\n": pools} {
		if !strings.Contains(in, text) {
			t.Errorf("no %q in\n%s", text, in)
		}
	}
	other := map[string]string{}
	for k, v := range with {
		other[k] = v
	}
	other["chart"] = "https://elsewhere.example/metallb.tgz"
	if again, err := Find("metallb", "", other); err != nil || again.Digest() != o.Digest() {
		t.Errorf("another address of the same chart is another overlay (%v)", err)
	}
	other["sha256"] = strings.Repeat("b", 64)
	if again, err := Find("metallb", "", other); err != nil || again.Digest() == o.Digest() {
		t.Errorf("another chart is the same overlay (%v)", err)
	}
	other["controller"] = "registry.example/controller:latest"
	if _, err := Find("metallb", "", other); err == nil || !strings.Contains(err.Error(), "want a reference with its digest") {
		t.Errorf("an image by its tag: %v", err)
	}
}

// TestDigestForms: a digest is taken as PowerShell and GitHub write
// it, and the overlay is the same.
func TestDigestForms(t *testing.T) {
	const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	var first string
	for _, d := range []string{digest, strings.ToUpper(digest), "sha256:" + digest, "SHA256:" + strings.ToUpper(digest)} {
		for name, with := range map[string]map[string]string{"k3s": {"release": "https://k3s.example/k3s-arm64", "sha256": d},
			"seed-node": {"release": "https://pikelet.example/x.tar", "sha256": d, "image": "registry.example/homelab:stable"}} {
			o, err := Find(name, "", with)
			if err != nil {
				t.Errorf("%s with %s: %v", name, d, err)
				continue
			}
			if o.Fetch[0].SHA256 != digest {
				t.Errorf("%s with %s: the digest is %s", name, d, o.Fetch[0].SHA256)
			}
			if name == "k3s" && first == "" {
				first = o.Digest()
			}
			if name == "k3s" && o.Digest() != first {
				t.Errorf("with %s the overlay is another one", d)
			}
		}
	}
	if _, err := Find("k3s", "", map[string]string{"release": "https://k3s.example/k3s-arm64", "sha256": digest[1:]}); err == nil {
		t.Error("63 digits are taken")
	}
}

// TestReleaseOfK3s: a version in place of the address of a release is refused.
func TestReleaseOfK3s(t *testing.T) {
	for release, good := range map[string]bool{"": true, "https://k3s.example/v1.33.5/k3s-arm64": true, "k3s-arm64": true,
		"v1.33.5/k3s-arm64": true, "vendor/k3s": true,
		"v1.33.5+k3s1": false, "v1.33.5": false} {
		with := map[string]string{"release": release, "sha256": strings.Repeat("a", 64)}
		if _, err := Find("k3s", "", with); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "not its version") {
			t.Errorf("release %q: %v", release, err)
		}
	}
}

// TestPlacesOfFetchedFiles: a file that is fetched goes below the root.
func TestPlacesOfFetchedFiles(t *testing.T) {
	for to, good := range map[string]bool{"srv/x": true, "srv/": true, "../x": false, "srv/../../x": false, "/x": false, ".": false,
		"''": false, "a/./b": false} {
		dir := folder(t, map[string]string{"overlay.yaml": "description: x\nfetch: [{url: x, sha256: " + strings.Repeat("a", 64) +
			", to: " + to + "}]\n"})
		if _, err := Find("./mine", dir, nil); (err == nil) != good {
			t.Errorf("to: %s: %v", to, err)
		}
	}
}

// TestPortsOfSSH: a port has 16 bits.
func TestPortsOfSSH(t *testing.T) {
	for port, good := range map[string]bool{"1": true, "22": true, "9999": true, "65535": true, "59999": true, "65536": false,
		"99999": false, "0": false, "70000": false} {
		if _, err := Find("ssh", "", map[string]string{"port": port}); (err == nil) != good {
			t.Errorf("port %s: %v", port, err)
		}
	}
}
