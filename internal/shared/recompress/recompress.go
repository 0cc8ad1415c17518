// Package recompress compresses kernels and initramfs so that nodes can do it
// again: the same bytes for the same contents, on every machine, however they
// come.
package recompress

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Generation is a number that changes whenever this package, or the encoders
// pinned in go.mod, would write other bytes for the same contents. It is part
// of patches.
const Generation = 1

// Form is how something is packed.
type Form string

// The forms.
const (
	Gzip      Form = "gzip"       // kernels: the firmware unpacks nothing else (docs/platform.md 1.3)
	GzipSmall Form = "gzip-small" // the same, as small as it gets
	Zstd      Form = "zstd"       // initramfs: one frame with a checksum
)

// Forms are those that nodes pack.
var Forms = []Form{Gzip, GzipSmall, Zstd}

// Window is the window of Zstd, bytes: every kernel's limit allows that (kernel
// 6.12, lib/decompress_unzstd.c and lib/zstd: ZSTD_WINDOWLOG_MAX is 27).
const Window = 8 << 20

// piece is how much encoders are handed at once, so that it does not matter how
// it came.
const piece = 64 << 10

// gzipLevel makes Debian's kernel for arm64 smaller than Debian does (14.21 of
// 14.29 MB), in 0.8 s; level 9 takes 3 s for 0.1 % less.
const gzipLevel = 8

type writer struct {
	*bufio.Writer
	to io.WriteCloser
}

// Close ends what was packed. What it was written to stays open.
func (w *writer) Close() error {
	if err := w.Flush(); err != nil {
		return err
	}
	return w.to.Close()
}

// Compress returns b compressed.
func Compress(b []byte, f Form) ([]byte, error) {
	var out bytes.Buffer
	w, err := NewWriter(&out, f)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// NewWriter returns a writer that compresses into w.
func NewWriter(w io.Writer, f Form) (io.WriteCloser, error) {
	var to io.WriteCloser
	var err error
	switch f {
	case Gzip:
		to, err = gzip.NewWriterLevel(w, gzipLevel)
	case GzipSmall:
		to, err = gzip.NewWriterLevel(w, gzip.BestCompression)
	case Zstd:
		to, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(Window),
			zstd.WithLowerEncoderMem(true))
	default:
		err = fmt.Errorf("unknown packing %q", f)
	}
	if err != nil {
		return nil, err
	}
	return &writer{bufio.NewWriterSize(whole{to}, piece), to}, nil
}

// whole hides what else a writer can do, so that bufio hands on whole pieces.
type whole struct{ io.Writer }

// Write implements io.Writer.
func (w whole) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := w.Writer.Write(b[done:min(done+piece, len(b))])
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// NewReader unpacks. At most most bytes come of it; there must be no more.
func NewReader(r io.Reader, f Form, most int64) (io.ReadCloser, error) {
	var from io.ReadCloser
	switch f {
	case Gzip, GzipSmall:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, err
		}
		from = z
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(Window))
		if err != nil {
			return nil, err
		}
		from = z.IOReadCloser()
	default:
		return nil, fmt.Errorf("unknown packing %q", f)
	}
	return &limited{from, most}, nil
}

type limited struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (l *limited) Read(b []byte) (int, error) {
	n, err := l.ReadCloser.Read(b[:min(int64(len(b)), l.left+1)])
	if l.left -= int64(n); l.left < 0 {
		return 0, errors.New("larger than allowed when unpacked")
	}
	return n, err
}
