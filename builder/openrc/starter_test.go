package openrc

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/startertest"
	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
)

// starterPackages have the scripts that images of the starter repository start.
var starterPackages = []string{"openrc", "busybox", "busybox-openrc", "busybox-mdev-openrc", "chrony-openrc", "containerd-openrc",
	"dropbear-openrc", "open-iscsi-openrc", "wpa_supplicant-openrc", "libeinfo1", "librc1t64", "libc6", "libcap2", "libcrypt1", "libselinux1",
	"libpcre2-8-0", "libpam0g", "libaudit1", "libcap-ng0", "libbsd0", "libmd0"}

// starterTree is a tree with these packages, and the scripts of Pikelet's overlays.
func starterTree(t *testing.T) *layers.Tree {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs the starter repository")
	}
	tree := layers.NewTree(storetest.File(t, 1<<28))
	for _, pkg := range starterPackages {
		startertest.Members(t, startertest.Package(t, pkg), func(h *tar.Header, r io.Reader) {
			if strings.HasPrefix(h.Name, ".") {
				return
			}
			one := tar.Header{Typeflag: h.Typeflag, Name: strings.TrimSuffix(h.Name, "/"), Linkname: h.Linkname, Mode: h.Mode, Size: h.Size}
			if err := tree.Add(one, pkg, r); err != nil {
				t.Fatal(err)
			}
		})
	}
	scripts, err := filepath.Glob("../../overlays/*/files/etc/init.d/*")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("the overlays have no scripts: %v", err)
	}
	for _, name := range scripts {
		if strings.HasSuffix(name, ".tmpl") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		put(t, tree, "etc/init.d/"+filepath.Base(name), 0o755, string(b))
	}
	return tree
}

func put(t *testing.T, tree *layers.Tree, name string, mode int64, text string) {
	t.Helper()
	if err := tree.AddFile(tar.Header{Name: name, Mode: mode}, "test", []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// texts are what a result would have gendepends.sh print.
func texts(r *Result) string {
	var b strings.Builder
	for _, s := range r.record.Services {
		b.WriteString(s.Text)
	}
	return b.String()
}
