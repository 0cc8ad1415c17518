package cache

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var start = time.Unix(1_700_000_000, 0)

func put(t *testing.T, c *Cache, kind, key, text string) {
	t.Helper()
	d, err := c.Create(kind)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Drop()
	io.WriteString(d, text)
	if err := d.Keep(key); err != nil {
		t.Fatal(err)
	}
}

func has(c *Cache, kind, key string) bool {
	f, err := c.Open(kind, key)
	if err == nil {
		f.Close()
	}
	return !errors.Is(err, fs.ErrNotExist)
}

func TestPruneKeepsWhatWasUsed(t *testing.T) {
	c := &Cache{Dir: t.TempDir(), Now: start}
	put(t, c, Packages, "old", "0123456789")
	c.Now = start.Add(time.Hour)
	put(t, c, Made, "newer", "0123456789")
	c.Now = start.Add(2 * time.Hour)
	put(t, c, Made, "newest", "0123456789")
	c.Now = start.Add(3 * time.Hour)
	if !has(c, Packages, "old") { // uses it
		t.Fatal("what was kept is not there")
	}
	if err := os.WriteFile(filepath.Join(c.Dir, Made, draft+"1"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := c.Prune(20)
	if err != nil || p.Freed != 14 || p.Left != 20 {
		t.Fatalf("%+v, %v; want 14 bytes freed and 20 left", p, err)
	}
	if !has(c, Packages, "old") || has(c, Made, "newer") || !has(c, Made, "newest") {
		t.Error("not the one that was unused for longest is gone")
	}
	if p, err := c.Prune(0); err != nil || p.Left != 0 {
		t.Errorf("%+v, %v; want nothing left", p, err)
	}
}

func TestPruneOfABusyCache(t *testing.T) {
	c := &Cache{Dir: t.TempDir(), Now: start}
	put(t, c, Made, "x", "0123456789")
	first, second := c.Hold(), c.Hold() // two builds at once
	first()
	if _, err := c.Prune(0); !errors.Is(err, ErrBusy) || !has(c, Made, "x") {
		t.Errorf("pruning while a build runs: %v", err)
	}
	second()
	if _, err := c.Prune(0); err != nil || has(c, Made, "x") {
		t.Errorf("pruning afterwards: %v", err)
	}
}

func TestPruneOfAnEmptyCache(t *testing.T) {
	c := &Cache{Dir: filepath.Join(t.TempDir(), "none"), Now: start}
	if p, err := c.Prune(0); err != nil || p != (Pruned{}) {
		t.Errorf("%+v, %v", p, err)
	}
}
