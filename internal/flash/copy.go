package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// copySize is what is read, written or compared at once, in bytes: the erase
// block of common cards.
const copySize = 4 << 20

// writer writes to a card.
type writer struct {
	ctx  context.Context
	to   io.WriterAt
	tell func(int64)
}

// WriteAt implements io.WriterAt.
func (w *writer) WriteAt(b []byte, at int64) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.to.WriteAt(b, at)
	w.tell(int64(n))
	return n, err
}

// CopyAt implements fat.CopierAt. The next piece is read, and its digest
// made, while one is written.
func (w *writer) CopyAt(r io.Reader, at int64) (int64, error) {
	return pieces(r, func(b []byte, done int64) error {
		_, err := w.WriteAt(b, at+done)
		return err
	})
}

// comparer reads a card back, and compares it with what would be written.
type comparer struct {
	ctx  context.Context
	with io.ReaderAt
	tell func(int64)
	buf  []byte
}

// WriteAt implements io.WriterAt.
func (c *comparer) WriteAt(b []byte, at int64) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	if len(c.buf) < len(b) {
		c.buf = make([]byte, max(len(b), copySize))
	}
	got := c.buf[:len(b)]
	if _, err := c.with.ReadAt(got, at); err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("reading back at byte %d: %w", at, err)
	}
	if !bytes.Equal(got, b) {
		i := 0
		for got[i] == b[i] {
			i++
		}
		return 0, fmt.Errorf("byte %d: %w", at+int64(i), errDiffers)
	}
	c.tell(int64(len(b)))
	return len(b), nil
}

// CopyAt implements fat.CopierAt.
func (c *comparer) CopyAt(r io.Reader, at int64) (int64, error) {
	return pieces(r, func(b []byte, done int64) error {
		_, err := c.WriteAt(b, at+done)
		return err
	})
}

// piece is some of what a reader holds.
type piece struct {
	b   []byte
	err error // io.EOF after the last
}

// pieces reads r ahead, and hands what it holds to use in order.
func pieces(r io.Reader, use func(b []byte, done int64) error) (int64, error) {
	free, full := make(chan []byte, 2), make(chan piece, 2)
	for range cap(free) {
		free <- make([]byte, copySize)
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
			n, err := io.ReadFull(r, b[:copySize])
			if err == io.ErrUnexpectedEOF { // ReadFull's own word, not one that a reader wrapped
				err = io.EOF
			}
			full <- piece{b[:n], err}
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
	var none [copySize]byte
	size, err := pieces(r, func(b []byte, done int64) error {
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
