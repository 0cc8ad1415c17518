package flash

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
)

// compressions are the formats that disk images and archives are distributed
// in, by the first bytes of a file, with the command that decompresses them.
// zstd is read directly.
var compressions = []struct{ magic, name, command string }{
	{"\xfd7zXZ\x00", "xz", "xz -dk %s"},
	{"\x1f\x8b", "gzip", "gzip -dk %s"},
	{"BZh", "bzip2", "bzip2 -dk %s"},
	{"PK\x03\x04", "zip", "unzip %s"},
	{"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x %s"},
	{"\x04\x22\x4d\x18", "lz4", "lz4 -dk %s"},
}

const zstdMagic = "\x28\xb5\x2f\xfd" // RFC 8878, section 3.1.1

// IsZstd reports whether a file is compressed with zstd. It returns an error
// for a file that is compressed with anything else, which later code would call
// damaged.
func IsZstd(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, 8)
	n, _ := io.ReadFull(f, head) // a shorter file is none of them
	for _, c := range compressions {
		if bytes.HasPrefix(head[:n], []byte(c.magic)) {
			return false, hint.Withf(fmt.Errorf("%s is compressed with %s", name, c.name), "decompress it first: "+c.command, name)
		}
	}
	return bytes.HasPrefix(head[:n], []byte(zstdMagic)), nil
}

// Decompress decompresses a file with zstd into a new file of a directory. The
// new file is sparse, and has the name of the old one without .zst.
func Decompress(ctx context.Context, name, dir string) (*os.File, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	dec, err := zstd.NewReader(until(ctx, in))
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
		return nil, hint.With(fmt.Errorf("decompressing %s: %w", name, err), "check that the download is complete")
	}
	return out, nil
}

// readerFunc is a function as an io.Reader.
type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// until returns a reader of r that fails once ctx has ended.
func until(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(b)
	})
}

// OpenCompressed opens a disk image that is compressed with zstd. The
// decompressed copy is removed while it is open, where the system allows that.
func OpenCompressed(ctx context.Context, name string) (*Source, error) {
	dir, err := os.MkdirTemp("", "pikelet-disk-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out, err := Decompress(ctx, name, dir)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s, err := OpenSource(out.Name())
	if err != nil {
		return nil, fmt.Errorf("%s, decompressed: %w", name, err)
	}
	return s, nil
}

// SameFile reports whether two names are those of one file or device.
func SameFile(a, b string) bool {
	one, err := os.Stat(a)
	if err != nil {
		return false
	}
	other, err := os.Stat(b)
	return err == nil && os.SameFile(one, other)
}
