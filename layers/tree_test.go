package layers

import (
	"archive/tar"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
)

var at = time.Unix(1_700_000_000, 0)

func newTree(t *testing.T) *Tree {
	t.Helper()
	return NewTree(storetest.File(t, 1<<30))
}

func add(t *testing.T, tree *Tree, h tar.Header, body string) {
	t.Helper()
	h.Size, h.ModTime = int64(len(body)), at
	if err := tree.Add(h, "test", strings.NewReader(body)); err != nil {
		t.Fatal(err)
	}
}

// TestLinksInPathsAreFollowed: a package that ships /lib/x lands in /usr/lib
// where another made /lib a link, as unpacking on a disk would do.
func TestLinksInPathsAreFollowed(t *testing.T) {
	tree := newTree(t)
	add(t, tree, tar.Header{Typeflag: tar.TypeDir, Name: "usr/lib/", Mode: 0o755}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "usr/lib", Mode: 0o777}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/lib/rc", Linkname: "/lib/openrc", Mode: 0o777}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "lib/rc/file", Mode: 0o644}, "x")
	add(t, tree, tar.Header{Typeflag: tar.TypeDir, Name: "lib", Mode: 0o700}, "") // a directory through a link stays a link
	want := "d 0755 0:0 0 1700000000 - /usr\nd 0700 0:0 0 1700000000 - /usr/lib\n" +
		"d 0755 0:0 0 1700000000 - /usr/lib/openrc\n" +
		"f 0644 0:0 1 1700000000 2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881 /usr/lib/openrc/file\n" +
		"l 0777 0:0 0 1700000000 -> /lib/openrc /usr/lib/rc\n"
	if got := string(tree.Listing()); got != "l 0777 0:0 0 1700000000 -> usr/lib /lib\n"+want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if e := tree.Lookup("/lib/rc/file"); e == nil || e.Name != "usr/lib/openrc/file" {
		t.Errorf("Lookup through links finds %v", e)
	}
}

func TestTreeRefuses(t *testing.T) {
	tree := newTree(t)
	add(t, tree, tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, "x")
	add(t, tree, tar.Header{Typeflag: tar.TypeSymlink, Name: "loop", Linkname: "loop/x"}, "")
	for what, h := range map[string]tar.Header{
		"a file over a directory": {Typeflag: tar.TypeReg, Name: "d"},
		"a directory over a file": {Typeflag: tar.TypeDir, Name: "f"},
		"links in a circle":       {Typeflag: tar.TypeReg, Name: "loop/y"},
		"a link to nothing":       {Typeflag: tar.TypeLink, Name: "h", Linkname: "ghost"},
		"a link to a directory":   {Typeflag: tar.TypeLink, Name: "h", Linkname: "d"},
		"less than announced":     {Typeflag: tar.TypeReg, Name: "s", Size: 5},
	} {
		if err := tree.Add(h, "test", strings.NewReader("")); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestPathsStayInside: no name leads out of the tree.
func TestPathsStayInside(t *testing.T) {
	tree := newTree(t)
	add(t, tree, tar.Header{Typeflag: tar.TypeSymlink, Name: "up", Linkname: "../../../../etc"}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "up/y"}, "2")
	if tree.Lookup("etc/y") == nil {
		t.Errorf("etc/y is not where it should have landed:\n%s", tree.Listing())
	}
	for what, h := range map[string]tar.Header{
		"a file":           {Typeflag: tar.TypeReg, Name: "../../x"},
		"a file, later on": {Typeflag: tar.TypeReg, Name: "a/../../x"},
		"a hard link":      {Typeflag: tar.TypeLink, Name: "h", Linkname: "../etc/y"},
	} {
		if err := tree.Add(h, "test", strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "climbs out of the root") {
			t.Errorf("%s that climbs out: %v", what, err)
		}
	}
}

func TestDirectoryLayer(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"etc/secret": 0o600, "bin/run": 0o700} {
		os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700)
		os.WriteFile(filepath.Join(dir, name), []byte(name), mode)
	}
	os.Symlink("run", filepath.Join(dir, "bin/go"))
	f, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	before, err := f.Digest()
	if err != nil {
		t.Fatal(err)
	}
	tree := newTree(t)
	if err := applyFolder(t, tree, f, "", nil); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]int64{"etc": 0o755, "etc/secret": 0o644, "bin/run": 0o755, "bin/go": 0o755} {
		if e := tree.Lookup(name); e == nil || e.Mode != mode || e.Uid != 0 {
			t.Errorf("%s: %+v, want mode %o and root", name, e, mode)
		}
	}
	os.Chmod(filepath.Join(dir, "etc/secret"), 0o644) // what a umask changes
	if after, _ := f.Digest(); after != before {
		t.Error("permissions for others change the digest")
	}
	os.WriteFile(filepath.Join(dir, "etc/secret"), []byte("other"), 0o644)
	if after, _ := f.Digest(); after == before {
		t.Error("other contents have the same digest")
	}
}

func TestReadFileHasALimit(t *testing.T) {
	tree := newTree(t)
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "f"}, "12345")
	if b, err := tree.ReadFile("f", 5); err != nil || string(b) != "12345" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := tree.ReadFile("f", 4); err == nil {
		t.Error("five bytes pass a limit of four")
	}
	r, _ := tree.Lookup("f").Open()
	if b, _ := io.ReadAll(r); string(b) != "12345" {
		t.Errorf("opened: %q", b)
	}
}

// TestChildrenAndLinked: the names in one directory, and whether a file has others.
func TestChildrenAndLinked(t *testing.T) {
	tree := newTree(t)
	for _, name := range []string{"a/z", "a/b/c", "a/y", "ab/c"} {
		add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, "x")
	}
	add(t, tree, tar.Header{Typeflag: tar.TypeLink, Name: "ab/d", Linkname: "a/z"}, "")
	for dir, want := range map[string]string{"": "a ab", "/a/": "b y z", "a/b": "c", "a/z": "", "none": ""} {
		if got := strings.Join(tree.Children(dir), " "); got != want {
			t.Errorf("%q has %q, want %q", dir, got, want)
		}
	}
	for name, want := range map[string]bool{"a/z": true, "ab/d": true, "a/y": false, "a": false} {
		if got := tree.At(name).Linked(); got != want {
			t.Errorf("%s has other names: %v", name, got)
		}
	}
	z := tree.At("a/z")
	if !z.SameFile(z) || !z.SameFile(tree.At("ab/d")) || z.SameFile(tree.At("a/y")) || tree.At("a").SameFile(tree.At("ab")) {
		t.Error("which names are those of one file")
	}
}
