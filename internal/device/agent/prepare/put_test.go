package prepare

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/etc"
)

// TestPutKeepsUnchangedFiles: a file that is there with contents, mode and owner
// keeps its times; one that differs in any of them is written.
func TestPutKeepsUnchangedFiles(t *testing.T) {
	uid := os.Getuid()
	if gid := os.Getgid(); gid != uid {
		t.Fatalf("uid %d and gid %d differ: files of a node have the same number twice", uid, gid)
	}
	dir := t.TempDir()
	old := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	name := filepath.Join(dir, "a")
	for what, c := range map[string]struct {
		f     etc.File
		write bool
	}{
		"the same":       {etc.File{Content: "x\n"}, false},
		"the same mode":  {etc.File{Content: "x\n", Mode: 0o644}, false},
		"other contents": {etc.File{Content: "y\n"}, true},
		"other mode":     {etc.File{Content: "x\n", Mode: 0o600}, true},
		"a link":         {etc.File{Link: "b"}, true},
	} {
		os.Remove(name)
		if err := os.WriteFile(name, []byte("x\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
		c.f.Path, c.f.UID = name, uid
		if err := put(c.f); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		i, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if wrote := !i.ModTime().Equal(old); wrote != c.write {
			t.Errorf("%s: written: %v, want %v", what, wrote, c.write)
		}
		if to, _ := os.Readlink(name); to != c.f.Link {
			t.Errorf("%s: it links to %q, want %q", what, to, c.f.Link)
		}
		if want := c.f.Mode; c.f.Link == "" && want != 0 && i.Mode() != want {
			t.Errorf("%s: mode %v, want %v", what, i.Mode(), want)
		}
	}
	f := etc.File{Path: filepath.Join(dir, "d"), Mode: fs.ModeDir | 0o700, UID: uid}
	for range 2 { // made, then the same
		if err := put(f); err != nil {
			t.Fatal(err)
		}
		if i, err := os.Stat(f.Path); err != nil || i.Mode() != f.Mode {
			t.Fatalf("the directory is %v, %v", i, err)
		}
		os.Chtimes(f.Path, old, old)
	}
}
