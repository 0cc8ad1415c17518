package registry

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// reader reads a blob. A download that breaks off goes on where it was. The
// last bytes are followed by io.EOF only if all of them have the digest;
// otherwise by an error.
type reader struct {
	*Resumer
	place  Place
	digest string
	sum    hash.Hash // nil: whoever gets the bytes checks them
}

// newReader reads all of a blob.
func newReader(ctx context.Context, p Place, digest string, size int64) *reader {
	r := read(ctx, p, digest, 0, size, func(ctx context.Context, at int64) (io.ReadCloser, error) { return p.Blob(ctx, digest, size, at) })
	r.sum = sha256.New()
	return r
}

// newPart reads n bytes of a blob from byte at on; whoever gets them checks them.
func newPart(ctx context.Context, p Place, digest string, at, n int64) *reader {
	end := at + n
	return read(ctx, p, digest, at, end, func(ctx context.Context, at int64) (io.ReadCloser, error) { return p.Part(ctx, digest, at, end-at) })
}

func read(ctx context.Context, p Place, digest string, at, end int64, open func(context.Context, int64) (io.ReadCloser, error)) *reader {
	s := Stream{
		Open: func(ctx context.Context, at int64) (io.ReadCloser, int64, error) {
			body, err := open(ctx, at)
			return body, end, err
		},
		Final: func(error, int64) bool { return true },
	}
	if s.Backoff = p.Backoff(); s.Backoff > 0 {
		s.Final = finalForBlobs
	}
	r := &reader{Resumer: s.From(ctx, at), place: p, digest: digest}
	r.size = end
	return r
}

// finalForBlobs is Stream.Final of a registry's blobs.
func finalForBlobs(err error, _ int64) bool {
	var status *transport.Error
	return errors.As(err, &status) && !Temporary(err) || errors.Is(err, errRange)
}

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	n, err := r.Resumer.Read(b)
	if n > 0 && r.sum != nil {
		r.sum.Write(b[:n])
	}
	switch {
	case err == io.EOF: // the end, and no error that wraps it
		err = r.end()
	case err != nil:
		err = fmt.Errorf("reading %s from %s: %w", r.digest, r.place, err)
	}
	return n, err
}

func (r *reader) end() error {
	if r.sum == nil {
		return io.EOF
	}
	if got := image.DigestOfSum(r.sum.Sum(nil)); got != r.digest {
		return fmt.Errorf("reading %s from %s: %w: got %s, want %[1]s", r.digest, r.place, image.ErrDigestMismatch, got)
	}
	return io.EOF
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
