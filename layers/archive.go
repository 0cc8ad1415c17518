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

	"github.com/pikelet-os/pikelet/internal/shared/hint"
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

// otherKinds are first bytes of what is not a tar file as layers have it, with
// what it is.
var otherKinds = []struct{ magic, what string }{
	{"BZh", "a bzip2 file"},
	{"PK\x03\x04", "a zip archive"},
	{"PK\x05\x06", "an empty zip archive"},
	{"\x04\x22\x4d\x18", "an lz4 file"},
	{"\x02\x21\x4c\x18", "an lz4 file"},
	{"\x5d\x00\x00", "an lzma file"},
	{"LZIP", "an lzip file"},
	{"\x89LZO", "an lzop file"},
	{"\x1f\x9d", "a file of compress"},
	{"070701", "a cpio archive"},
	{"070702", "a cpio archive"},
	{"070707", "a cpio archive"},
	{"\xc7\x71", "a cpio archive"},
	{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
	{"Rar!", "a rar archive"},
	{"hsqs", "a squashfs image"},
	{"!<arch>", "an ar archive (a .deb has a tar in it)"},
	{"\xed\xab\xee\xdb", "an rpm package"},
	{"<!DOCTYPE", "an HTML page"},
	{"<html", "an HTML page"},
}

// ustar is in the first header of a tar file that is not of before 1988.
const (
	ustar   = "ustar"
	ustarAt = 257
)

// Decompress returns what a file holds, by its first bytes: those of a tar
// file, plain or compressed. Other archives and compressions are an error that
// names them.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, _ := br.Peek(ustarAt + len(ustar))
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(br)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return zstdReader{d.IOReadCloser()}, nil
	case bytes.HasPrefix(head, []byte(xzMagic)):
		x, err := xz.NewReader(&xzChecker{in: br})
		return io.NopCloser(x), err
	}
	if len(head) == ustarAt+len(ustar) && string(head[ustarAt:]) == ustar {
		return io.NopCloser(br), nil // whatever its first name begins with
	}
	for _, other := range otherKinds {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return nil, fmt.Errorf("the file is %s; want a tar archive, plain or compressed with gzip, xz or zstd", other.what)
		}
	}
	return io.NopCloser(br), nil
}

// zstdReader says what to do about a window that is too large.
type zstdReader struct{ io.ReadCloser }

func (z zstdReader) Read(p []byte) (int, error) {
	n, err := z.ReadCloser.Read(p)
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		err = hint.With(fmt.Errorf("the zstd window is larger than %d MiB: %w", zstdWindow>>20, err),
			"compress the archive with a window of 128 MiB or less, as zstd --long=27 does")
	}
	return n, err
}
