package registry

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// maxRetryAfter bounds how long a server's Retry-After holds requests back: a
// registry that limits its clients may say hours.
const maxRetryAfter = time.Minute

// considerate is a transport that honours Retry-After (RFC 9110, 10.2.3): after
// an answer with 429 or 503 and that header, the next request to the same host
// waits. Whoever retries need not know.
type considerate struct {
	inner http.RoundTripper
	mu    sync.Mutex
	held  map[string]chan struct{} // by host: closed when its time is over
}

func newConsiderate(t http.RoundTripper) *considerate {
	return &considerate{inner: t, held: map[string]chan struct{}{}}
}

// RoundTrip implements http.RoundTripper.
func (c *considerate) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := c.wait(r.Context(), r.URL.Host); err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	resp, err := c.inner.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		if d := retryAfter(resp.Header); d > 0 {
			c.hold(r.URL.Host, d)
		}
	}
	return resp, nil
}

// hold makes requests to a host wait for a time.
func (c *considerate) hold(host string, d time.Duration) {
	over := make(chan struct{})
	c.mu.Lock()
	c.held[host] = over
	c.mu.Unlock()
	time.AfterFunc(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.held[host] == over {
			delete(c.held, host)
		}
		close(over)
	})
}

func (c *considerate) wait(ctx context.Context, host string) error {
	c.mu.Lock()
	over := c.held[host]
	c.mu.Unlock()
	if over == nil {
		return nil
	}
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retryAfter reads the header: seconds, or a date, which counts from the Date of
// the answer. What is invalid or past is 0.
func retryAfter(h http.Header) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	then, err := http.ParseTime(value)
	now, err2 := http.ParseTime(h.Get("Date"))
	if err != nil || err2 != nil {
		return 0
	}
	return min(max(then.Sub(now), 0), maxRetryAfter)
}
