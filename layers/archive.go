package layers

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/pikelet-os/pikelet/layers/store"
	"github.com/pikelet-os/pikelet/layers/tarball"
)

// Archive is a tar file, plain or compressed with gzip, xz or zstd; what it
// is shows in its first bytes.
type Archive struct{ File string }

// Digest returns the hash of the file as it is.
func (a Archive) Digest() (string, error) {
	f, err := os.Open(a.File)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// Read reads the archive into a part. Owners are the archive's, by number.
func (a Archive) Read(file *store.File, source string) (Part, error) {
	f, err := os.Open(a.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := Decompress(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	defer r.Close()
	return ReadTar(r, file, source)
}

// ReadTar reads a tar file into a part.
func ReadTar(r io.Reader, file *store.File, source string) (Part, error) {
	var p Part
	err := tarball.Each(r, source, func(h *tar.Header, body io.Reader) error {
		h.Uname, h.Gname = "", ""
		return p.Add(file, *h, source, body)
	})
	return p, err
}

// zstdWindow bounds the memory a zstd archive may ask for; zstd -19 uses 8
// MiB, --ultra -22 128 MiB.
const zstdWindow = 128 << 20

// Decompress returns what a file holds, by its first bytes.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, _ := br.Peek(6)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte(xzMagic)):
		x, err := xz.NewReader(&xzChecker{in: br})
		return io.NopCloser(x), err
	case bytes.HasPrefix(head, []byte("BZh")):
		return nil, errors.New("it is compressed with bzip2; compress it with gzip, xz or zstd")
	}
	return io.NopCloser(br), nil
}
