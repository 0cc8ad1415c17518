package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// ErrCorrupt is returned for a block that is not what was written: the disk, or
// another program, changed the file.
var ErrCorrupt = errors.New("cached block failed its checksum")

// Adopt makes contents that were written down readable from f, which holds
// them. It counts them against the budget; on an error none is counted.
func (f *File) Adopt(list []*Content) error {
	taken := int64(0)
	for _, c := range list {
		if err := f.budget.take(c.Size); err != nil {
			f.budget.used.Add(-taken)
			return err
		}
		taken += c.Size
		c.file = f
	}
	return nil
}

// Sums returns the hashes of the content and of its whole blocks.
func (c *Content) Sums() (all, head [sha256.Size]byte) { return c.Sum, c.Head }

// Sizes returns the size words of the whole blocks.
func (c *Content) Sizes() []uint32 {
	c.pending.Wait()
	list := make([]uint32, len(c.Blocks))
	for i, b := range c.Blocks {
		list[i] = b.Word
	}
	return list
}

// ReadBlock reads a whole block as it is kept, or returns ErrCorrupt; to is as
// long as the size word says, in bytes.
func (c *Content) ReadBlock(i int, to []byte) error {
	c.pending.Wait()
	return c.read(c.Blocks[i], to)
}

// ReadTail reads what is behind the whole blocks, or returns ErrCorrupt.
func (c *Content) ReadTail(to []byte) error { return c.read(c.Tail, to) }

func (c *Content) read(b Block, to []byte) error {
	if err := c.file.failed.Load(); err != nil {
		return *err
	}
	if _, err := c.file.f.ReadAt(to, b.At); err != nil && err != io.EOF {
		return err
	}
	if crc32.Checksum(to, castagnoli) != b.CRC {
		return fmt.Errorf("%s, byte %d: %w", c.file.f.Name(), b.At, ErrCorrupt)
	}
	return nil
}

// Open returns a reader of the content as it was put.
func (c *Content) Open() (io.ReadCloser, error) { return &reader{c: c}, nil }

type reader struct {
	c    *Content
	i    int    // the next block
	left []byte // of the block before it
	raw  []byte // room for one
	dec  *squashfs.Decoder
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// next reads one more block.
func (r *reader) next() error {
	bs := r.c.file.pool.Compression.BlockSize
	r.i++
	switch {
	case r.i <= len(r.c.Blocks):
		var err error
		r.left, err = r.block(r.c.Blocks, r.i-1, bs)
		return err
	case r.i == len(r.c.Blocks)+1 && r.c.Tail.Word > 0:
		r.left = make([]byte, r.c.Tail.Word)
		return r.c.ReadTail(r.left)
	}
	return io.EOF
}

func (r *reader) block(blocks []Block, i, size int) ([]byte, error) {
	r.c.pending.Wait()
	n, compressed := squashfs.Length(blocks[i].Word)
	if n == 0 {
		return make([]byte, size), nil
	}
	if cap(r.raw) < size {
		r.raw = make([]byte, size)
	}
	raw := r.raw[:n]
	if err := r.c.ReadBlock(i, raw); err != nil {
		return nil, err
	}
	if !compressed {
		return raw, nil
	}
	if r.dec == nil {
		var err error
		if r.dec, err = r.c.file.pool.Compression.NewDecoder(); err != nil {
			return nil, err
		}
	}
	return r.dec.Decode(raw)
}

func (r *reader) Close() error {
	if r.dec != nil {
		r.dec.Close()
	}
	return nil
}

// ReaderAt reads a content at any place. It keeps the block it read last, and is
// not for concurrent use.
type ReaderAt struct {
	r    reader
	have int // the block in last, from 1 on; 0 for none
	last []byte
}

// OpenAt returns a reader of the content at any place.
func (c *Content) OpenAt() *ReaderAt { return &ReaderAt{r: reader{c: c}} }

// ReadAt implements io.ReaderAt.
func (a *ReaderAt) ReadAt(p []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, fmt.Errorf("reading at %d of a file: negative offset", at)
	}
	size := int64(a.r.c.file.pool.Compression.BlockSize)
	for n < len(p) && at < a.r.c.Size {
		if want := int(at/size) + 1; a.have != want {
			a.have, a.r.i = 0, want-1
			if err := a.r.next(); err != nil {
				return n, err
			}
			a.have, a.last = want, a.r.left
		}
		m := copy(p[n:], a.last[at%size:])
		n, at = n+m, at+int64(m)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Close ends the reading.
func (a *ReaderAt) Close() error { return a.r.Close() }
