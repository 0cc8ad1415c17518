package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Image is one release as a value: what it is, who signed that, and where its
// files lie. Registries, layouts, archives, cards, builds and boot servers
// return it. What it says of itself is checked by whoever returns it, or says
// so; functions that make another image of it wrap its Source.
type Image struct {
	*Manifest
	Text      []byte    // the bytes of the manifest
	Signature Signature // the OCI manifest and the signatures over it
	Digest    string    // of the OCI manifest: what is signed
	Source    Source    // where the files are; nil for an image that is only described
}

// Source is a place where the files of images lie, one method for each way of
// reading them. What it returns is not checked.
type Source interface {
	// Open opens the n bytes of a file that begin at byte at. The error is
	// fs.ErrNotExist where the place lacks the file.
	Open(ctx context.Context, f File, at, n int64) (io.ReadCloser, error)
	// OpenAt opens a file for reading anywhere. The error is
	// errors.ErrUnsupported where the place hands out streams only.
	OpenAt(f File) (ReaderAt, error)
}

// ReaderAt is an open file that can be read anywhere.
type ReaderAt interface {
	io.ReaderAt
	io.Closer
}

// NopCloser returns r with a Close that does nothing, for a part of a card that
// stays open.
func NopCloser(r io.ReaderAt) ReaderAt { return nopCloser{r} }

type nopCloser struct{ io.ReaderAt }

// Close implements io.Closer.
func (nopCloser) Close() error { return nil }

// ErrDigestMismatch is returned at the end of a file whose bytes are not those
// that the manifest lists.
var ErrDigestMismatch = errors.New("digest mismatch")

// Open opens a file of the image by its name in the manifest. The last byte is
// followed by io.EOF only if all of them have the digest of the manifest, and by
// ErrDigestMismatch otherwise. The error of Open is fs.ErrNotExist for a name
// that the manifest does not list.
func (i Image) Open(ctx context.Context, name string) (io.ReadCloser, error) {
	f, err := i.lookup(name)
	if err != nil {
		return nil, err
	}
	r, err := i.Source.Open(ctx, f, 0, f.Size)
	if err != nil {
		return nil, err
	}
	return Check(r, f), nil
}

// OpenUnchecked is Open without the comparison of digests, for callers that
// compare what they made of the bytes.
func (i Image) OpenUnchecked(ctx context.Context, name string) (io.ReadCloser, error) {
	f, err := i.lookup(name)
	if err != nil {
		return nil, err
	}
	return i.Source.Open(ctx, f, 0, f.Size)
}

// OpenPart opens n bytes of a file from byte at on, which are not checked. A
// registry that does not know Range requests cannot do that.
func (i Image) OpenPart(ctx context.Context, name string, at, n int64) (io.ReadCloser, error) {
	f, err := i.lookup(name)
	if err != nil {
		return nil, err
	}
	if at < 0 || n < 0 || at > f.Size || n > f.Size-at {
		return nil, fmt.Errorf("opening %q: no bytes %d to %d in %d", name, at, at+n, f.Size)
	}
	return i.Source.Open(ctx, f, at, n)
}

// OpenAt opens a file for reading anywhere; what is read is not checked. The
// error is errors.ErrUnsupported where the image lies in a place that hands out
// streams only.
func (i Image) OpenAt(name string) (ReaderAt, error) {
	f, err := i.lookup(name)
	if err != nil {
		return nil, err
	}
	return i.Source.OpenAt(f)
}

func (i Image) lookup(name string) (File, error) {
	f, ok := i.File(name)
	if !ok {
		return f, fmt.Errorf("image %s %s has no file %q: %w", i.Stream, i.Release, name, fs.ErrNotExist)
	}
	if i.Source == nil {
		return f, fmt.Errorf("image %s %s has no source for %q: %w", i.Stream, i.Release, name, fs.ErrNotExist)
	}
	return f, nil
}

// Size returns how many bytes the files of the image have together.
func (m *Manifest) Size() (n int64) {
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// Prefer returns the image with its files opened from another source where that
// has them. What first refuses with fs.ErrNotExist comes from the image's own.
func Prefer(i Image, first Source) Image {
	i.Source = preferred{first, i.Source}
	return i
}

type preferred [2]Source

// Open implements Source.
func (p preferred) Open(ctx context.Context, f File, at, n int64) (io.ReadCloser, error) {
	r, err := p[0].Open(ctx, f, at, n)
	if errors.Is(err, fs.ErrNotExist) {
		return p[1].Open(ctx, f, at, n)
	}
	return r, err
}

// OpenAt implements Source.
func (p preferred) OpenAt(f File) (ReaderAt, error) {
	r, err := p[0].OpenAt(f)
	if errors.Is(err, fs.ErrNotExist) {
		return p[1].OpenAt(f)
	}
	return r, err
}

// Blobs is the directory of an OCI layout that holds files by their SHA-256
// digests, in hexadecimal digits.
type Blobs string

// Path returns the path of the file with a digest.
func (b Blobs) Path(digest string) string {
	return filepath.Join(string(b), strings.TrimPrefix(digest, "sha256:"))
}

// Open implements Source.
func (b Blobs) Open(_ context.Context, f File, at, n int64) (io.ReadCloser, error) {
	return OpenSection(b, f, at, n)
}

// OpenAt implements Source. A file of another size than f's is an error.
func (b Blobs) OpenAt(f File) (ReaderAt, error) {
	file, err := os.Open(b.Path(f.Digest))
	if err != nil {
		return nil, err
	}
	st, err := file.Stat()
	if err == nil && st.Size() != f.Size {
		err = fmt.Errorf("opening %q: size mismatch: got %d bytes, want %d", f.Name, st.Size(), f.Size)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Memory is the files of an image in memory, by their names.
type Memory map[string][]byte

// Open implements Source.
func (m Memory) Open(_ context.Context, f File, at, n int64) (io.ReadCloser, error) {
	return OpenSection(m, f, at, n)
}

// OpenAt implements Source.
func (m Memory) OpenAt(f File) (ReaderAt, error) {
	b, ok := m[f.Name]
	if !ok {
		return nil, fmt.Errorf("opening %q: %w", f.Name, fs.ErrNotExist)
	}
	return struct {
		io.ReaderAt
		io.Closer
	}{bytes.NewReader(b), io.NopCloser(nil)}, nil
}

// OpenSection is Source.Open of a source whose files can all be read anywhere: it
// opens the n bytes of a file that begin at byte at.
func OpenSection(s interface{ OpenAt(File) (ReaderAt, error) }, f File, at, n int64) (io.ReadCloser, error) {
	r, err := s.OpenAt(f)
	if err != nil {
		return nil, err
	}
	return Section(r, at, n), nil
}

// Section returns n bytes of an open file from byte at on. Closing it closes the
// file.
func Section(r ReaderAt, at, n int64) io.ReadCloser {
	return struct {
		*io.SectionReader
		io.Closer
	}{io.NewSectionReader(r, at, n), r}
}

// Check returns a reader of all bytes of a file. Their end is io.EOF only if
// they have the digest of f, and ErrDigestMismatch otherwise.
func Check(r io.ReadCloser, f File) io.ReadCloser {
	return &checked{ReadCloser: r, file: f, sum: sha256.New()}
}

type checked struct {
	io.ReadCloser
	file File
	sum  hash.Hash
}

// Read implements io.Reader.
func (c *checked) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.sum.Write(b[:n])
	if errors.Is(err, io.EOF) {
		if got := DigestOfSum(c.sum.Sum(nil)); got != c.file.Digest {
			err = fmt.Errorf("reading %q: %w: got %s, want %s", c.file.Name, ErrDigestMismatch, got, c.file.Digest)
		}
	}
	return n, err
}
