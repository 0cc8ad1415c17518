package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// errGivenUp is a download that broke off too often. What came of it is good.
var errGivenUp = errors.New("given up")

// patient is a place whose downloads may break off and go on.
type patient interface{ backoff() time.Duration }

// reader reads a blob. A download that breaks off goes on where it was. The
// last bytes are followed by io.EOF only if all of them have the digest.
type reader struct {
	ctx    context.Context
	place  Place
	digest string
	size   int64
	at     int64
	part   bool          // size is where the part that is read ends, not the blob
	sum    hash.Hash     // nil: whoever gets the bytes checks them
	from   io.ReadCloser // nil: to be opened
	failed int           // in a row
}

func newReader(ctx context.Context, p Place, digest string, size int64) *reader {
	return &reader{ctx: ctx, place: p, digest: digest, size: size, sum: sha256.New()}
}

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	for {
		if r.at == r.size {
			return 0, r.end()
		}
		n, err := r.read(b)
		if n > 0 {
			if r.sum != nil {
				r.sum.Write(b[:n])
			}
			r.at += int64(n)
			r.failed = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if err = r.again(err); err != nil {
			return 0, err
		}
	}
}

func (r *reader) read(b []byte) (int, error) {
	if r.from == nil {
		var err error
		if r.part {
			r.from, err = r.place.Part(r.ctx, r.digest, r.at, r.size-r.at)
		} else {
			r.from, err = r.place.Blob(r.ctx, r.digest, r.size, r.at)
		}
		if err != nil {
			return 0, err
		}
	}
	return r.from.Read(b[:min(int64(len(b)), r.size-r.at)])
}

// again waits before the next try, or returns why there is none.
func (r *reader) again(err error) error {
	r.Close()
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("it ended after %d of %d bytes: %w", r.at, r.size, io.ErrUnexpectedEOF)
	}
	err = fmt.Errorf("reading %s from %s: %w", r.digest, r.place, err)
	p, ok := r.place.(patient)
	var status *transport.Error
	if !ok || r.ctx.Err() != nil || errors.As(err, &status) && !Temporary(err) || errors.Is(err, errRange) {
		return err
	}
	if r.failed++; r.failed == Tries {
		return fmt.Errorf("%w after %d tries: %w", errGivenUp, Tries, err)
	}
	return Wait(r.ctx, p.backoff(), r.failed)
}

func (r *reader) end() error {
	if r.sum == nil {
		return io.EOF
	}
	if got := "sha256:" + hex.EncodeToString(r.sum.Sum(nil)); got != r.digest {
		return fmt.Errorf("reading %s from %s: %w: got %s", r.digest, r.place, image.ErrDigestMismatch, got)
	}
	return io.EOF
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

// WriteTo implements io.WriterTo: it hashes a piece while that is written and
// the next one is read, each on a core of its own where there are some.
func (r *reader) WriteTo(w io.Writer) (int64, error) {
	sum := r.sum
	r.sum = nil // Read leaves it to us, and the last word too
	start := r.at
	free, full := make(chan []byte, 3), make(chan []byte, 3)
	for range cap(free) {
		free <- make([]byte, copySize)
	}
	var failed error
	go func() {
		defer close(full)
		for b := range free {
			n, err := io.ReadFull(readerOnly{r}, b[:copySize])
			if n > 0 {
				full <- b[:n]
			}
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF { // ReadFull's own words for the end
					failed = err
				}
				return
			}
		}
	}()
	var bad error
	for b := range full {
		if bad == nil {
			bad = both(func() { sum.Write(b) }, func() error { _, err := w.Write(b); return err }, sum != nil)
		}
		if bad != nil && free != nil {
			close(free) // the other end stops at its next piece
			free = nil
		}
		if free != nil {
			free <- b
		}
	}
	r.sum = sum
	if bad == nil {
		bad = failed
	}
	if bad == nil {
		if bad = r.end(); bad == io.EOF {
			bad = nil
		}
	}
	return r.at - start, bad
}

// both does two things at the same time, the first one only if it is wanted.
func both(one func(), other func() error, wanted bool) error {
	if !wanted {
		return other()
	}
	done := make(chan struct{})
	go func() { defer close(done); one() }()
	err := other()
	<-done
	return err
}

// readerOnly hides WriteTo.
type readerOnly struct{ io.Reader }
