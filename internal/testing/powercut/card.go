// Package powercut says what is left of a card when the power goes in the middle
// of writing to it. A run is recorded, every write and every flush; from the
// record come the states a card may be left in: some of what was written since
// the last flush is there, some is not, and one sector may be half of each.
// Whoever judges a state reads it like any card.
package powercut

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"os"
	"slices"
)

// SectorSize is what a card writes whole or not at all, but for the one that
// was being written when the power went. Bytes.
const SectorSize = 512

const pageSize = 4096

// Card is a card in memory. What was never written is zero and takes no room.
// Clones share what they have in common.
type Card struct{ pages map[int64]*[pageSize]byte }

// NewCard returns a card of zeros.
func NewCard() *Card { return &Card{pages: map[int64]*[pageSize]byte{}} }

// Clone returns a card with the same bytes.
func (c *Card) Clone() *Card {
	pages := make(map[int64]*[pageSize]byte, len(c.pages))
	for k, v := range c.pages {
		pages[k] = v
	}
	return &Card{pages}
}

// ReadAt implements io.ReaderAt. The card has no end.
func (c *Card) ReadAt(b []byte, at int64) (int, error) {
	for done := 0; done < len(b); {
		pos := at + int64(done)
		off := pos % pageSize
		n := min(len(b)-done, int(pageSize-off))
		if p := c.pages[pos/pageSize]; p != nil {
			copy(b[done:done+n], p[off:])
		} else {
			clear(b[done : done+n])
		}
		done += n
	}
	return len(b), nil
}

// WriteAt implements io.WriterAt.
func (c *Card) WriteAt(b []byte, at int64) (int, error) {
	for done := 0; done < len(b); {
		pos := at + int64(done)
		p := new([pageSize]byte)
		if old := c.pages[pos/pageSize]; old != nil {
			*p = *old // a clone may hold it too
		}
		done += copy(p[pos%pageSize:], b[done:])
		c.pages[pos/pageSize] = p
	}
	return len(b), nil
}

// Load reads a card from a file.
func Load(name string) (*Card, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := NewCard()
	buf := make([]byte, 1<<20)
	for at := int64(0); ; at += int64(len(buf)) {
		n, err := io.ReadFull(f, buf)
		for off := 0; off < n; off += pageSize {
			if b := buf[off:min(off+pageSize, n)]; len(bytes.Trim(b, "\x00")) > 0 {
				c.WriteAt(b, at+int64(off))
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return c, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// Sub returns a card from a place on.
func Sub(c *Card, at int64) io.ReaderAt { return io.NewSectionReader(c, at, 1<<62) }

// Op is one thing that was done to a card.
type Op struct {
	At    int64  // bytes, of a whole sector
	Data  []byte // whole sectors
	Flush bool   // all that was written before is on the card
	Fact  string // not done to the card: what was found out at this moment
}

// Recorder is a card that remembers what was done to it.
type Recorder struct {
	*Card
	Base *Card // what was there in the beginning
	Ops  []Op
	// Fail may refuse what is to be done: a write at a place, a flush (-1), a
	// read (-2).
	Fail func(at int64, n int) error
	// Rots is the place of a byte that does not keep what is written to it; 0
	// for none.
	Rots int64
	// Steps counts everything done to the card.
	Steps int

	stale bool // Card has what a flush that failed did not write
}

// The invalid places that Fail is asked about.
const (
	Flushing int64 = -1
	Reading  int64 = -2
)

// Record returns a recorder of a card.
func Record(c *Card) *Recorder { return &Recorder{Card: c, Base: c.Clone()} }

func (r *Recorder) ask(at int64, n int) error {
	r.Steps++
	if r.Fail == nil {
		return nil
	}
	return r.Fail(at, n)
}

// ReadAt implements io.ReaderAt.
func (r *Recorder) ReadAt(b []byte, at int64) (int, error) {
	if err := r.ask(Reading, len(b)); err != nil {
		return 0, err
	}
	return r.Card.ReadAt(b, at)
}

// WriteAt implements io.WriterAt. Like a kernel it writes whole sectors.
func (r *Recorder) WriteAt(b []byte, at int64) (int, error) {
	if err := r.ask(at, len(b)); err != nil {
		return 0, err
	}
	first := at / SectorSize * SectorSize
	end := (at + int64(len(b)) + SectorSize - 1) / SectorSize * SectorSize
	whole := make([]byte, end-first)
	if _, err := r.Card.ReadAt(whole, first); err != nil {
		return 0, err
	}
	copy(whole[at-first:], b)
	if r.Rots != 0 && r.Rots >= first && r.Rots < end {
		whole[r.Rots-first] ^= 0x20
	}
	r.Ops = append(r.Ops, Op{At: first, Data: whole})
	_, err := r.Card.WriteAt(whole, first)
	return len(b), err
}

// Flush implements medium.Medium. What a flush that fails was to write is not on
// the card, and no later flush writes it, though it reads well until Forget: so
// Linux treats the pages that it could not write back
// (https://wiki.postgresql.org/wiki/Fsync_Errors).
func (r *Recorder) Flush() error {
	if err := r.ask(Flushing, 0); err != nil {
		last := len(r.Ops)
		for last > 0 && !r.Ops[last-1].Flush {
			last--
		}
		r.Ops = slices.DeleteFunc(r.Ops, func(o Op) bool { last--; return last < 0 && o.Data != nil })
		r.stale = true
		return err
	}
	r.Ops = append(r.Ops, Op{Flush: true})
	return nil
}

// Forget implements medium.Medium.
func (r *Recorder) Forget() error {
	if !r.stale {
		return nil
	}
	r.Card, r.stale = r.Base.Clone(), false
	for _, o := range r.Ops {
		if _, err := r.Card.WriteAt(o.Data, o.At); err != nil {
			return err
		}
	}
	return nil
}

// Fact notes what was found out.
func (r *Recorder) Fact(text string) { r.Ops = append(r.Ops, Op{Fact: text}) }

// Cut returns the card as a power cut may leave it now: of what was written
// since the last flush some is there, and of the last of it not all.
func (r *Recorder) Cut(random *rand.Rand) *Card {
	last := 0
	for i, o := range r.Ops {
		if o.Flush {
			last = i
		}
	}
	c := r.Base.Clone()
	for i, o := range r.Ops {
		for off := 0; off < len(o.Data); off += SectorSize {
			n := SectorSize
			if i == len(r.Ops)-1 && random.IntN(4) == 0 {
				n = random.IntN(SectorSize)
			}
			if i < last || random.IntN(3) > 0 {
				c.WriteAt(o.Data[off:off+n], o.At+int64(off))
			}
		}
	}
	return c
}

// The log that QEMU's blklogwrites and the kernel's dm-log-writes keep: a
// superblock, and for each entry a head of one sector and its data
// (drivers/md/dm-log-writes.c).
const (
	logMagic   = 0x6a736677736872
	logFlush   = 1
	logFUA     = 2
	logDiscard = 4
	logMark    = 8
)

// ReadLog reads a log of blklogwrites or dm-log-writes.
func ReadLog(r io.ReaderAt) ([]Op, error) {
	head := make([]byte, SectorSize)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("reading a log of writes: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint64(head) != logMagic || le.Uint64(head[8:]) != 1 {
		return nil, errors.New("reading a log of writes: invalid magic or version")
	}
	entries, sector := le.Uint64(head[16:]), int64(le.Uint32(head[24:]))
	if sector < SectorSize || sector > 4096 || sector%SectorSize != 0 {
		return nil, fmt.Errorf("reading a log of writes: sectors of %d bytes", sector)
	}
	var ops []Op
	at := sector
	for i := range entries {
		if _, err := r.ReadAt(head[:32], at); err != nil {
			return nil, fmt.Errorf("reading a log of writes: entry %d of %d: %w", i, entries, err)
		}
		at += sector
		place, n, flags, more := le.Uint64(head)*uint64(sector), le.Uint64(head[8:])*uint64(sector), le.Uint64(head[16:]), le.Uint64(head[24:])
		if flags&logMark != 0 {
			at += (int64(more) + sector - 1) / sector * sector
			continue
		}
		if flags&logFlush != 0 {
			ops = append(ops, Op{Flush: true})
		}
		if n == 0 {
			continue
		}
		if n > 1<<30 {
			return nil, fmt.Errorf("reading a log of writes: entry %d writes %d bytes", i, n)
		}
		data := make([]byte, n)
		if flags&logDiscard == 0 { // what was given up reads as zeros
			if _, err := r.ReadAt(data, at); err != nil {
				return nil, fmt.Errorf("reading a log of writes: entry %d of %d: %w", i, entries, err)
			}
			at += int64(n)
		}
		ops = append(ops, Op{At: int64(place), Data: data})
		if flags&logFUA != 0 {
			// On the card when it returns; nothing is said of what was before. What
			// is lost of that stays possible, so this is no flush.
			continue
		}
	}
	return ops, nil
}

var seed = maphash.MakeSeed()

// sum is a fingerprint of one sector in its place; of one of zeros it is 0, so
// that those need not be looked for.
func sum(sector int64, b []byte) uint64 {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return 0
	}
	var h maphash.Hash
	h.SetSeed(seed)
	var place [8]byte
	binary.LittleEndian.PutUint64(place[:], uint64(sector))
	h.Write(place[:])
	h.Write(b)
	return h.Sum64()
}
