package builder

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/layers"
)

// put adds a file, a directory (a name that ends in /), a symbolic link (name->to)
// or a hard link (name=>to) to a tree.
func put(t testing.TB, tree *layers.Tree, source string, names ...string) {
	t.Helper()
	for _, name := range names {
		h, body := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(name))}, name
		if from, to, is := strings.Cut(name, "->"); is {
			h, body = tar.Header{Typeflag: tar.TypeSymlink, Name: from, Linkname: to, Mode: 0o777}, ""
		} else if from, to, is := strings.Cut(name, "=>"); is {
			h, body = tar.Header{Typeflag: tar.TypeLink, Name: from, Linkname: to}, ""
		} else if strings.HasSuffix(name, "/") {
			h, body = tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""
		}
		if err := tree.Add(h, source, strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHardLinksOfTheRoot: names below /boot are not in the root, and a file
// that has another name there is in the root all the same.
func TestHardLinksOfTheRoot(t *testing.T) {
	tree := layers.NewTree(newContents(t).spool)
	put(t, tree, "test", "boot/image", "usr/image=>boot/image", "usr/z=>boot/image", "usr/other", "boot/other=>usr/other")
	var got []string
	for _, e := range rootEntries(tree) {
		if e.Typeflag == tar.TypeDir {
			continue
		}
		got = append(got, fmt.Sprintf("%s %c %s %t", e.Name, e.Typeflag, e.Linkname, e.Packed != nil))
	}
	want := []string{"usr/image 0  true", "usr/other 0  true", "usr/z 1 usr/image false"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if b, err := tree.ReadFile("boot/other", 1<<10); err != nil || string(b) != "usr/other" {
		t.Errorf("/boot/other is %q, %v", b, err)
	}
}

// TestDatabaseOfHardLinks: every name of a file has the file's checksum.
func TestDatabaseOfHardLinks(t *testing.T) {
	tree := layers.NewTree(newContents(t).spool)
	put(t, tree, "test", "a", "z=>a", "a=>z")
	sums := map[string]bool{}
	for _, name := range []string{"a", "z"} {
		sum, err := sha1Of(tree.Lookup(name))
		if err != nil {
			t.Fatal(err)
		}
		sums[sum] = true
	}
	if len(sums) != 1 || !sums["86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"] {
		t.Errorf("checksums %v", sums)
	}
}
