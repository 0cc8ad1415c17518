package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// answering is a transport that answers every request with one status and one
// Retry-After.
type answering struct {
	status int
	after  string
}

func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status,
		Header: http.Header{"Retry-After": {a.after}, "Date": {"Sat, 01 Jan 2000 00:00:00 GMT"}}, Body: io.NopCloser(strings.NewReader(""))}, nil
}

// TestRetryAfter: the next request to a host waits as long as the host asked
// for, up to a bound; requests to other hosts do not.
func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer answering
		want   time.Duration
	}{
		{"seconds", answering{429, "7"}, 7 * time.Second},
		{"unavailable", answering{503, "7"}, 7 * time.Second},
		{"date", answering{429, "Sat, 01 Jan 2000 00:00:05 GMT"}, 5 * time.Second},
		{"past date", answering{429, "Fri, 31 Dec 1999 23:59:59 GMT"}, 0},
		{"hours", answering{429, "7200"}, maxRetryAfter},
		{"date of next year", answering{429, "Mon, 01 Jan 2001 00:00:00 GMT"}, maxRetryAfter},
		{"beyond 32 bits", answering{429, "99999999999999999999"}, 0},
		{"negative", answering{429, "-1"}, 0},
		{"no number", answering{429, "soon"}, 0},
		{"no header", answering{429, ""}, 0},
		{"success", answering{200, "7"}, 0},
		{"not found", answering{404, "7"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tr := newConsiderate(c.answer)
				ask := func(ctx context.Context, url string) (time.Duration, error) {
					start := time.Now()
					r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
					if err != nil {
						t.Fatal(err)
					}
					_, err = tr.RoundTrip(r)
					return time.Since(start), err
				}
				ctx := context.Background()
				for _, one := range []struct {
					url  string
					want time.Duration
				}{{"https://a.example/1", 0}, {"https://b.example/1", 0}, {"https://a.example/2", c.want}} {
					if took, err := ask(ctx, one.url); err != nil || took != one.want {
						t.Errorf("%s was asked for after %v (%v), want %v", one.url, took, err, one.want)
					}
				}
				short, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				took, err := ask(short, "https://a.example/3")
				if c.answer.after == "7" && c.want > 0 && (!errors.Is(err, context.DeadlineExceeded) || took != time.Second) {
					t.Errorf("with a deadline: %v after %v", err, took)
				}
			})
		})
	}
}

// TestBlobsWaitForTheRegistry: what a registry has no time for is asked for
// again when it said.
func TestBlobsWaitForTheRegistry(t *testing.T) {
	t.Parallel()
	var refused, taken time.Time
	s := quirky(t, false, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		if refused.IsZero() {
			refused = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}
		taken = time.Now()
		return false
	})
	if _, _, err := at(t, s, Options{}).Manifest(context.Background(), "none"); err == nil {
		t.Error("a manifest that is not there")
	}
	if waited := taken.Sub(refused); waited < 900*time.Millisecond {
		t.Errorf("asked again after %v", waited)
	}
}
