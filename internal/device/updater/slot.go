// Package updater replaces the slot a node does not run. At every instant of
// it a power cut leaves a card that starts a whole image: the slot that runs
// is not touched, the other one is no filesystem until all of it is there,
// and what decides between them is one sector.
//
// It writes to anything that reads and writes like a card, so that all of it
// is tested on a desk.
package updater

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"maps"
	"slices"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Written says how much of a slot had to be written, in bytes. The rest was
// there already, and is not worn out.
type Written struct{ Bytes, Same int64 }

// WriteSlot writes an image into a slot's partition, and reads it back. A slot
// that holds the image already is left as it is. What the image's files are
// opened as need not be checked by whoever opens them: every byte is checked
// where it lies on the card, before the slot is one. The error is
// medium.ErrDiffers where the card does not hold what was written.
func WriteSlot(ctx context.Context, d medium.Medium, img image.Image, l slots.Letter, p disk.Partition) (Written, error) {
	sizes, err := slots.SizesOf(img)
	if err != nil {
		return Written{}, err
	}
	layout, err := sizes.Slot(l, p)
	if err != nil {
		return Written{}, err
	}
	if compare(ctx, d, img, l, p, layout, nil) == nil {
		// A process that was killed may have written it, and not have flushed.
		if err := Settle(d); err != nil {
			return Written{}, fmt.Errorf("writing slot %s: %w", l, err)
		}
		return Written{}, nil
	}
	source := image.Prefer(img, inPlace(d, l, p, layout))
	seed := maphash.MakeSeed()
	was := probe(d, p, seed)
	// A slot that is being written is nothing a firmware walks into: its first
	// sector, the copy of that, and the two that count its clusters are gone
	// before anything else of it changes.
	none := make([]byte, disk.SectorSize)
	for _, sector := range []int64{0, 1, 6, 7} {
		if _, err := d.WriteAt(none, p.Start+sector*disk.SectorSize); err != nil {
			return Written{}, fmt.Errorf("taking slot %s out of use: %w", l, err)
		}
	}
	if err := d.Flush(); err != nil {
		return Written{}, fmt.Errorf("taking slot %s out of use: %w", l, err)
	}
	w := &writer{
		Writer: medium.Writer{Check: ctx.Err, To: d},
		d:      d, start: p.Start, last: map[int64][]byte{}, seed: seed, probes: was,
	}
	contents := slots.Contents(img, l, func(name string) (io.ReadCloser, error) { return source.OpenUnchecked(ctx, name) })
	if err := layout.Write(w, contents); err != nil {
		return w.Written, fmt.Errorf("writing slot %s: %w", l, err)
	}
	// All but the first sector and its copy is on the card, and read back, before
	// those are written: what is a filesystem is whole.
	if err := Settle(d); err != nil {
		return w.Written, fmt.Errorf("writing slot %s: %w", l, err)
	}
	if err := compare(ctx, d, img, l, p, layout, boot); err != nil {
		return w.Written, fmt.Errorf("reading slot %s back: %w", l, blame(ctx, err, img))
	}
	for _, at := range slices.Backward(slices.Sorted(maps.Keys(w.last))) {
		if _, err := d.WriteAt(w.last[at], p.Start+at); err != nil {
			return w.Written, fmt.Errorf("writing slot %s: %w", l, err)
		}
	}
	if err := Settle(d); err != nil {
		return w.Written, fmt.Errorf("writing slot %s: %w", l, err)
	}
	got := make([]byte, disk.SectorSize)
	for at, want := range w.last {
		if _, err := d.ReadAt(got, p.Start+at); err != nil || !bytes.Equal(got, want) {
			return w.Written, fmt.Errorf("reading slot %s back: sector %d: %w", l, at/disk.SectorSize, errors.Join(medium.ErrDiffers, err))
		}
	}
	return w.Written, nil
}

// placed is the files of an image that lie on a card already where a layout puts
// them: those that an earlier image had in the same place, and what an upgrade
// that was cut off had brought. They need not be fetched again. What is there
// counts by its digest alone.
type placed struct {
	d       io.ReaderAt
	letter  slots.Letter
	start   int64 // of the partition, bytes
	layout  *fat.Layout
	digests map[string]bool // of the files that an earlier image has there
	known   bool            // digests is known
}

func inPlace(d io.ReaderAt, l slots.Letter, p disk.Partition, layout *fat.Layout) placed {
	digests, known := earlier(d, p)
	return placed{d, l, p.Start, layout, digests, known}
}

// OpenAt implements image.Source.
func (p placed) OpenAt(f image.File) (image.ReaderAt, error) {
	on, ok := p.letter.OnSlot(f.Name)
	if !ok || p.known && !p.digests[f.Digest] {
		return nil, fs.ErrNotExist
	}
	there := io.NewSectionReader(p.d, p.start+p.layout.Offset(on), f.Size)
	if got, err := digestOf(io.NewSectionReader(there, 0, f.Size)); err != nil || got != f.Digest {
		return nil, fs.ErrNotExist
	}
	return image.NopCloser(there), nil
}

// Open implements image.Source.
func (p placed) Open(_ context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	return image.OpenSection(p, f, at, n)
}

// earlier returns the digests of the files of the image that a slot holds. Of
// one that is no filesystem, such as one that was being written, nothing is
// known.
func earlier(d io.ReaderAt, p disk.Partition) (digests map[string]bool, known bool) {
	v, err := fat.Open(io.NewSectionReader(d, p.Start, p.Size))
	if err != nil {
		return nil, false
	}
	text, err := v.ReadFile(image.ManifestFile, image.MaxManifest)
	if err != nil {
		return nil, false
	}
	m, err := image.DecodeManifest(text)
	if err != nil {
		return nil, false
	}
	digests = map[string]bool{}
	for _, f := range m.Files {
		digests[f.Digest] = true
	}
	return digests, true
}

// Settle returns when all that was written is on the card, and later reads come
// from there, also where an error says that not all of it is: a process that was
// killed before its flush leaves bytes that read well and that a power cut takes
// away, and so does a flush that failed.
func Settle(d medium.Medium) error {
	return errors.Join(d.Flush(), d.Forget())
}

// boot are the sectors that make a volume of a partition: the first, and its
// copy.
var boot = []int64{0, 6 * disk.SectorSize}

// writer writes a volume, but for what is there already, and keeps the sectors
// that make a volume of it for later.
type writer struct {
	medium.Writer
	Written
	d     io.ReaderAt
	start int64 // of the partition, bytes
	last  map[int64][]byte
	buf   []byte
	seed  maphash.Seed
	probes
}

// WriteAt implements io.WriterAt.
func (w *writer) WriteAt(b []byte, at int64) (int, error) {
	if slices.Contains(boot, at) && len(b) == disk.SectorSize {
		w.last[at] = bytes.Clone(b)
		return len(b), nil
	}
	if s, ok := w.d.(medium.Starter); ok {
		defer s.StartWriting(w.start+at, int64(len(b)))
	}
	old := w.old(b, at)
	for done := 0; done < len(b); {
		n, same := run(b[done:], old, done)
		if same {
			w.Same += int64(n)
		} else if _, err := w.Writer.WriteAt(b[done:done+n], w.start+at+int64(done)); err != nil {
			return done, err
		} else {
			w.Bytes += int64(n)
		}
		done += n
	}
	return len(b), nil
}

// probeEvery is how far apart blocks are that are looked at before anything is
// written, in bytes: half a second for a gigabyte of card.
const probeEvery = 1 << 20

// probes are the blocks of a partition that lie probeEvery apart, as they were.
// They say where it may be worth reading what was there. Reading all of a card
// costs a third of writing it, and where one file moved none of what is behind
// it is the same; and a read in the midst of writing waits for the writes
// before it, which made a slot take twice as long.
type probes map[int64]uint64

// probe looks at a partition. Blocks that cannot be read are left out.
func probe(d io.ReaderAt, p disk.Partition, seed maphash.Seed) probes {
	if s, ok := d.(medium.Starter); ok {
		for at := int64(0); at+block <= p.Size; at += probeEvery {
			s.StartReading(p.Start+at, block)
		}
	}
	found, buf := probes{}, make([]byte, block)
	for at := int64(0); at+block <= p.Size; at += probeEvery {
		if _, err := d.ReadAt(buf, p.Start+at); err == nil {
			found[at] = maphash.Bytes(seed, buf)
		}
	}
	return found
}

// old returns what is on the card where b is to be written; nil where nothing
// of it is to be kept: it cannot be read, or every block that was looked at
// differs. Less than lies between two of those is read.
func (w *writer) old(b []byte, at int64) []byte {
	first := (at + probeEvery - 1) / probeEvery * probeEvery
	looked, same := false, false
	for q := first; q+block <= at+int64(len(b)); q += probeEvery {
		was, ok := w.probes[q]
		looked = true
		same = same || ok && was == maphash.Bytes(w.seed, b[q-at:q-at+block])
	}
	if looked && !same {
		return nil
	}
	if len(w.buf) < len(b) {
		w.buf = make([]byte, max(len(b), medium.CopySize))
	}
	old := w.buf[:len(b)]
	if _, err := w.d.ReadAt(old, w.start+at); err != nil {
		return nil
	}
	return old
}

// CopyAt implements fat.CopierAt.
func (w *writer) CopyAt(r io.Reader, at int64) (int64, error) {
	return medium.Pieces(r, func(b []byte, done int64) error {
		_, err := w.WriteAt(b, at+done)
		return err
	})
}

// block is what is compared at once, in bytes: the page of a card's
// controller, below which a write costs a whole one.
const block = 4096

// run returns how many of b's first bytes are the same as on the card, or
// differ from it, in whole blocks.
func run(b, old []byte, done int) (n int, same bool) {
	if old == nil {
		return len(b), false
	}
	for n < len(b) {
		end := min(n+block, len(b))
		now := bytes.Equal(b[n:end], old[done+n:done+end])
		if n > 0 && now != same {
			return n, same
		}
		same, n = now, end
	}
	return n, same
}

// compare reads a slot and checks that it is the image's: every file by its
// digest, and all the rest byte by byte, but for some sectors.
func compare(ctx context.Context, d io.ReaderAt, img image.Image, l slots.Letter, p disk.Partition, layout *fat.Layout, but []int64) error {
	with := medium.Part{W: &medium.Comparer{Check: ctx.Err, With: d}, Start: p.Start}
	c := &comparer{Part: with, ended: ctx.Err, out: but}
	return layout.Write(c, slots.Contents(img, l, func(name string) (io.ReadCloser, error) {
		f, ok := img.File(name)
		if !ok {
			return nil, fmt.Errorf("opening %q of the image: %w", name, fs.ErrNotExist)
		}
		on, _ := l.OnSlot(name)
		c.file = &f
		return io.NopCloser(io.NewSectionReader(d, p.Start+layout.Offset(on), f.Size)), nil
	}))
}

// comparer compares all that is no file byte by byte, but for sectors that
// begin at some places, and files, which it is given as they lie on the card,
// by their digests.
type comparer struct {
	medium.Part
	ended func() error // the Err of the context that ends the comparison
	out   []int64
	file  *image.File // of the manifest, that was opened last and not read yet
}

// WriteAt implements io.WriterAt.
func (c *comparer) WriteAt(b []byte, at int64) (int, error) {
	if slices.Contains(c.out, at) && len(b) == disk.SectorSize {
		return len(b), nil
	}
	return c.Part.WriteAt(b, at)
}

// CopyAt implements fat.CopierAt. The next piece is read while the digest of
// one is made.
func (c *comparer) CopyAt(r io.Reader, at int64) (int64, error) {
	if c.file == nil { // the manifest, and its signature
		return c.Part.CopyAt(r, at)
	}
	file, sum := *c.file, sha256.New()
	c.file = nil
	n, err := medium.Pieces(r, func(b []byte, _ int64) error {
		sum.Write(b)
		return c.ended()
	})
	if err != nil {
		return n, err
	}
	if got := image.DigestOfSum(sum.Sum(nil)); got != file.Digest {
		return n, &wrongFile{file, got}
	}
	return n, nil
}

// wrongFile is the error of a file on the card whose digest differs from the
// manifest's.
type wrongFile struct {
	image.File
	got string
}

// Error implements error.
func (w *wrongFile) Error() string {
	return errDigest(w.Name, w.got, w.Digest).Error()
}

// blame adds to the error of a file that is wrong on the card whether its source
// or the card is at fault: the file is read once more from its source.
func blame(ctx context.Context, err error, img image.Image) error {
	var wrong *wrongFile
	if !errors.As(err, &wrong) {
		return err
	}
	r, openErr := img.OpenUnchecked(ctx, wrong.Name)
	if openErr != nil {
		return err
	}
	defer r.Close()
	switch got, readErr := digestOf(r); {
	case readErr != nil:
		return err
	case got != wrong.Digest:
		return hint.With(fmt.Errorf("%w; the source of the image sends the same file", err), "publish the image there again")
	}
	return fmt.Errorf("%w; the source of the image has the right one: %w", err, medium.ErrDiffers)
}

// Commit makes a slot the default: one sector, in place, read back. The error is
// medium.ErrDiffers where the card does not hold what was written.
func Commit(d medium.Medium, t disk.Table, l slots.Letter) error {
	at, size, err := slots.ControlFile(d, t, slots.AutobootFile)
	if err != nil {
		return fmt.Errorf("committing slot %s: %w", l, err)
	}
	text := slots.EncodeAutoboot(l)
	if size != int64(len(text)) {
		return hint.With(fmt.Errorf("committing slot %s: %s has %d bytes, want %d", l, slots.AutobootFile, size, len(text)),
			"repair the control partition of the card")
	}
	if _, err := d.WriteAt(text, at); err != nil {
		return fmt.Errorf("committing slot %s: %w", l, err)
	}
	if err := Settle(d); err != nil {
		return fmt.Errorf("committing slot %s: %w", l, err)
	}
	got := make([]byte, len(text))
	if _, err := d.ReadAt(got, at); err != nil || !bytes.Equal(got, text) {
		return fmt.Errorf("committing slot %s: %w", l, errors.Join(medium.ErrDiffers, err))
	}
	return nil
}
