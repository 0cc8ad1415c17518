package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds on what a registry may have a client do. Nodes have 512 MiB, and hold
// their upgrade lock while they ask.
const (
	// silence is how long a registry may send nothing, or next to nothing.
	silence = time.Minute
	// leastBytes is what must come in that time: a registry that sends a byte now
	// and then is no better than one that sends none.
	leastBytes = 64 << 10
	// uploadPatience is how many times as long an answer to an upload may take:
	// the registry stores it, and makes its digest, before it answers.
	uploadPatience = 5
	// maxAnswer bounds the body of every answer but a blob's, in bytes: tokens,
	// tags, errors.
	maxAnswer = 8 << 20
)

// errSilent is a server that stopped sending.
var errSilent = errors.New("the server stopped sending")

// errLarge is an answer with more bytes than any should have.
var errLarge = fmt.Errorf("the registry's answer has more than %d bytes", maxAnswer)

// wholeBlob marks the context of requests whose answer may be of any length:
// whoever asked knows how long it is.
type wholeBlob struct{}

// bounded is a transport that gives up on a registry that stops sending, and
// bounds what is read of an answer.
type bounded struct {
	inner   http.RoundTripper
	silence time.Duration
}

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	limit := b.silence
	r = r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		limit *= uploadPatience
	}
	timer := time.AfterFunc(limit, func() { cancel(errSilent) })
	var answered atomic.Bool
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = &sending{r.Body, timer, limit, &answered}
		if again := r.GetBody; again != nil { // where a connection was gone already
			r.GetBody = func() (io.ReadCloser, error) {
				body, err := again()
				return &sending{body, timer, limit, &answered}, err
			}
		}
	}
	resp, err := b.inner.RoundTrip(r)
	answered.Store(true)
	timer.Stop()
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			err = fmt.Errorf("%w: no answer within %v", errSilent, limit)
		}
		cancel(nil)
		return nil, err
	}
	left := int64(maxAnswer)
	if ctx.Value(wholeBlob{}) != nil && resp.StatusCode < 300 {
		left = -1
	}
	cause := func() error { return context.Cause(ctx) }
	resp.Body = &receiving{body: resp.Body, cause: cause, cancel: cancel, silence: b.silence, left: left}
	return resp, nil
}

// sending is the body of a request: a server that takes it is alive.
type sending struct {
	io.ReadCloser
	timer    *time.Timer
	limit    time.Duration
	answered *atomic.Bool // the timer is the answer's by now
}

// Read implements io.Reader.
func (s *sending) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	if !s.answered.Load() {
		s.timer.Reset(s.limit)
	}
	return n, err
}

// steps is in how many parts a silence is measured.
const steps = 20

// receiving is the body of an answer. Only the time that is spent waiting for it
// is measured, by looking now and then whether a read is under way: the reader may
// be as slow as a card.
type receiving struct {
	body    io.ReadCloser
	cause   func() error // context.Cause of the request
	cancel  context.CancelCauseFunc
	silence time.Duration
	left    int64 // bytes that may still come; negative is any number

	mu      sync.Mutex
	timer   *time.Timer
	done    bool // reading has ended
	waiting bool // a read is under way
	waited  int  // steps, for the next leastBytes
	got     int  // of them
}

// look ends the request once reads waited too long.
func (r *receiving) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.done:
		return
	case r.waiting:
		r.waited++
	}
	if r.waited >= steps {
		r.cancel(errSilent)
		return
	}
	r.timer.Reset(r.silence / steps)
}

// begin notes that a read is under way.
func (r *receiving) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = true
	if r.timer == nil {
		r.timer = time.AfterFunc(r.silence/steps, r.look)
	}
}

// end notes what came.
func (r *receiving) end(n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting, r.done = false, r.done || err != nil
	if r.got += n; r.got >= leastBytes {
		r.got, r.waited = 0, 0
	}
}

// Read implements io.Reader.
func (r *receiving) Read(b []byte) (int, error) {
	if r.left >= 0 {
		b = b[:min(int64(len(b)), r.left+1)]
	}
	r.begin()
	n, err := r.body.Read(b)
	r.end(n, err)
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(r.cause(), errSilent) {
		err = fmt.Errorf("%w: fewer than %d bytes within %v", errSilent, leastBytes, r.silence)
	}
	if r.left >= 0 {
		if r.left -= int64(n); r.left < 0 {
			return 0, errLarge
		}
	}
	return n, err
}

// Close implements io.Closer.
func (r *receiving) Close() error {
	r.end(0, io.EOF)
	err := r.body.Close()
	r.cancel(nil)
	return err
}
