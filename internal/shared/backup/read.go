package backup

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Extract reads a backup that Decrypt opened, to its last byte. accept may refuse
// it by its info, before any file; place gets each file. What place did counts only
// where Extract returns no error: the digests of all files come last. Other errors
// than those of accept and place are ErrDamaged.
func Extract(r io.Reader, accept func(Info) error, place func(name string, size int64, r io.Reader) error) (Info, error) {
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true))
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer z.Close()
	x := &extraction{tar: tar.NewReader(damaged{z}), sums: map[string]sum{}, dirs: map[string]bool{}}
	i, err := x.info()
	if err != nil {
		return i, err
	}
	if err := accept(i); err != nil {
		return i, err
	}
	for {
		h, err := x.next()
		if err != nil {
			return i, err
		}
		if h.Name == sumsName {
			break
		}
		if err := x.file(h, place); err != nil {
			return i, err
		}
	}
	if err := x.compare(); err != nil {
		return i, err
	}
	// The rest shows that nothing was cut off: tar's end, zstd's checksum, and the
	// last chunk of age.
	if _, err := x.tar.Next(); err != io.EOF {
		return i, fmt.Errorf("%w: %s is not its end: %w", ErrDamaged, sumsName, err)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(z, maxRest)); err != nil || n == maxRest {
		return i, fmt.Errorf("%w: %d bytes follow its end: %w", ErrDamaged, n, err)
	}
	if x.sums[StateDB].Size == 0 {
		return i, fmt.Errorf("%w: it has no datastore", ErrDamaged)
	}
	return i, nil
}

// maxRest bounds what may follow the end of the tar, in bytes: tar fills its last
// block of 10 KiB.
const maxRest = 16 << 10

// extraction is Extract at work.
type extraction struct {
	tar  *tar.Reader
	sums map[string]sum  // of what was read
	dirs map[string]bool // that hold them
}

func (x *extraction) next() (*tar.Header, error) {
	h, err := x.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: it ends before %s", ErrDamaged, sumsName)
	case errors.Is(err, ErrDamaged):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case h.Typeflag != tar.TypeReg || h.Size < 0:
		return nil, fmt.Errorf("%w: %q is no plain file", ErrDamaged, h.Name)
	case len(x.sums) > MaxFiles:
		return nil, fmt.Errorf("%w: more than %d files", ErrDamaged, MaxFiles)
	}
	return h, nil
}

func (x *extraction) info() (Info, error) {
	h, err := x.next()
	if err != nil {
		return Info{}, err
	}
	if h.Name != infoName || h.Size > maxInfo {
		return Info{}, fmt.Errorf("%w: it begins with %q of %d bytes, want %s", ErrDamaged, h.Name, h.Size, infoName)
	}
	text, err := io.ReadAll(x.tar)
	if err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return decodeInfo(text)
}

// file hands one file to place.
func (x *extraction) file(h *tar.Header, place func(string, int64, io.Reader) error) error {
	limit, ok := allowed(h.Name)
	if _, twice := x.sums[h.Name]; !ok || twice || h.Size > limit {
		return fmt.Errorf("%w: %q of %d bytes has no place in one", ErrDamaged, h.Name, h.Size)
	}
	if x.dirs[h.Name] {
		return fmt.Errorf("%w: %q is a file and a directory", ErrDamaged, h.Name)
	}
	for dir := path.Dir(h.Name); dir != "."; dir = path.Dir(dir) {
		if _, is := x.sums[dir]; is {
			return fmt.Errorf("%w: %q is a file and a directory", ErrDamaged, dir)
		}
		x.dirs[dir] = true
	}
	digest := sha256.New()
	all := &counted{Reader: io.TeeReader(damaged{x.tar}, digest)}
	if err := place(h.Name, h.Size, all); err != nil {
		return err
	}
	if all.n != h.Size {
		return fmt.Errorf("reading a backup: %d of %d bytes of %s were taken", all.n, h.Size, h.Name)
	}
	x.sums[h.Name] = sum{h.Size, image.DigestOfSum(digest.Sum(nil))}
	return nil
}

// counted counts what was read.
type counted struct {
	io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	return n, err
}

// compare compares all that was read with sums.json, which is next.
func (x *extraction) compare() error {
	text, err := io.ReadAll(io.LimitReader(x.tar, maxSmall))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var want map[string]sum
	if err := json.Unmarshal(text, &want); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, sumsName, err)
	}
	for name, w := range want {
		if got := x.sums[name]; got != w {
			return fmt.Errorf("%w: %s: got %+v, want %+v", ErrDamaged, name, got, w)
		}
	}
	if len(want) != len(x.sums) {
		return fmt.Errorf("%w: got %d files, want %d", ErrDamaged, len(x.sums), len(want))
	}
	return nil
}
