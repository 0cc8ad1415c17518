package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Tries is how often in a row a request is made, or a download may break off
// without a single byte in between, before it is given up.
const Tries = 6

// retryCodes are answers that later tries may get a better one than: too many
// requests, and what servers and proxies say when they are not well.
var retryCodes = []int{http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
	http.StatusServiceUnavailable, http.StatusGatewayTimeout}

// RetryStatus reports whether a server that answers with a status may answer
// otherwise later.
func RetryStatus(code int) bool { return slices.Contains(retryCodes, code) }

// RetryOptions makes go-containerregistry retry as often, and after the same
// answers, as this package does.
func RetryOptions(backoff time.Duration) []remote.Option {
	return []remote.Option{
		remote.WithRetryBackoff(transport.Backoff{Duration: backoff, Factor: 2, Jitter: 0.1, Steps: Tries - 1}),
		remote.WithRetryPredicate(Temporary), remote.WithRetryStatusCodes(retryCodes...),
	}
}

// WithoutTLS reports whether err is that of speaking TLS to a server that has
// none: a transport returns what crypto/tls says, and http.Client an error of its
// own.
func WithoutTLS(err error) bool {
	var record tls.RecordHeaderError
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/"
}

// Wait waits before the next try, after failed ones in a row: backoff after the
// first, and twice as long after each next one. It returns the context's error
// where that ends first.
func Wait(ctx context.Context, backoff time.Duration, failed int) error {
	select {
	case <-time.After(backoff << (failed - 1)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Temporary reports whether a request is worth another try: one that failed on
// the way is, unless it was cancelled, no server was there, or TLS was refused.
func Temporary(err error) bool {
	var status *transport.Error
	var bad *tls.CertificateVerificationError
	var unknown *net.DNSError
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return false
	case errors.Is(err, ErrWithoutTLS), errors.Is(err, errNotTried), errors.As(err, &bad), WithoutTLS(err):
		return false
	case errors.Is(err, errSilent), errors.Is(err, errLarge): // it had its time, and would send as much again
		return false
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &unknown) && unknown.IsNotFound:
		return false
	case errors.As(err, &status):
		return status.Temporary() || RetryStatus(status.StatusCode)
	}
	return true
}

// Patient returns a transport that gives up on a server that sends less than
// 64 KiB in the time it may be silent while an answer is being read, and honours
// its Retry-After, up to a minute. The length of answers is not bounded: that is
// left to the reader.
func Patient(t http.RoundTripper, silence time.Duration) http.RoundTripper {
	return newConsiderate(unbounded{bounded{t, silence}})
}

// unbounded has every answer of a bounded transport be of any length.
type unbounded struct{ bounded }

// RoundTrip implements http.RoundTripper.
func (u unbounded) RoundTrip(r *http.Request) (*http.Response, error) {
	return u.bounded.RoundTrip(r.WithContext(context.WithValue(r.Context(), wholeBlob{}, true)))
}
