package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/medium"
)

// compressions are what disk images and archives come compressed with, by the
// first bytes of a file, and what undoes it. zstd is read as it is.
var compressions = []struct{ magic, name, remedy string }{
	{"\xfd7zXZ\x00", "xz", "xz -dk %s"},
	{"\x1f\x8b", "gzip", "gzip -dk %s"},
	{"BZh", "bzip2", "bzip2 -dk %s"},
	{"PK\x03\x04", "zip", "unzip %s"},
	{"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x %s"},
	{"\x04\x22\x4d\x18", "lz4", "lz4 -dk %s"},
}

const zstdMagic = "\x28\xb5\x2f\xfd"

// isZstd reports whether a file is compressed with zstd. What is compressed with
// anything else is an error that says how to go on: it would only be called
// damaged later.
func isZstd(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, 8)
	n, _ := io.ReadFull(f, head)
	for _, c := range compressions {
		if bytes.HasPrefix(head[:n], []byte(c.magic)) {
			return false, fmt.Errorf("%s is compressed with %s; decompress it first: "+c.remedy, name, c.name, name)
		}
	}
	return bytes.HasPrefix(head[:n], []byte(zstdMagic)), nil
}

// decompress writes what a file compressed with zstd holds into a new file in a
// folder.
func decompress(ctx context.Context, name, dir string) (*os.File, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	dec, err := zstd.NewReader(contextReader{ctx, in})
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	out, err := os.Create(filepath.Join(dir, strings.TrimSuffix(filepath.Base(name), ".zst")))
	if err != nil {
		return nil, err
	}
	if err := medium.CopySparse(out, dec); err != nil {
		out.Close()
		return nil, fmt.Errorf("decompressing %s: %w; is it all there?", name, err)
	}
	return out, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c contextReader) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}

// sameFile reports whether two names are those of one file or device.
func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}
