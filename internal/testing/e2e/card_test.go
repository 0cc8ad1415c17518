package e2e

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// newCard returns a test's own copy of the small image.
func newCard(t *testing.T) string {
	t.Helper()
	return cardOf(t, small(t))
}

// cardOf returns a test's own copy of an image.
func cardOf(t *testing.T, r *builder.Result) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := vm.CopySparse(r.Disk, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// offset returns where a file of a slot begins on a card, in bytes.
func offset(t *testing.T, card string, l slots.Letter, name string) int64 {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := partition(t, f, l.Partition())
	v, err := fat.Open(io.NewSectionReader(f, p.Start, p.Size))
	if err != nil {
		t.Fatal(err)
	}
	_, runs, err := v.Extents(name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return p.Start + runs[0].Offset
}

func partition(t *testing.T, r io.ReaderAt, n int) disk.Partition {
	t.Helper()
	table, err := disk.ReadTable(r)
	if err != nil {
		t.Fatal(err)
	}
	p, err := table.Partition(n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// partitionOf returns a partition of a card.
func partitionOf(t *testing.T, card string, n int) disk.Partition {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return partition(t, f, n)
}

// flip inverts one byte of a card.
func flip(t *testing.T, card string, at int64) {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	overwrite(t, card, at, b)
}

// overwrite writes bytes on a card.
func overwrite(t *testing.T, card string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// openOn opens a file of a partition.
func openOn(t *testing.T, r io.ReaderAt, n int, name string) io.Reader {
	t.Helper()
	p := partition(t, r, n)
	v, err := fat.Open(io.NewSectionReader(r, p.Start, p.Size))
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := v.OpenFile(name, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// controlFile reads a file of a card's control partition.
func controlFile(t *testing.T, card, name string) string {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(openOn(t, f, 1, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// partitionTable returns the partitions of a card.
func partitionTable(t *testing.T, card string) disk.Table {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// control returns where a file of the control partition lies on a card.
func control(t *testing.T, card, name string) int64 {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	at, _, err := slots.ControlFile(f, table, name)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// readCard returns size bytes of a card.
func readCard(t *testing.T, card string, at, size int64) []byte {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

// enlarge makes a card larger than the image, as real ones are.
func enlarge(t *testing.T, card string, mib int64) {
	t.Helper()
	if err := os.Truncate(card, mib<<20); err != nil {
		t.Fatal(err)
	}
}

// openFile opens a card for reading, until the test ends.
func openFile(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// recordOn returns what a card's record says of an upgrade.
func recordOn(t *testing.T, card string) *slots.Update {
	t.Helper()
	return slots.ReadCard(openFile(t, card)).Update
}
