package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrGivenUp is returned for a download that failed Tries times in a row
// without a byte in between. The bytes read before are good.
var ErrGivenUp = errors.New("giving up")

// Stream is a file on a server that can be read from any offset.
type Stream struct {
	// Open opens the file at an offset, and returns the size of the whole file;
	// both are in bytes, and -1 is an unknown size.
	Open func(ctx context.Context, at int64) (body io.ReadCloser, size int64, err error)
	// Final reports whether a retry after err is pointless. at is the number of
	// bytes read so far.
	Final func(err error, at int64) bool
	// Backoff is the time before the first retry; each further one takes twice
	// as long.
	Backoff time.Duration
}

// Resumer reads a Stream. Where the connection breaks, it opens the stream again
// at the offset reached.
type Resumer struct {
	at     int64
	size   int64         // -1: unknown
	body   io.ReadCloser // nil: to be opened
	failed int           // in a row
	open   func() error
	retry  func(error) error // waits, or returns why there is no other try
}

// From returns a reader of s from an offset on. It stops retrying when ctx ends.
func (s Stream) From(ctx context.Context, at int64) *Resumer {
	r := &Resumer{at: at, size: -1}
	r.open = func() (err error) {
		r.body, r.size, err = s.Open(ctx, r.at)
		return err
	}
	r.retry = func(err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case s.Final(err, r.at):
			return err
		}
		if r.failed++; r.failed == Tries {
			return fmt.Errorf("%w after %d tries: %w", ErrGivenUp, Tries, err)
		}
		return Wait(ctx, s.Backoff, r.failed)
	}
	return r
}

// Open opens the stream, where it is not open; Read would do so too. Its errors
// are those of Read.
func (r *Resumer) Open() error {
	for r.body == nil {
		if err := r.open(); err != nil {
			if err = r.again(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// Read implements io.Reader. It returns the context's error, an error that is
// final for the Stream, or ErrGivenUp with the last error.
func (r *Resumer) Read(b []byte) (int, error) {
	for len(b) > 0 {
		if r.size >= 0 && r.at >= r.size {
			return 0, io.EOF
		}
		if err := r.Open(); err != nil {
			return 0, err
		}
		want := b
		if r.size >= 0 {
			want = b[:min(int64(len(b)), r.size-r.at)]
		}
		n, err := r.body.Read(want)
		if n > 0 {
			r.at, r.failed = r.at+int64(n), 0
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			if r.size < 0 || r.at >= r.size {
				return 0, io.EOF
			}
			err = fmt.Errorf("truncated after %d of %d bytes: %w", r.at, r.size, io.ErrUnexpectedEOF)
		}
		if err == nil {
			continue
		}
		if err = r.again(err); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (r *Resumer) again(err error) error {
	r.Close()
	return r.retry(err)
}

// Close implements io.Closer.
func (r *Resumer) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
