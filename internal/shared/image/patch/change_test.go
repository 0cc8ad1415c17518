package patch

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// TestSizeOfAChange: a change that makes more or less than it says is damaged.
func TestSizeOfAChange(t *testing.T) {
	text := bytes.Repeat([]byte("what the file holds; "), 100)
	data, err := encodeWhole(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{-1, 0, 1} {
		var out bytes.Buffer
		c := change{How: whole, Size: int64(len(text)) + off}
		err := c.decode(&out, io.NewSectionReader(bytes.NewReader(data), 0, int64(len(data))), nil, 0)
		if (err == nil) != (off == 0) || err != nil && !errors.Is(err, ErrDamaged) || int64(out.Len()) > c.Size {
			t.Errorf("%+d bytes: %d were written, %v", off, out.Len(), err)
		}
	}
}

// TestOldFileChanged: a file that another is made of is what its manifest says,
// before anything is made of it.
func TestOldFileChanged(t *testing.T) {
	old, new, files, _ := pair(t, squashfs.Fast())
	b, _ := made(t, old, new)
	found := 0
	for name := range files {
		if name == image.RootFile || found > 0 {
			continue
		}
		files[name][len(files[name])/2] ^= 4
		if err := try(t, b, old, new.Manifest); errors.Is(err, image.ErrDigestMismatch) {
			found++
		}
		files[name][len(files[name])/2] ^= 4
	}
	if found == 0 {
		t.Error("no changed file was found before it was used")
	}
}
