package layers

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"
	"time"
)

// listed returns how a name shows in the listing: its kind, and what it is or
// links to.
func listed(tree *Tree, name string) string {
	for line := range strings.Lines(string(tree.Listing())) {
		if rest, ok := strings.CutSuffix(line, " /"+name+"\n"); ok {
			f := strings.SplitN(rest, " ", 6)
			return f[0] + " " + f[5]
		}
	}
	return "missing"
}

func contentsOf(tree *Tree, name string) string {
	b, err := tree.ReadFile(name, 1<<20)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestHardLinksAreBoundWhenPlaced: a hard link is another name of the file
// that its target was when the link was placed, whatever happens to the
// target's name (google/go-containerregistry#2002, appc/docker2aci#98).
func TestHardLinksAreBoundWhenPlaced(t *testing.T) {
	file := func(name, body string) func(*Tree) error {
		return func(tree *Tree) error {
			h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Uid: 7, Size: int64(len(body))}
			return tree.Add(h, "test", strings.NewReader(body))
		}
	}
	link := func(kind byte, name, to string) func(*Tree) error {
		return func(tree *Tree) error {
			return tree.Add(tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o777}, "test", nil)
		}
	}
	for _, c := range []struct {
		what  string
		steps []func(*Tree) error
	}{
		{"target overwritten", []func(*Tree) error{file("a", "old"), link(tar.TypeLink, "z", "a"), file("a", "new")}},
		{"target removed", []func(*Tree) error{file("a", "old"), link(tar.TypeLink, "z", "a"),
			func(tree *Tree) error { tree.Remove("a"); return nil }}},
		{"target turned into a directory", []func(*Tree) error{file("a", "old"), link(tar.TypeLink, "z", "a"), func(tree *Tree) error {
			return tree.PlaceOver(&Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: "a", Mode: 0o755}})
		}}},
		{"target turned into a link to the link", []func(*Tree) error{file("a", "old"), link(tar.TypeLink, "z", "a"),
			link(tar.TypeSymlink, "a", "z")}},
		{"link to itself", []func(*Tree) error{file("z", "old"), link(tar.TypeLink, "z", "z")}},
		{"link to a link", []func(*Tree) error{file("a", "old"), link(tar.TypeLink, "b", "a"), link(tar.TypeLink, "z", "b")}},
		{"link before its target by name", []func(*Tree) error{file("zz", "old"), link(tar.TypeLink, "z", "zz")}},
		{"link through a symbolic link to a directory", []func(*Tree) error{file("d/a", "old"), link(tar.TypeSymlink, "e", "d"),
			link(tar.TypeLink, "z", "e/a")}},
	} {
		tree := newTree(t)
		for i, step := range c.steps {
			if err := step(tree); err != nil {
				t.Fatalf("%s: step %d: %v", c.what, i, err)
			}
		}
		e := tree.Lookup("z")
		if e == nil || contentsOf(tree, "z") != "old" || e.Mode != 0o600 || e.Uid != 7 {
			t.Errorf("%s: %q, %+v", c.what, contentsOf(tree, "z"), e)
		}
		tree.Listing() // does not recurse
	}
}

// TestHardLinksToOtherKinds: a hard link to a symbolic link or to a device is
// another name of that.
func TestHardLinksToOtherKinds(t *testing.T) {
	tree := newTree(t)
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "d/f"}, "x")
	add(t, tree, tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "d"}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeLink, Name: "s2", Linkname: "s"}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeChar, Name: "n", Devmajor: 1, Devminor: 3}, "")
	add(t, tree, tar.Header{Typeflag: tar.TypeLink, Name: "n2", Linkname: "n"}, "")
	if e := tree.Lookup("s2/f"); e == nil || e.Name != "d/f" {
		t.Errorf("through a hard link to a symbolic link: %+v", e)
	}
	if e := tree.Lookup("n2"); e == nil || e.Typeflag != tar.TypeChar || e.Devminor != 3 {
		t.Errorf("a hard link to a device: %+v", e)
	}
}

// TestListingNamesTheFirstName: of the names that one file has, the first in
// the listing is the file and the others are links to it; a name whose file
// has no other name left is a file.
func TestListingNamesTheFirstName(t *testing.T) {
	tree := newTree(t)
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "m"}, "old")
	for _, name := range []string{"z", "a"} {
		add(t, tree, tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: "m"}, "")
	}
	old := listed(tree, "a")
	if !strings.HasPrefix(old, "f ") || listed(tree, "m") != "h -> a" || listed(tree, "z") != "h -> a" {
		t.Errorf("three names:\n%s", tree.Listing())
	}
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "m"}, "new")
	tree.Remove("a")
	if listed(tree, "z") != old || listed(tree, "m") == old {
		t.Errorf("one name left:\n%s", tree.Listing())
	}
}

// TestChangeReachesAllNames: owner and mode belong to the file, not to a name.
func TestChangeReachesAllNames(t *testing.T) {
	tree := newTree(t)
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "m", Mode: 0o644}, "x")
	add(t, tree, tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "m"}, "")
	tree.Lookup("m").Change(func(h *tar.Header) { h.Gid, h.Mode = 42, 0o640 })
	for _, name := range []string{"a", "m"} {
		if e := tree.Lookup(name); e.Gid != 42 || e.Mode != 0o640 || e.Name != name {
			t.Errorf("%s: %+v", name, e.Header)
		}
	}
}

// TestControlCharactersAreRefused: apk's database and tree.txt have a line for
// each name (chainguard-dev/apko#1806, openwrt/openwrt#16794).
func TestControlCharactersAreRefused(t *testing.T) {
	for _, bad := range []string{"a\nR:evil", "a\tb", "a\rb", "a\x7f", "a\x1b[2J"} {
		for what, h := range map[string]tar.Header{
			"name":   {Typeflag: tar.TypeReg, Name: "opt/" + bad},
			"folder": {Typeflag: tar.TypeDir, Name: bad + "/x"},
			"target": {Typeflag: tar.TypeSymlink, Name: "l", Linkname: bad},
			"attribute": {Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{
				xattrPrefix + "user." + bad: "x"}},
		} {
			err := newTree(t).Add(h, "tar x", strings.NewReader(""))
			if err == nil || !strings.Contains(err.Error(), "tar x: ") || !strings.Contains(err.Error(), "control character") {
				t.Errorf("%s with %q: %v", what, bad, err)
			}
		}
	}
	tree := newTree(t)
	for _, good := range []string{"ümläut", "\xff\xfe", "a b", "日本", "a\u0085b"} {
		if err := tree.Add(tar.Header{Typeflag: tar.TypeReg, Name: good}, "tar x", strings.NewReader("")); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

// TestOwnersAndDevicesAreBounded: owners, times and device numbers are what a root can hold,
// and tree.txt says what the root says (plougher/squashfs-tools#315).
func TestOwnersAndDevicesAreBounded(t *testing.T) {
	const most = 1<<32 - 2
	for what, h := range map[string]tar.Header{
		"user":           {Uid: 1 << 32},
		"user -1":        {Uid: -1},
		"no user":        {Uid: most + 1},
		"group":          {Gid: 1 << 32},
		"major":          {Typeflag: tar.TypeChar, Devmajor: 1 << 12},
		"minor":          {Typeflag: tar.TypeBlock, Devminor: 1 << 20},
		"negative minor": {Typeflag: tar.TypeBlock, Devminor: -1},
	} {
		h.Name = "opt/f"
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		err := newTree(t).Add(h, "tar x", strings.NewReader(""))
		if err == nil || !strings.Contains(err.Error(), `tar x: "opt/f"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	tree := newTree(t)
	for name, seconds := range map[string]int64{"early": -62135596800, "late": 1 << 32, "last": 1<<32 - 1} {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: time.Unix(seconds, 0), Mode: 0o100644, Uid: most, Gid: most}
		if err := tree.Add(h, "tar x", strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
	}
	want := ""
	for _, f := range []struct {
		name string
		time int64
	}{{"early", 0}, {"last", 1<<32 - 1}, {"late", 1<<32 - 1}} {
		want += fmt.Sprintf("f 0644 %d:%d 0 %d e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 /%s\n", int64(most),
			int64(most), f.time, f.name)
	}
	if got := string(tree.Listing()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
