package sparse

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestCopy: a copy has the bytes of the file, holes included.
func TestCopy(t *testing.T) {
	for _, c := range []struct {
		name string
		size int64
		data []int64 // offsets of pages that are written
	}{
		{"empty", 0, nil},
		{"no hole", 4096, []int64{0}},
		{"hole in front", 1 << 20, []int64{1<<20 - 4096}},
		{"hole behind", 1 << 20, []int64{0}},
		{"hole between", 1 << 20, []int64{0, 1<<20 - 4096}},
		{"only a hole", 1<<20 + 5, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, to := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
			f, err := os.Create(from)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(c.size); err != nil {
				t.Fatal(err)
			}
			for i, at := range c.data {
				if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1)}, 4096), at); err != nil {
					t.Fatal(err)
				}
			}
			if err := Copy(to, from); err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(to); err != nil || !bytes.Equal(got, want) {
				t.Errorf("the copy has %d other bytes (%v)", len(got), err)
			}
		})
	}
}
