// Package medium writes to cards and reads them back: in large pieces, the
// next of which is read while one is written, with every byte compared in the
// end. Flashing a card on the host and updating a slot on a node share it.
package medium

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Medium is a card, or anything else that can be one.
type Medium interface {
	io.ReaderAt
	io.WriterAt
	// Flush returns when all that was written is on the medium.
	Flush() error
	// Forget has later reads come from the medium.
	Forget() error
}

// Starter is a medium that can be told that some of it is complete: it begins
// to write that to the card, and does not wait. Otherwise much of an image
// waits in memory for the flush, while the card has nothing to do.
type Starter interface {
	StartWriting(at, n int64)
	// StartReading has bytes read that are wanted soon.
	StartReading(at, n int64)
}

// Part is a part of a medium: places in it are counted from its start.
type Part struct {
	W     fat.CopierAt
	Start int64 // bytes
}

// WriteAt implements io.WriterAt.
func (p Part) WriteAt(b []byte, at int64) (int, error) { return p.W.WriteAt(b, p.Start+at) }

// CopyAt implements fat.CopierAt.
func (p Part) CopyAt(r io.Reader, at int64) (int64, error) { return p.W.CopyAt(r, p.Start+at) }

// ErrDiffers is returned for a medium that does not keep what was written.
var ErrDiffers = hint.With(errors.New("the card does not hold what was written to it"), "try another reader or another card")

// CopySize is what is read, written or compared at once, in bytes: the erase
// block of common cards.
const CopySize = 4 << 20

// Writer writes to a medium.
type Writer struct {
	Check    func() error // called before each piece, ends the writing: the Err of a context
	To       io.WriterAt
	Progress func(int64) // how many more bytes were written; may be nil
}

// WriteAt implements io.WriterAt.
func (w *Writer) WriteAt(b []byte, at int64) (int, error) {
	if err := w.Check(); err != nil {
		return 0, err
	}
	n, err := w.To.WriteAt(b, at)
	if w.Progress != nil {
		w.Progress(int64(n))
	}
	return n, err
}

// CopyAt implements fat.CopierAt. The next piece is read, and its digest
// made, while one is written.
func (w *Writer) CopyAt(r io.Reader, at int64) (int64, error) {
	return Pieces(r, func(b []byte, done int64) error {
		_, err := w.WriteAt(b, at+done)
		return err
	})
}

// Comparer reads a medium back, and compares it with what would be written.
type Comparer struct {
	Check    func() error // called before each piece, ends the comparison: the Err of a context
	With     io.ReaderAt
	Progress func(int64) // how many more bytes were compared; may be nil
	buf      []byte
}

// WriteAt implements io.WriterAt. The error is ErrDiffers where the medium holds
// other bytes.
func (c *Comparer) WriteAt(b []byte, at int64) (int, error) {
	if err := c.Check(); err != nil {
		return 0, err
	}
	if len(c.buf) < len(b) {
		c.buf = make([]byte, max(len(b), CopySize))
	}
	got := c.buf[:len(b)]
	if _, err := c.With.ReadAt(got, at); err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("reading back at byte %d: %w", at, err)
	}
	if !bytes.Equal(got, b) {
		i := 0
		for got[i] == b[i] {
			i++
		}
		return 0, fmt.Errorf("byte %d: %w", at+int64(i), ErrDiffers)
	}
	if c.Progress != nil {
		c.Progress(int64(len(b)))
	}
	return len(b), nil
}

// CopyAt implements fat.CopierAt.
func (c *Comparer) CopyAt(r io.Reader, at int64) (int64, error) {
	return Pieces(r, func(b []byte, done int64) error {
		_, err := c.WriteAt(b, at+done)
		return err
	})
}

// piece is some of what a reader holds.
type piece struct {
	b   []byte
	err error // io.EOF after the last
}

// firstRead is how much is read before a whole buffer is made for a reader.
const firstRead = 64 << 10

// fill reads up to CopySize bytes, into b or, where that is nil, into a buffer
// as large as the reader needs.
func fill(r io.Reader, b []byte) ([]byte, error) {
	if b != nil {
		n, err := readFull(r, b[:CopySize])
		return b[:n], err
	}
	first := make([]byte, firstRead)
	n, err := readFull(r, first)
	if err != nil {
		return first[:n], err
	}
	b = make([]byte, CopySize)
	copy(b, first)
	n, err = readFull(r, b[firstRead:])
	return b[:firstRead+n], err
}

// readFull is io.ReadFull with the reader's own errors: an io.ErrUnexpectedEOF is
// that of a reader whose input is cut off, such as a decompressor's, and io.EOF
// is the end, in the middle of b too.
func readFull(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var more int
		more, err = r.Read(b[n:])
		n += more
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

// Pieces reads r ahead, and hands what it holds to use in order.
func Pieces(r io.Reader, use func(b []byte, done int64) error) (int64, error) {
	free, full := make(chan []byte, 2), make(chan piece, 2)
	for range cap(free) {
		free <- nil // made when it is needed: most files are smaller than one buffer
	}
	stop := make(chan struct{})
	go func() {
		defer close(full)
		for {
			var b []byte
			select {
			case b = <-free:
			case <-stop:
				return
			}
			b, err := fill(r, b)
			full <- piece{b, err}
			if err != nil {
				return
			}
		}
	}()
	defer func() {
		close(stop)
		for range full { // the reader is the caller's again when the goroutine is gone
		}
	}()
	var done int64
	for p := range full {
		if len(p.b) > 0 {
			if err := use(p.b, done); err != nil {
				return done, err
			}
			done += int64(len(p.b))
		}
		if p.err != nil && !errors.Is(p.err, io.EOF) {
			return done, p.err
		}
		free <- p.b
	}
	return done, nil
}

// CopySparse copies r into a new file, with holes where there are only zeros.
func CopySparse(f *os.File, r io.Reader) error {
	var none [CopySize]byte
	size, err := Pieces(r, func(b []byte, done int64) error {
		if bytes.Equal(b, none[:len(b)]) {
			return nil
		}
		_, err := f.WriteAt(b, done)
		return err
	})
	if err != nil {
		return err
	}
	return f.Truncate(size)
}
