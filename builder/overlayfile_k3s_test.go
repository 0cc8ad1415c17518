package builder

import (
	"archive/tar"
	"testing"
	"time"
)

// TestLinkK3s: with a release its commands are in PATH; those of packages stay.
func TestLinkK3s(t *testing.T) {
	tree := rootWith(t)
	if err := linkK3s(tree, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if tree.Lookup("usr/bin/k3s") != nil {
		t.Error("without a release: got /usr/bin/k3s")
	}
	for _, name := range []string{"usr/lib/k3s/bin/k3s", "usr/bin/ctr"} {
		if err := tree.AddFile(tar.Header{Name: name, Mode: 0o755}, "base", []byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := linkK3s(tree, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"k3s", "kubectl", "crictl"} {
		if e := tree.Lookup("usr/bin/" + name); e == nil || e.Name != "usr/lib/k3s/bin/k3s" {
			t.Errorf("%s: got %v, want a link to /usr/lib/k3s/bin/k3s", name, e != nil)
		}
	}
	if b, err := tree.ReadFile("usr/bin/ctr", 100); err != nil || string(b) != "usr/bin/ctr" {
		t.Errorf("ctr of a package: got %q, %v", b, err)
	}
}
