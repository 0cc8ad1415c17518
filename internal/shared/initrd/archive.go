// Package initrd packs an initramfs, a cpio archive compressed with zstd, the
// same bytes for the same files; and reads a file out of one.
package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/recompress"
)

// File is one file of an initramfs.
type File struct {
	Name string // without a leading slash
	Mode uint32 // permission bits
	Data []byte
}

// Pack returns the archive of files, in the order given, with the directories
// they need before them, all owned by root and made at the time at. There are
// no device nodes: the kernel's own built-in archive brings /dev/console. The
// smallest archive takes eight times as long to make, and saves 7 %.
func Pack(files []File, at time.Time, smallest bool) ([]byte, error) {
	var raw bytes.Buffer
	w := cpio.NewWriter(&raw)
	var inode int64
	add := func(h cpio.Header, data []byte) error {
		inode++
		h.ModTime, h.Inode, h.Size = at, inode, int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			return fmt.Errorf("packing %q into the initramfs: %w", h.Name, err)
		}
		_, err := w.Write(data)
		return err
	}
	made := map[string]bool{".": true}
	var folder func(name string) error
	folder = func(name string) error {
		if made[name] {
			return nil
		}
		if err := folder(path.Dir(name)); err != nil {
			return err
		}
		made[name] = true
		return add(cpio.Header{Name: name, Mode: cpio.TypeDir | 0o755, Links: 2}, nil)
	}
	for _, f := range files {
		if err := folder(path.Dir(f.Name)); err != nil {
			return nil, err
		}
		if err := add(cpio.Header{Name: f.Name, Mode: cpio.TypeReg | cpio.FileMode(f.Mode), Links: 1}, f.Data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("packing the initramfs: %w", err)
	}
	return compress(raw.Bytes(), smallest)
}

// compress compresses with zstd as kernels read it: one frame with a checksum
// and a window of 8 MiB, which every kernel's limit allows. The smallest is not
// packed again by nodes: its encoder wants more memory than they give.
func compress(b []byte, smallest bool) ([]byte, error) {
	if smallest {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBestCompression),
			zstd.WithWindowSize(recompress.Window))
		if err != nil {
			return nil, err
		}
		defer enc.Close()
		return enc.EncodeAll(b, nil), nil
	}
	return recompress.Compress(b, recompress.Zstd)
}

// maxUnpacked bounds what is unpacked of an initramfs to find a file in it, in
// bytes. One with every module of a kernel has 200 MiB.
const maxUnpacked = 1 << 30

// ReadFile returns a file of an initramfs that Pack made, named without a
// leading slash, of at most limit bytes.
func ReadFile(packed io.Reader, name string, limit int64) ([]byte, error) {
	raw, err := recompress.NewReader(packed, recompress.Zstd, maxUnpacked)
	if err != nil {
		return nil, fmt.Errorf("reading the initramfs: %w", err)
	}
	defer raw.Close()
	for r := cpio.NewReader(raw); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("reading the initramfs: file %q not found", name)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the initramfs: %w", err)
		}
		if h.Name != name {
			continue
		}
		if h.Size > limit {
			return nil, fmt.Errorf("reading the initramfs: %q has %d bytes, want at most %d", name, h.Size, limit)
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, fmt.Errorf("reading %q in the initramfs: %w", name, err)
		}
		return b, nil
	}
}
