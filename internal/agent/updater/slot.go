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
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
	"github.com/pikelet-os/pikelet/internal/disk/medium"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// Written says how much of a slot had to be written, in bytes. The rest was
// there already, and is not worn out.
type Written struct{ Bytes, Same int64 }

// WriteSlot writes an image into a slot's partition, and reads it back. A slot
// that holds the image already is left as it is.
func WriteSlot(ctx context.Context, d medium.Medium, img slots.Image, l slots.Letter, p disk.Partition) (Written, error) {
	layout, err := img.Slot(l, p)
	if err != nil {
		return Written{}, err
	}
	if compare(ctx, d, img, l, p, nil) == nil {
		return Written{}, nil
	}
	if layout, err = reusing(d, img, l, p, layout).Slot(l, p); err != nil {
		return Written{}, err
	}
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
	w := &writer{Writer: medium.Writer{Ctx: ctx, To: d, Tell: func(int64) {}}, d: d, start: p.Start, last: map[int64][]byte{}}
	if err := layout.Write(w); err != nil {
		return w.Written, fmt.Errorf("writing slot %s: %w", l, err)
	}
	// All but the first sector and its copy is on the card, and read back, before
	// those are written: what is a filesystem is whole.
	if err := settle(d); err != nil {
		return w.Written, fmt.Errorf("writing slot %s: %w", l, err)
	}
	if err := compare(ctx, d, img, l, p, boot); err != nil {
		return w.Written, fmt.Errorf("reading slot %s back: %w", l, err)
	}
	for _, at := range slices.Backward(slices.Sorted(maps.Keys(w.last))) {
		if _, err := d.WriteAt(w.last[at], p.Start+at); err != nil {
			return w.Written, fmt.Errorf("writing slot %s: %w", l, err)
		}
	}
	if err := settle(d); err != nil {
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

// reusing has files of an image come from the slot itself, where they lie there
// already: those that an earlier image had in the same place, and what an
// upgrade that was cut off had brought. They need not be fetched again. What is
// there counts by its digest alone.
func reusing(d io.ReaderAt, img slots.Image, l slots.Letter, p disk.Partition, layout *fat.Layout) slots.Image {
	digests, known := earlier(d, p)
	open := img.Open
	img.Open = func(name string) (io.ReadCloser, error) {
		f, _ := img.Manifest.File(name)
		if known && !digests[f.Digest] {
			return open(name)
		}
		on, _ := l.OnSlot(name)
		there := func() io.Reader { return io.NewSectionReader(d, p.Start+layout.Offset(on), f.Size) }
		if got, err := digestOf(there()); err != nil || got != f.Digest {
			return open(name)
		}
		return io.NopCloser(there()), nil
	}
	return img
}

// earlier returns the digests of the files of the image that a slot holds. Of
// one that is no filesystem, such as one that was being written, nothing is
// known.
func earlier(d io.ReaderAt, p disk.Partition) (digests map[string]bool, known bool) {
	v, err := fat.Open(io.NewSectionReader(d, p.Start, p.Size))
	if err != nil {
		return nil, false
	}
	text, err := v.ReadFile(artifact.ManifestFile, artifact.MaxManifest)
	if err != nil {
		return nil, false
	}
	m, err := artifact.DecodeManifest(text)
	if err != nil {
		return nil, false
	}
	digests = map[string]bool{}
	for _, f := range m.Files {
		digests[f.Digest] = true
	}
	return digests, true
}

// settle returns when all that was written is on the card, and later reads come
// from there.
func settle(d medium.Medium) error {
	if err := d.Flush(); err != nil {
		return err
	}
	return d.Forget()
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
}

// WriteAt implements io.WriterAt.
func (w *writer) WriteAt(b []byte, at int64) (int, error) {
	if slices.Contains(boot, at) && len(b) == disk.SectorSize {
		w.last[at] = bytes.Clone(b)
		return len(b), nil
	}
	old := w.old(b, at)
	if s, ok := w.d.(medium.Starter); ok {
		defer s.StartWriting(w.start+at, int64(len(b)))
	}
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

// probeEvery is how far apart blocks are that are compared first, in bytes.
const probeEvery = 256 << 10

// old returns what is on the card where b is to be written; nil where nothing
// of it is to be kept: it cannot be read, or every block that was looked at
// differs. Reading all of a card costs a third of writing it, and where one
// file moved none of what is behind it is the same.
func (w *writer) old(b []byte, at int64) []byte {
	if len(w.buf) < len(b) {
		w.buf = make([]byte, max(len(b), medium.CopySize))
	}
	old := w.buf[:len(b)]
	for off := 0; off < len(b); off += probeEvery {
		end := min(off+block, len(b))
		if _, err := w.d.ReadAt(old[off:end], w.start+at+int64(off)); err != nil {
			return nil
		}
		if !bytes.Equal(old[off:end], b[off:end]) {
			continue
		}
		if _, err := w.d.ReadAt(old, w.start+at); err != nil {
			return nil
		}
		return old
	}
	return nil
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
func compare(ctx context.Context, d io.ReaderAt, img slots.Image, l slots.Letter, p disk.Partition, but []int64) error {
	var layout *fat.Layout
	there := img
	there.Open = func(name string) (io.ReadCloser, error) {
		f, ok := img.Manifest.File(name)
		if !ok {
			return nil, fmt.Errorf("the image has no file %q", name)
		}
		on, _ := l.OnSlot(name)
		return &checked{f: f, r: io.NewSectionReader(d, p.Start+layout.Offset(on), f.Size), sum: sha256.New()}, nil
	}
	var err error
	if layout, err = there.Slot(l, p); err != nil {
		return err
	}
	with := medium.Part{W: &medium.Comparer{Ctx: ctx, With: d, Tell: func(int64) {}}, Start: p.Start}
	return layout.Write(leaving{with, but})
}

// leaving compares all but sectors that begin at some places.
type leaving struct {
	medium.Part
	out []int64
}

// WriteAt implements io.WriterAt.
func (c leaving) WriteAt(b []byte, at int64) (int, error) {
	if slices.Contains(c.out, at) && len(b) == disk.SectorSize {
		return len(b), nil
	}
	return c.Part.WriteAt(b, at)
}

// checked reads a file where it lies on the card, and ends well only if it has
// its digest.
type checked struct {
	f   artifact.File
	r   io.Reader
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
}

// Read implements io.Reader.
func (c *checked) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.sum.Write(b[:n])
	if err == io.EOF {
		if got := hex.EncodeToString(c.sum.Sum(nil)); got != strings.TrimPrefix(c.f.Digest, "sha256:") {
			return n, fmt.Errorf("%s: its digest on the card is sha256:%s; the signed manifest says %s", c.f.Name, got, c.f.Digest)
		}
	}
	return n, err
}

// Close implements io.Closer.
func (c *checked) Close() error { return nil }

// Commit makes a slot the default: one sector, in place, read back.
func Commit(d medium.Medium, t disk.Table, l slots.Letter) error {
	at, size, err := slots.ControlFile(d, t, slots.AutobootFile)
	if err != nil {
		return fmt.Errorf("committing slot %s: %w", l, err)
	}
	text := slots.EncodeAutoboot(l)
	if size != int64(len(text)) {
		return fmt.Errorf("committing slot %s: autoboot.txt has %d bytes; pikelet flash --repair-control writes it anew", l, size)
	}
	if _, err := d.WriteAt(text, at); err != nil {
		return fmt.Errorf("committing slot %s: %w", l, err)
	}
	if err := d.Flush(); err != nil {
		return fmt.Errorf("committing slot %s: %w", l, err)
	}
	if err := d.Forget(); err != nil {
		return fmt.Errorf("committing slot %s: %w", l, err)
	}
	got := make([]byte, len(text))
	if _, err := d.ReadAt(got, at); err != nil || !bytes.Equal(got, text) {
		return fmt.Errorf("committing slot %s: %w (%v)", l, medium.ErrDiffers, err)
	}
	return nil
}
