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
	until map[string]time.Time // by host: no request before
}

func newConsiderate(t http.RoundTripper) *considerate {
	return &considerate{inner: t, until: map[string]time.Time{}}
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
		if d := retryAfter(resp.Header.Get("Retry-After")); d > 0 {
			c.mu.Lock()
			c.until[r.URL.Host] = time.Now().Add(d)
			c.mu.Unlock()
		}
	}
	return resp, nil
}

func (c *considerate) wait(ctx context.Context, host string) error {
	c.mu.Lock()
	d := time.Until(c.until[host])
	c.mu.Unlock()
	if d <= 0 {
		return nil
	}
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retryAfter reads the header's value, seconds or a date; what is invalid or
// past is 0.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), maxRetryAfter)
	}
	return 0
}
