package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Reading goes on where it broke off: so often without a byte in between, and after
// so long.
const (
	readTries = 6
	readWait  = 500 * time.Millisecond // before the second try; doubled each time
)

// NewReader returns a reader of a backup from an offset in bytes on. It goes on where
// a connection breaks off.
func NewReader(ctx context.Context, s Store, o Object, offset int64) io.ReadCloser {
	open := func(at int64) (io.ReadCloser, error) { return s.Open(ctx, o.Name, at) }
	return &reader{open: open, ended: ctx.Err, done: ctx.Done(), object: o, at: offset}
}

type reader struct {
	open   func(at int64) (io.ReadCloser, error)
	ended  func() error // why done is closed
	done   <-chan struct{}
	object Object
	at     int64
	from   io.ReadCloser
	failed int // times, since the last byte
}

// Read implements io.Reader. The error is io.EOF at the object's size alone.
func (r *reader) Read(b []byte) (int, error) {
	if r.at >= r.object.Size {
		return 0, io.EOF
	}
	for {
		n, err := r.read(b)
		if n > 0 {
			r.at, r.failed = r.at+int64(n), 0
			return n, nil
		}
		if err == nil {
			continue
		}
		r.Close()
		if r.failed++; r.failed == readTries || errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) {
			return 0, fmt.Errorf("reading %s at byte %d of %d: %w", r.object.Name, r.at, r.object.Size, err)
		}
		select {
		case <-time.After(readWait << (r.failed - 1)):
		case <-r.done:
			return 0, r.ended()
		}
	}
}

func (r *reader) read(b []byte) (int, error) {
	if r.from == nil {
		from, err := r.open(r.at)
		if err != nil {
			return 0, err
		}
		r.from = from
	}
	n, err := r.from.Read(b[:min(int64(len(b)), r.object.Size-r.at)])
	if n == 0 && err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close implements io.Closer.
func (r *reader) Close() error {
	if r.from == nil {
		return nil
	}
	err := r.from.Close()
	r.from = nil
	return err
}

// Verify reads a backup back, and compares it with the size, in bytes, and the digest
// of what was given to the store. The error is ErrDiffers where it is something else.
func Verify(ctx context.Context, s Store, name string, size int64, digest string) error {
	o, err := s.Stat(ctx, name)
	if err != nil {
		return fmt.Errorf("reading back %s: %w", name, err)
	}
	if o.Size != size {
		return fmt.Errorf("reading back %s: %w: got %d bytes, want %d", name, ErrDiffers, o.Size, size)
	}
	r := NewReader(ctx, s, o, 0)
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return fmt.Errorf("reading back %s: %w", name, err)
	}
	if got := image.DigestOfSum(sum.Sum(nil)); got != digest {
		return fmt.Errorf("reading back %s: %w: got %s, want %s", name, ErrDiffers, got, digest)
	}
	return nil
}
