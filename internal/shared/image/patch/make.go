package patch

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/recompress"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// Options say what making a patch may cost.
type Options struct {
	Workers int   // files at once; less than 1 means 1
	Memory  int64 // bytes that those may take together, about; one file may take more
	// Progress is given how many more bytes of new files were dealt with, from
	// several goroutines; nil reports nothing.
	Progress func(int64)
	// In reports whether a file of the old image is there on every node that runs
	// that image; nil means that all are.
	In func(name string) bool
}

// memoryPer is what a patch of one byte takes while it is made, about, in bytes:
// suffix array, masked copies, pieces (measured: docs/decisions/0011-delta.md).
const memoryPer = 14

// Stats says what a patch is made of.
type Stats struct {
	Bytes   int64          // of the patch
	Work    int64          // bytes of the files that are made, which a node compresses
	Changed int            // files
	By      map[string]int // files, by the method they are made with
}

// Make writes a patch that makes the files of new of those of old. Its error is
// ErrGeneration for an image whose root this program would write with other
// bytes.
func Make(ctx context.Context, w io.Writer, old, new image.Image, o Options) (Stats, error) {
	m := &maker{old: old, new: new, o: o, stats: Stats{By: map[string]int{}}}
	if err := m.files(ctx); err != nil {
		return Stats{}, err
	}
	if err := m.root(ctx); err != nil {
		return Stats{}, err
	}
	first, err := m.head.encode()
	if err != nil {
		return Stats{}, err
	}
	out := &counted{w: w}
	for _, b := range append([][]byte{first}, m.data...) {
		if _, err := out.Write(b); err != nil {
			return Stats{}, err
		}
	}
	m.stats.Bytes = out.n
	return m.stats, nil
}

type counted struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

type maker struct {
	old, new image.Image
	o        Options
	head     head
	data     [][]byte
	stats    Stats
}

func (m *maker) add(c *change, how method, data []byte, size int64) {
	c.How, c.Data, c.Size = how, int64(len(data)), size
	m.data = append(m.data, data)
	m.stats.Changed++
	m.stats.Work += size
	m.stats.By[[methods]string{"same", "whole", "dictionary", "patch"}[how]]++
}

func (m *maker) progress(n int64) {
	if m.o.Progress != nil {
		m.o.Progress(n)
	}
}

// readAll reads a file of an image.
func readAll(img image.Image, f image.File) ([]byte, error) {
	r, err := img.OpenAt(f.Name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, f.Size)
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, f.Size), b); err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.Name, err)
	}
	return b, nil
}

// files adds what changed of a slot beside the root.
func (m *maker) files(ctx context.Context) error {
	m.head.Packing = recompress.Generation
	for _, f := range m.new.Lacking(m.old.Manifest) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if f.Name == image.RootFile {
			continue
		}
		new, err := readAll(m.new, f)
		if err != nil {
			return err
		}
		p := packed{Name: f.Name, Change: change{Old: -1}}
		var old []byte
		if was, ok := m.old.File(f.Name); ok && (m.o.In == nil || m.o.In(f.Name)) {
			if old, err = readAll(m.old, was); err != nil {
				return err
			}
			p.Base = f.Name
		}
		size := int64(len(new))
		if form, a, b := unpacked(old, new); form != "" {
			p.Form, p.Inside, old, new = string(form), int64(len(a)), a, b
		}
		how, data, err := smallest(old, new)
		if err != nil {
			return fmt.Errorf("making a patch of %s: %w", f.Name, err)
		}
		if how == whole && p.Form == "" {
			p.Base = ""
		}
		m.head.Files = append(m.head.Files, p)
		m.add(&m.head.Files[len(m.head.Files)-1].Change, how, data, int64(len(new)))
		m.progress(size)
	}
	return nil
}

// unpacked returns what is in two packed files, if both are packed in the same
// form, and the new one as packing packs it: only that can be made again.
func unpacked(old, new []byte) (recompress.Form, []byte, []byte) {
	if old == nil {
		return "", nil, nil
	}
	for _, form := range recompress.Forms {
		b, err := unpack(new, form)
		if err != nil {
			continue
		}
		var again bytes.Buffer
		w, err := recompress.NewWriter(&again, form)
		if err != nil {
			continue
		}
		if _, err := w.Write(b); err != nil || w.Close() != nil || !bytes.Equal(again.Bytes(), new) {
			continue
		}
		if a, err := unpack(old, form); err == nil {
			return form, a, b
		}
	}
	return "", nil, nil
}

func unpack(b []byte, form recompress.Form) ([]byte, error) {
	r, err := recompress.NewReader(bytes.NewReader(b), form, maxUnpacked)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// maxUnpacked bounds what is in a packed file, bytes: an initramfs with every
// module of a kernel has 300 MiB.
const maxUnpacked = 512 << 20

// root adds what changed of the root.
func (m *maker) root(ctx context.Context) error {
	was, _ := m.old.File(image.RootFile)
	is, _ := m.new.File(image.RootFile)
	if was.Digest == is.Digest {
		return nil
	}
	if m.new.Root.Generation != squashfs.Generation {
		err := fmt.Errorf("reading the root of release %s: %w: got %d, want %d", m.new.Release, ErrGeneration, m.new.Root.Generation,
			squashfs.Generation)
		return hint.With(err, "build the image again, or publish it with the program that built it")
	}
	old, closeOld, err := openRoot(m.old)
	if err != nil {
		return fmt.Errorf("opening the root of release %s: %w", m.old.Release, err)
	}
	defer closeOld()
	new, closeNew, err := openRoot(m.new)
	if err != nil {
		return fmt.Errorf("opening the root of release %s: %w", m.new.Release, err)
	}
	defer closeNew()
	a, b := listing(old), listing(new)
	how, data, err := smallest(a, b)
	if err != nil {
		return err
	}
	m.head.Root = &root{Super: new.Super}
	m.add(&m.head.Root.Listing, how, data, int64(len(b)))
	if m.head.Root.Changes, err = m.changes(ctx, old, new); err != nil {
		return err
	}
	return nil
}

// changes finds the files of a root that changed, and makes them.
func (m *maker) changes(ctx context.Context, old, new *squashfs.Reader) ([]change, error) {
	bases, err := m.findBases(ctx, old)
	if err != nil {
		return nil, err
	}
	var list []change
	for i, e := range new.Entries {
		if e.Typeflag != tar.TypeReg {
			continue
		}
		sum, err := sumOf(ctx, e.From)
		if err != nil {
			return nil, err
		}
		at, moved, changed := bases.of(e, sum)
		if !changed {
			m.progress(e.Size)
			continue
		}
		c := change{New: int64(i), Old: int64(at), Size: e.Size}
		if !moved {
			c.How = methods // which is found out below
		}
		list = append(list, c)
	}
	data := make([][]byte, len(list))
	room := semaphore.NewWeighted(max(1, m.o.Memory))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, m.o.Workers))
	for i := range list {
		c := &list[i]
		if c.How != methods {
			continue
		}
		g.Go(func() error {
			from := new.Entries[c.New].From
			var was *squashfs.File
			cost := 2 * from.Size()
			if c.Old >= 0 {
				was = old.Entries[c.Old].From
				cost = memoryPer * (from.Size() + was.Size())
			}
			cost = min(cost, max(1, m.o.Memory))
			if err := room.Acquire(ctx, cost); err != nil {
				return err
			}
			defer room.Release(cost)
			b, err := contentsOf(from)
			if err != nil {
				return err
			}
			var a []byte
			if was != nil {
				if a, err = contentsOf(was); err != nil {
					return err
				}
			}
			if c.How, data[i], err = smallest(a, b); err != nil {
				return fmt.Errorf("making a patch of %s: %w", new.Entries[c.New].Name, err)
			}
			m.progress(from.Size())
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range list {
		if list[i].How == whole {
			list[i].Old = -1
		}
		m.add(&list[i], list[i].How, data[i], list[i].Size)
	}
	return list, nil
}

func contentsOf(f *squashfs.File) ([]byte, error) {
	b := make([]byte, f.Size())
	_, err := io.ReadFull(f.Reader(), b)
	return b, err
}

type sum = [sha256.Size]byte

func sumOf(ctx context.Context, f *squashfs.File) (s sum, err error) {
	if err := ctx.Err(); err != nil {
		return s, err
	}
	h := sha256.New()
	_, err = io.CopyBuffer(h, f.Reader(), make([]byte, 256<<10))
	h.Sum(s[:0])
	return s, err
}

// Try applies a patch and checks that all files it makes have the digests of new;
// the error is ErrOther where one has not, or one of those of Open. Files that are
// unpacked lie in the directory scratch for a while.
func Try(ctx context.Context, patch io.ReaderAt, size int64, old image.Image, new *image.Manifest, scratch string) error {
	p, err := Open(patch, size, old, new, func(int64) (*os.File, error) { return Scratch(scratch) })
	if err != nil {
		return err
	}
	for _, name := range p.Makes() {
		r, err := p.Make(ctx, name)
		if err != nil {
			return fmt.Errorf("making %q: %w", name, err)
		}
		h := sha256.New()
		_, err = io.Copy(h, r)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return fmt.Errorf("making %q: %w", name, err)
		}
		if f, _ := new.File(name); image.DigestOfSum(h.Sum(nil)) != f.Digest {
			return fmt.Errorf("making %q: %w", name, ErrOther)
		}
	}
	return nil
}

// ErrOther is returned where a patch makes another file than was signed.
var ErrOther = errors.New("the patch makes another file than the one that was signed")
