package builder

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/overlays"
)

// documented returns a plan and its packages with one input of each kind. dir is a
// directory of this computer that paths are below.
func documented(t *testing.T, dir string) (*Plan, *assembly, Inputs) {
	t.Helper()
	const alpine, own = "alpine-devel@lists.alpinelinux.org-616ae350.rsa.pub", "own.rsa.pub"
	text := "name: homelab\nrelease: \"1.2\"\nrepositories: [{url: r, keys: [k]}]\npackages: [busybox]\n"
	img, err := spec.Parse(filepath.Join(dir, "image.yaml"), []byte(text))
	if err == nil || !strings.Contains(err.Error(), "no file k") { // which nothing here reads
		t.Fatal(err)
	}
	sum := strings.Repeat("0123456789abcdef", 4)
	p := &Plan{
		Image: img, BuildID: "ab", Epoch: 1_790_000_000, Keys: []string{"a public key"},
		Programs: deviceprogs.Programs{Init: []byte("init"), Agent: []byte("agent")},
		Layers: []Layer{
			{Layer: lock.Layer{Kind: "folder", Name: "files", Digest: "sha256:" + sum}},
			{Layer: lock.Layer{Kind: "tar", Name: filepath.Join(dir, "more.tar"), Digest: "sha256:" + sum}},
			{Layer: lock.Layer{Kind: "oci", Name: "http://registry.example/team/tools:1", Digest: "sha256:" + sum}},
			{Layer: lock.Layer{Kind: "oci", Name: "oci:" + filepath.Join(dir, "layout"), Digest: "sha256:" + sum}},
		},
		Overlays: []overlays.Overlay{{Name: "base", Embedded: true}, {Name: filepath.Join(dir, "mine"), Fetch: []overlays.Fetch{
			{URL: "https://github.com/k3s-io/k3s/releases/download/v1.34.3%2Bk3s1/k3s-arm64", SHA256: sum},
			{URL: filepath.Join(dir, "tool.tgz"), SHA256: sum},
		}}},
	}
	a := &assembly{sums: map[string]string{}}
	for _, c := range []struct {
		pkg  apk.Package
		keys []string
		url  string
	}{
		{apk.Package{Name: "busybox", Version: "1.37.0-r12", License: "GPL-2.0-only", Origin: "busybox", URL: "https://busybox.net/",
			Commit: "cafe"}, []string{alpine}, "https://example.org/v3.23/main/aarch64/busybox-1.37.0-r12.apk"},
		{apk.Package{Name: "mixed", Version: "1-r0", License: "custom", URL: "javascript:alert(1)"}, []string{alpine, own},
			dir + "/mixed-1-r0.apk"},
		{apk.Package{Name: "own", Version: "2-r0"}, []string{own}, dir + "/own-2-r0.apk"},
		{apk.Package{Name: "unsigned", Version: "3-r0"}, nil, dir + "/unsigned-3-r0.apk"},
	} {
		pkg := c.pkg
		pkg.Arch, pkg.Identity = "aarch64", "Q1AAECAwQFBgcICQoLDA0ODxAREhM="
		keys := apk.Keyring{}
		for _, k := range c.keys {
			keys[k] = nil
		}
		p.Packages = append(p.Packages, Package{Package: &pkg, keys: keys, url: c.url})
		a.Packages = append(a.Packages, &apk.Installed{Package: &pkg})
		a.sums[pkg.Name] = sum
	}
	return p, a, Inputs{Tool: "v1.0.0", Lock: &lock.File{}, LockText: []byte("a lock")}
}

// TestDocuments pins what a bill of materials and a provenance say of each kind of
// input. Only packages that Alpine's keys alone can have signed are Alpine's; no path
// of this computer is told, so that a build in another directory says the same.
func TestDocuments(t *testing.T) {
	digest := image.DigestOf([]byte("an image"))
	write := func(dir string) (bill, provenance []byte) {
		p, a, in := documented(t, dir)
		bill, err := billOfMaterials(p, a, digest, in.Tool)
		if err != nil {
			t.Fatal(err)
		}
		if provenance, err = provenanceOf(p, a, in); err != nil {
			t.Fatal(err)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, provenance, "", " "); err != nil {
			t.Fatal(err)
		}
		return bill, append(indented.Bytes(), '\n')
	}
	bill, said := write("/home/somebody/image")
	if bill2, said2 := write("/srv"); !bytes.Equal(bill, bill2) || !bytes.Equal(said, said2) {
		t.Errorf("in another directory:\n%s%s", cmp.Diff(string(bill), string(bill2)), cmp.Diff(string(said), string(said2)))
	}
	for name, got := range map[string][]byte{"documents.spdx.json": bill, "documents.provenance.json": said} {
		file := filepath.Join("testdata", name)
		if *update {
			if err := os.WriteFile(file, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
		if strings.Contains(string(got), "somebody") {
			t.Errorf("%s tells a path", file)
		}
	}
	if n := bytes.Count(bill, []byte("pkg:apk/alpine/")); n != 1 {
		t.Errorf("%d packages are called Alpine's, want 1", n)
	}
}
