package builder

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/store"
)

// damaged returns a tree of files whose contents were changed after they were kept.
func damaged(t *testing.T, names ...string) *layers.Tree {
	t.Helper()
	pool, err := store.NewPool(1, squashfs.Fast())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	f, err := os.Create(filepath.Join(t.TempDir(), "kept"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	file := pool.New(f, store.NewBudget(1<<20))
	tree := layers.NewTree(file)
	for _, name := range names {
		if err := tree.AddFile(tar.Header{Name: name, Mode: 0o644}, "package", []byte("root:x:0:0:root:/root:/bin/sh\n")); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Wait(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] ^= 0x55
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestDamagedFilesAreNotMissing: a file whose kept contents are damaged is no missing
// one. The build begins anew then, where it would make another image, or give advice
// about a package that is there.
func TestDamagedFilesAreNotMissing(t *testing.T) {
	k := &kernel{Package: "linux", Image: "boot/vmlinuz-rpi", Release: "6.12.1-0-rpi"}
	for name, c := range map[string]struct {
		file string
		read func(*layers.Tree) error
	}{
		"accounts": {"etc/passwd", func(tree *layers.Tree) error {
			_, err := readAccounts(tree)
			return err
		}},
		"kernel options": {k.configFile(), func(tree *layers.Tree) error {
			_, err := checkKernel(tree, k, nil)
			return err
		}},
		"device tree": {"boot/rpi-3.dtb", func(tree *layers.Tree) error {
			b := &bootFiles{Files: map[string][]byte{}}
			if err := tree.AddFile(tar.Header{Name: "boot/first.dtb"}, "package", nil); err != nil {
				return err
			}
			return b.addBoard(tree, k, boards.Board{Name: "rpi3", DTBs: []string{"first.dtb", "rpi-3.dtb"}})
		}},
		"firmware": {"boot/start.elf", func(tree *layers.Tree) error {
			b := &bootFiles{Files: map[string][]byte{}}
			return b.addBoard(tree, k, boards.Board{Name: "rpi3", Firmware: []string{"start.elf"}})
		}},
		"authorities": {bundleFile, func(tree *layers.Tree) error {
			if err := tree.AddFile(tar.Header{Name: "usr/local/share/ca-certificates/own.crt"}, "package", nil); err != nil {
				return err
			}
			_, err := addAuthorities(tree, nil, time.Unix(0, 0))
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.read(damaged(t, c.file)); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
		})
	}
}
