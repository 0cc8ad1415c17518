package patch

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// Part opens some bytes of the new root where it is published.
type Part func(ctx context.Context, at, n int64) (io.ReadCloser, error)

// Blocks makes a root of the blocks of another: a file that did not change has
// the same blocks in both, so only those of changed files are fetched. It needs
// nothing but the two roots: not what a publisher made, and no encoder. Each
// 4 KiB are checked against the hash tree that the new manifest names, and
// fetched where they are not right.
type Blocks struct {
	// Fetch is how many bytes are fetched, if the old root holds what it should.
	Fetch int64

	old   io.ReaderAt // the old root, unchecked
	size  int64       // of the data before the hash tree, bytes
	check *verity.Checker
	far   *far
	runs  []run // in order
	wants []run // what is fetched, in order
}

// run is some bytes of the new root, and where the old one may have the same; -1
// where it has not.
type run struct{ at, size, old int64 }

// PlanBlocks fetches what describes the new root (its hash tree, and the tables
// of its squashfs, about a hundredth of it) and finds which blocks of the old
// one it has. The tables of the old one are checked; its blocks are when they
// are used.
func PlanBlocks(ctx context.Context, old image.Image, new *image.Manifest, part Part) (b *Blocks, done func(), err error) {
	if old.Root.Compression != new.Root.Compression || old.Root.BlockSize != new.Root.BlockSize {
		return nil, nil, fmt.Errorf("%s, and it was %s: %w", new.Root.Compression, old.Root.Compression, ErrGeneration)
	}
	was, closeOld, err := openRoot(old)
	if err != nil {
		return nil, nil, fmt.Errorf("the old root: %w", err)
	}
	defer closeOld()
	raw, err := old.OpenAt(image.RootFile)
	if err != nil {
		return nil, nil, err
	}
	b = &Blocks{old: raw}
	if err := b.plan(ctx, was, new, part); err != nil {
		raw.Close()
		return nil, nil, err
	}
	return b, func() { raw.Close() }, nil
}

func (b *Blocks) plan(ctx context.Context, was *squashfs.Reader, new *image.Manifest, part Part) error {
	params, err := new.Verity()
	if err != nil {
		return err
	}
	c, err := squashfs.FindCompression(new.Root.Compression)
	if err != nil || c.BlockSize != new.Root.BlockSize {
		return fmt.Errorf("compression %s with blocks of %d bytes: %w", new.Root.Compression, new.Root.BlockSize, ErrGeneration)
	}
	b.size = int64(params.DataBlocks) * verity.BlockSize
	b.far = &far{part: part}
	if params.DataBlocks > verity.MaxDataBlocks {
		return fmt.Errorf("a root of %d blocks", params.DataBlocks)
	}
	if err := b.far.keep(ctx, b.size, verity.TreeSize(params.DataBlocks)); err != nil {
		return err
	}
	if b.check, err = verity.NewChecker(b.far, params); err != nil {
		return err
	}
	if err := b.far.keep(ctx, 0, verity.BlockSize); err != nil {
		return err
	}
	super := make([]byte, 96)
	if _, err := b.check.ReadAt(super, 0); err != nil {
		return err
	}
	tables := int64(binary.LittleEndian.Uint64(super[64:])) // squashfs_fs.h: where the inodes begin
	if tables < int64(len(super)) || tables > b.size {
		return fmt.Errorf("the new root says its tables are at byte %d of %d", tables, b.size)
	}
	from := tables &^ (verity.BlockSize - 1)
	if b.size-from > maxTables {
		return fmt.Errorf("the new root has %d bytes of tables", b.size-from)
	}
	if err := b.far.keep(ctx, from, b.size-from); err != nil {
		return err
	}
	is, err := squashfs.Open(b.check, c)
	if err != nil {
		return err
	}
	defer is.Close()
	b.runs = match(was, is)
	for _, k := range b.far.kept {
		b.Fetch += int64(len(k.b))
	}
	b.want()
	for _, r := range b.wants {
		b.Fetch += r.size
	}
	return nil
}

// maxTables bounds the tables of a root, bytes: they stay in memory.
const maxTables = 64 << 20

// fingerprint is what a file without its contents is known by: its size, and
// those of its compressed blocks.
func fingerprint(f *squashfs.File) string {
	b := binary.AppendVarint(nil, f.Size())
	for _, s := range f.Sizes() {
		b = binary.AppendUvarint(b, uint64(s))
	}
	return string(b)
}

// match finds where the blocks of a root may lie in another: those of files of
// the same name or the same fingerprint, where they have the same size. That may
// be wrong, and is checked when they are used.
func match(was, is *squashfs.Reader) []run {
	byName, byPrint := map[string]*squashfs.File{}, map[string]*squashfs.File{}
	for _, e := range was.Entries {
		if e.From != nil {
			byName[e.Name] = e.From
			if len(e.From.Sizes()) > 0 {
				byPrint[fingerprint(e.From)] = e.From
			}
		}
	}
	from := map[int64]run{}
	for _, e := range is.Entries {
		if e.From == nil {
			continue
		}
		old := byName[e.Name]
		if len(e.From.Sizes()) > 0 {
			if twin := byPrint[fingerprint(e.From)]; twin != nil {
				old = twin
			}
		}
		var blocks []squashfs.Extent
		if old != nil {
			blocks = old.Blocks()
		}
		for i, x := range e.From.Blocks() {
			r := run{x.At, x.Size, -1}
			if there, ok := from[x.At]; ok && there.old >= 0 {
				continue
			}
			// A tail's fragment is the last of a file's blocks.
			k := i
			if i == len(e.From.Blocks())-1 && e.From.HasTail() && old != nil && old.HasTail() {
				k = len(blocks) - 1
			}
			if k < len(blocks) && blocks[k].Size == x.Size {
				r.old = blocks[k].At
			}
			from[x.At] = r
		}
	}
	list := make([]run, 0, len(from))
	for _, r := range from {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b run) int { return int(a.at - b.at) })
	return list
}

// gap is how many bytes between two that are wanted are fetched too, rather than
// by another request.
const gap = 32 << 10

// want finds what will be fetched.
func (b *Blocks) want() {
	covered := make([]int64, b.size/verity.BlockSize)
	for _, k := range b.far.kept {
		if k.at < b.size {
			count(covered, k.at, k.at+int64(len(k.b)))
		}
	}
	for _, r := range b.runs {
		if r.old >= 0 && !b.far.has(r.at, r.size) {
			count(covered, r.at, r.at+r.size)
		}
	}
	for i, n := range covered {
		if n >= verity.BlockSize {
			continue
		}
		at := int64(i) * verity.BlockSize
		if last := len(b.wants) - 1; last >= 0 && at-b.wants[last].at-b.wants[last].size <= gap {
			b.wants[last].size = at + verity.BlockSize - b.wants[last].at
		} else {
			b.wants = append(b.wants, run{at: at, size: verity.BlockSize})
		}
	}
}

// Root returns the new root. Every byte of it is checked.
func (b *Blocks) Root(ctx context.Context) io.ReadCloser {
	return stream(ctx, func(w io.Writer) error { return b.write(ctx, w) })
}

// Source returns the new root as a source for image.Prefer.
func (b *Blocks) Source() image.Source {
	return streams{func(ctx context.Context, f image.File) (io.ReadCloser, error) {
		if f.Name != image.RootFile {
			return nil, fs.ErrNotExist
		}
		return b.Root(ctx), nil
	}}
}

// window is what is put together at once, bytes.
const window = 64 * verity.BlockSize

func (b *Blocks) write(ctx context.Context, w io.Writer) error {
	defer b.far.close()
	buf := make([]byte, window)
	runs := b.runs
	for at := int64(0); at < b.size; at += window {
		part := buf[:min(window, b.size-at)]
		have := make([]int64, len(part)/verity.BlockSize) // bytes of each block that are there
		for len(runs) > 0 && runs[0].at+runs[0].size <= at {
			runs = runs[1:]
		}
		for _, r := range runs {
			if r.at >= at+int64(len(part)) {
				break
			}
			from, to := max(r.at, at), min(r.at+r.size, at+int64(len(part)))
			if r.old < 0 {
				continue
			}
			if n, _ := b.old.ReadAt(part[from-at:to-at], r.old+from-r.at); int64(n) == to-from {
				count(have, from-at, to-at)
			}
		}
		for _, k := range b.far.kept {
			from, to := max(k.at, at), min(k.at+int64(len(k.b)), at+int64(len(part)))
			if from < to {
				copy(part[from-at:], k.b[from-k.at:to-k.at])
				for i := (from - at) / verity.BlockSize; i < (to-at)/verity.BlockSize; i++ {
					have[i] = verity.BlockSize
				}
			}
		}
		for i := int64(0); i < int64(len(have)); i++ {
			block := func(i int64) []byte { return part[i*verity.BlockSize : (i+1)*verity.BlockSize] }
			lacks := func(i int64) bool {
				return i < int64(len(have)) && (have[i] != verity.BlockSize || !b.check.Good(block(i), at+i*verity.BlockSize))
			}
			end := i
			for lacks(end) {
				end++
			}
			if end == i {
				continue
			}
			if err := b.fetch(ctx, part[i*verity.BlockSize:end*verity.BlockSize], at+i*verity.BlockSize); err != nil {
				return err
			}
			i = end - 1
		}
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	_, err := w.Write(b.far.kept[0].b)
	return err
}

// count adds the bytes from one place to another to those of their blocks.
func count(have []int64, from, to int64) {
	for from < to {
		n := min(to-from, verity.BlockSize-from%verity.BlockSize)
		have[from/verity.BlockSize] += n
		from += n
	}
}

// fetch fetches whole blocks of the new root and checks them.
func (b *Blocks) fetch(ctx context.Context, p []byte, at int64) error {
	end := at + int64(len(p))
	if i, ok := slices.BinarySearchFunc(b.wants, at, func(r run, at int64) int {
		switch {
		case r.at+r.size <= at:
			return -1
		case r.at > at:
			return 1
		}
		return 0
	}); ok {
		end = max(end, b.wants[i].at+b.wants[i].size)
	}
	if err := b.far.read(ctx, p, at, end); err != nil {
		return err
	}
	if !b.check.Good(p, at) {
		return fmt.Errorf("bytes %d to %d of the new root: %w", at, at+int64(len(p)), verity.ErrCorrupt)
	}
	return nil
}

// far is the new root where it is published. Some of it is kept.
type far struct {
	part Part
	kept []piece
	open io.ReadCloser
	at   int64 // of what comes next of open, and where that ends
	end  int64
}

type piece struct {
	at int64
	b  []byte
}

// keep fetches some bytes, which stay.
func (f *far) keep(ctx context.Context, at, n int64) error {
	if n == 0 { // the hash tree of one block is its root
		f.kept = append(f.kept, piece{at: at})
		return nil
	}
	r, err := f.part(ctx, at, n)
	if err != nil {
		return err
	}
	defer r.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("fetching bytes %d to %d of the new root: %w", at, at+n, err)
	}
	f.kept = append(f.kept, piece{at, b})
	return nil
}

func (f *far) has(at, n int64) bool {
	return slices.ContainsFunc(f.kept, func(k piece) bool { return at >= k.at && at+n <= k.at+int64(len(k.b)) })
}

// ReadAt implements io.ReaderAt of what is kept.
func (f *far) ReadAt(p []byte, at int64) (int, error) {
	for _, k := range f.kept {
		if at >= k.at && at < k.at+int64(len(k.b)) {
			n := copy(p, k.b[at-k.at:])
			if n < len(p) {
				return n, io.EOF
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("byte %d of the new root was not fetched", at)
}

// read reads some bytes. What follows them up to end will be read next.
func (f *far) read(ctx context.Context, p []byte, at, end int64) error {
	if f.open == nil || at < f.at || at+int64(len(p)) > f.end {
		f.close()
		var err error
		if f.open, err = f.part(ctx, at, end-at); err != nil {
			f.open = nil
			return err
		}
		f.at, f.end = at, end
	}
	if _, err := io.CopyN(io.Discard, f.open, at-f.at); err != nil {
		return err
	}
	if _, err := io.ReadFull(f.open, p); err != nil {
		return fmt.Errorf("fetching bytes %d to %d of the new root: %w", at, at+int64(len(p)), err)
	}
	f.at = at + int64(len(p))
	return nil
}

func (f *far) close() {
	if f.open != nil {
		f.open.Close()
		f.open = nil
	}
}
