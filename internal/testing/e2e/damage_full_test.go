//go:build full

package e2e

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/initrd"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

func TestFlippedByteInModuleBootsRescue(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	writeSlot(t, card, slots.A, image.InitramfsFile, spoilModule(t))
	p := boot(t, card)
	p.expect("THIS BOOT FAILED: loading kernel modules: module ", "-squashfs.ko was changed",
		"slot b (rescue), root verified", "because: slot a: ")
}

// spoilModule returns the image's initramfs with one byte of the squashfs
// module inverted, packed as the builder packs it.
func spoilModule(t *testing.T) []byte {
	t.Helper()
	r, err := small(t).OpenUnchecked(context.Background(), image.InitramfsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dec, err := zstd.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	var files []initrd.File
	for cr := cpio.NewReader(dec); ; {
		h, err := cr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.Mode.IsRegular() {
			continue
		}
		b, err := io.ReadAll(cr)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, "-squashfs.ko") {
			b[len(b)/2] ^= 0xff
		}
		files = append(files, initrd.File{Name: h.Name, Mode: uint32(h.Mode.Perm()), Data: b})
	}
	out, err := initrd.Pack(files, time.Unix(small(t).Manifest.Epoch, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// writeSlot writes a slot of a card anew with other bytes in one file, and
// manifest and signature as they were.
func writeSlot(t *testing.T, card string, l slots.Letter, name string, other []byte) {
	t.Helper()
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := *small(t).Manifest
	m.Files = append([]image.File(nil), m.Files...)
	for i := range m.Files {
		if m.Files[i].Name == name {
			m.Files[i].Size = int64(len(other))
		}
	}
	p := partition(t, f, l.Partition())
	img := small(t).Image
	img.Manifest = &m
	sizes, err := slots.SizesOf(img)
	if err != nil {
		t.Fatal(err)
	}
	layout, err := sizes.Slot(l, p)
	if err != nil {
		t.Fatal(err)
	}
	contents := slots.Contents(img, l, func(n string) (io.ReadCloser, error) {
		if n == name {
			return io.NopCloser(bytes.NewReader(other)), nil
		}
		return small(t).OpenUnchecked(context.Background(), n)
	})
	if err := layout.Write(io.NewOffsetWriter(f, p.Start), contents); err != nil {
		t.Fatal(err)
	}
}
