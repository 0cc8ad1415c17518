package patch

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/recompress"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// Patch is a patch that can be applied.
type Patch struct {
	head    *head
	data    io.ReaderAt
	old     image.Image
	new     *image.Manifest
	scratch func(size int64) (*os.File, error)
}

// ErrGeneration is returned for a patch of files that another release of the
// program writes with other bytes. The patch is not damaged.
var ErrGeneration = errors.New("unsupported generation of the writer")

// Open reads the head of a patch of size bytes from old to new. scratch makes a
// file for what must be unpacked before any part of it can be read; its argument
// is about how many bytes the file will hold. The caller has checked the signature
// and the digest of the patch. Open returns ErrDamaged or ErrGeneration for a
// patch that cannot be applied.
func Open(r io.ReaderAt, size int64, old image.Image, new *image.Manifest, scratch func(size int64) (*os.File, error)) (*Patch, error) {
	h, err := decodeHead(r, size)
	if err != nil {
		return nil, err
	}
	if h.Packing != recompress.Generation {
		return nil, fmt.Errorf("%w of packed files: got %d, want %d", ErrGeneration, h.Packing, recompress.Generation)
	}
	if h.Root != nil && new.Root.Generation != squashfs.Generation {
		return nil, fmt.Errorf("%w of the root: got %d, want %d", ErrGeneration, new.Root.Generation, squashfs.Generation)
	}
	return &Patch{h, r, old, new, scratch}, nil
}

// Makes lists the files that the patch makes. All others are the old image's.
func (p *Patch) Makes() []string {
	var list []string
	for _, f := range p.head.Files {
		list = append(list, f.Name)
	}
	if p.head.Root != nil {
		list = append(list, image.RootFile)
	}
	return list
}

// Work returns the bytes of all files that are made, which take most of the
// time.
func (p *Patch) Work() (n int64) {
	for _, c := range p.head.all() {
		n += c.Size
	}
	return n
}

// Make returns a file as the patch makes it. What comes is not checked: its
// digest is in the manifest.
func (p *Patch) Make(ctx context.Context, name string) (io.ReadCloser, error) {
	if name == image.RootFile && p.head.Root != nil {
		return stream(ctx, p.root), nil
	}
	i := slices.IndexFunc(p.head.Files, func(f packed) bool { return f.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("%q is not a file that the patch makes", name)
	}
	return stream(ctx, func(w io.Writer) error { return p.file(w, p.head.Files[i]) }), nil
}

// Source returns the files that the patch makes, for image.Prefer.
func (p *Patch) Source() image.Source {
	return streams{func(ctx context.Context, f image.File) (io.ReadCloser, error) {
		if !slices.Contains(p.Makes(), f.Name) {
			return nil, fs.ErrNotExist
		}
		return p.Make(ctx, f.Name)
	}}
}

// streams is a source of files that are made as they are read.
type streams struct {
	open func(ctx context.Context, f image.File) (io.ReadCloser, error)
}

// Open implements image.Source.
func (s streams) Open(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	if at != 0 || n != f.Size {
		return nil, fmt.Errorf("opening a part of %q: %w", f.Name, fs.ErrNotExist)
	}
	return s.open(ctx, f)
}

// OpenAt implements image.Source.
func (s streams) OpenAt(f image.File) (image.ReaderAt, error) {
	return nil, fmt.Errorf("opening %q for reading anywhere: %w", f.Name, fs.ErrNotExist)
}

// stream returns what do writes, as it is written.
func stream(ctx context.Context, do func(io.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(do(cancelled{ctx.Err, w}))
	}()
	return &streamed{r, done}
}

type streamed struct {
	*io.PipeReader
	done chan struct{}
}

// Close implements io.Closer. Nothing is read or written any more when it
// returns.
func (s *streamed) Close() error {
	err := s.PipeReader.Close()
	<-s.done
	return err
}

// cancelled is a writer that fails once check does.
type cancelled struct {
	check func() error
	w     io.Writer
}

// Write implements io.Writer.
func (c cancelled) Write(b []byte) (int, error) {
	if err := c.check(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

func (p *Patch) section(c change) *io.SectionReader { return io.NewSectionReader(p.data, c.at, c.Data) }

// file makes a file of the slot that is not the root.
func (p *Patch) file(w io.Writer, f packed) error {
	if f.Base == "" {
		return f.Change.decode(w, p.section(f.Change), nil, 0)
	}
	was, ok := p.old.File(f.Base)
	if !ok {
		return damaged("%s is made of %s, which is not there", f.Name, f.Base)
	}
	old, err := p.old.OpenAt(f.Base)
	if err != nil {
		return err
	}
	defer old.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(old, 0, was.Size)); err != nil {
		return fmt.Errorf("reading %s: %w", f.Base, err)
	}
	if got := image.DigestOfSum(sum.Sum(nil)); got != was.Digest {
		return fmt.Errorf("reading %q of the old image: %w: got %s, want %s", f.Base, image.ErrDigestMismatch, got, was.Digest)
	}
	if f.Form == "" {
		return f.Change.decode(w, p.section(f.Change), old, was.Size)
	}
	form := recompress.Form(f.Form)
	inside, size, err := p.unpack(old, was.Size, f.Inside, form)
	if err != nil {
		return fmt.Errorf("unpacking %s: %w", f.Base, err)
	}
	defer inside.Close()
	again, err := recompress.NewWriter(w, form)
	if err != nil {
		return err
	}
	if err := f.Change.decode(again, p.section(f.Change), inside, size); err != nil {
		return err
	}
	return again.Close()
}

// unpack puts what is in a packed file into a file of its own.
func (p *Patch) unpack(r io.ReaderAt, size, inside int64, form recompress.Form) (*os.File, int64, error) {
	in, err := recompress.NewReader(io.NewSectionReader(r, 0, size), form, inside)
	if err != nil {
		return nil, 0, err
	}
	defer in.Close()
	f, err := p.scratch(inside)
	if err != nil {
		return nil, 0, err
	}
	n, err := io.CopyBuffer(onlyWriter{f}, onlyReader{in}, make([]byte, 256<<10))
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, n, nil
}

type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }

// Scratch makes a file without a name in a directory: nothing is left of the
// file, whatever happens. Where an open file cannot be removed, as on Windows,
// removing it is left to the caller, with the directory.
func Scratch(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, ".pikelet-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	return f, nil
}

// openRoot opens the root of an image. What is read of it is checked against
// the hash tree that its manifest names.
func openRoot(img image.Image) (*squashfs.Reader, func(), error) {
	params, err := img.Verity()
	if err != nil {
		return nil, nil, err
	}
	c, err := squashfs.FindCompression(img.Root.Compression)
	if err != nil || c.BlockSize != img.Root.BlockSize {
		return nil, nil, fmt.Errorf("%w of the root: compression %s with blocks of %d bytes",
			ErrGeneration, img.Root.Compression, img.Root.BlockSize)
	}
	f, err := img.OpenAt(image.RootFile)
	if err != nil {
		return nil, nil, err
	}
	checked, err := verity.NewChecker(f, params)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	r, err := squashfs.Open(checked, c)
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return r, func() { r.Close(); f.Close() }, nil
}

// root makes the root: it writes the tree that the patch describes.
func (p *Patch) root(w io.Writer) error {
	old, done, err := openRoot(p.old)
	if err != nil {
		return fmt.Errorf("opening the old root: %w", err)
	}
	defer done()
	super := p.head.Root.Super
	if len(super) < 12 || len(super) > 4096 {
		return damaged("a superblock of %d bytes", len(super))
	}
	at := time.Unix(int64(binary.LittleEndian.Uint32(super[8:])), 0)
	entries, err := p.entries(old, at)
	if err != nil {
		return err
	}
	c, err := squashfs.FindCompression(p.new.Root.Compression)
	if err != nil || c.BlockSize != p.new.Root.BlockSize {
		return fmt.Errorf("%w of the root: compression %s with blocks of %d bytes", ErrGeneration, p.new.Root.Compression, p.new.Root.BlockSize)
	}
	hashes := verity.NewHasher(verity.Salt())
	out := &onward{w: io.MultiWriter(w, hashes), super: super}
	if _, err := out.w.Write(super); err != nil {
		return err
	}
	out.at = int64(len(super))
	if _, err := squashfs.Write(out, entries, squashfs.Options{Compression: c, Time: at, Workers: 1}); err != nil {
		return err
	}
	_, tree, err := hashes.Tree()
	if err != nil {
		return err
	}
	_, err = w.Write(tree)
	return err
}

// onward takes what is written one behind the other, and at last what was
// known at first.
type onward struct {
	w     io.Writer
	at    int64
	super []byte
}

// WriteAt implements io.WriterAt.
func (o *onward) WriteAt(b []byte, at int64) (int, error) {
	if at == 0 {
		if !bytes.Equal(b, o.super) {
			return 0, fmt.Errorf("%w: another superblock", ErrOther)
		}
		return len(b), nil
	}
	if at != o.at {
		return 0, fmt.Errorf("writing the root: got offset %d, want %d", at, o.at)
	}
	n, err := o.w.Write(b)
	o.at += int64(n)
	return n, err
}

// entries returns the tree of the new root, each file with where it comes from.
func (p *Patch) entries(old *squashfs.Reader, at time.Time) ([]squashfs.Entry, error) {
	was := listing(old)
	var text bytes.Buffer
	if err := p.head.Root.Listing.decode(&text, p.section(p.head.Root.Listing), bytes.NewReader(was), int64(len(was))); err != nil {
		return nil, fmt.Errorf("making the listing: %w", err)
	}
	list, err := parseListing(text.Bytes(), at)
	if err != nil {
		return nil, err
	}
	byName := map[string]*squashfs.File{}
	for _, e := range old.Entries {
		switch e.Typeflag {
		case tar.TypeReg:
			byName[e.Name] = e.From
		case tar.TypeLink:
			byName[e.Name] = byName[e.Linkname]
		}
	}
	asIs := p.old.Root.Generation == p.new.Root.Generation && p.old.Root.Compression == p.new.Root.Compression
	take := func(e *squashfs.Entry, from *squashfs.File) error {
		if from == nil || from.Size() != e.Size {
			return damaged("%s is not there to be taken as it is", e.Name)
		}
		if asIs {
			e.From = from
		}
		e.Open = func() (io.ReadCloser, error) { return io.NopCloser(from.Reader()), nil }
		return nil
	}
	changes := p.head.Root.Changes
	for i := range list {
		e := &list[i]
		if len(changes) == 0 || changes[0].New != int64(i) {
			if e.Typeflag == tar.TypeReg {
				if err := take(e, byName[e.Name]); err != nil {
					return nil, err
				}
			}
			continue
		}
		c := changes[0]
		changes = changes[1:]
		if e.Typeflag != tar.TypeReg || c.Size != e.Size || c.Old >= int64(len(old.Entries)) {
			return nil, damaged("a change of %s, which cannot be", e.Name)
		}
		var from *squashfs.File
		var fromSize int64
		if c.Old >= 0 {
			if from = old.Entries[c.Old].From; from == nil {
				return nil, damaged("%s is made of what is no file", e.Name)
			}
			fromSize = from.Size()
		}
		switch {
		case c.How == same:
			if err := take(e, from); err != nil {
				return nil, err
			}
		case from == nil && c.How != whole:
			return nil, damaged("%s is made of nothing", e.Name)
		default:
			e.Open = func() (io.ReadCloser, error) {
				return stream(context.Background(), func(w io.Writer) error { return c.decode(w, p.section(c), from, fromSize) }), nil
			}
		}
	}
	if len(changes) > 0 {
		return nil, damaged("changes of files that are not there")
	}
	return list, nil
}
