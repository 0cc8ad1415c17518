package registry

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// trip is a transport that answers by itself.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// short is how long a registry of these tests may be silent.
const short = 100 * time.Millisecond

// at returns a client of a repository on a test's server.
func at(t *testing.T, s *httptest.Server, o Options) *Remote {
	t.Helper()
	o.PlainHTTP, o.Backoff = strings.HasPrefix(s.URL, "http:"), time.Millisecond
	_, host, _ := strings.Cut(s.URL, "://")
	r, _, err := newRemote(host+"/lab:1.0", o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSilentRegistry: a registry that does not answer, stops in the midst, or
// sends a byte now and then, is given up; a blob after as many tries as one that
// breaks off gets.
func TestSilentRegistry(t *testing.T) {
	stop := make(chan struct{})
	wait := func(w http.ResponseWriter) {
		w.(http.Flusher).Flush()
		<-stop
	}
	var blobs atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/v2/":
		case strings.HasSuffix(r.URL.Path, "/manifests/good"):
			io.WriteString(w, "{}")
		case strings.HasSuffix(r.URL.Path, "/manifests/mute"):
			<-stop
		case strings.HasSuffix(r.URL.Path, "/manifests/half"):
			w.Header().Set("Content-Length", "1000")
			w.Write([]byte("{"))
			wait(w)
		case strings.HasSuffix(r.URL.Path, "/manifests/drip"):
			for {
				if _, err := w.Write([]byte(" ")); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		case strings.Contains(r.URL.Path, "/blobs/"):
			blobs.Add(1)
			w.Header().Set("Content-Length", "1000000")
			wait(w)
		}
	}))
	defer s.Close()
	defer close(stop)
	r := at(t, s, Options{Silence: short})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second) // where it is not given up
	defer cancel()
	for { // a busy machine takes longer to log in than this registry may take to answer
		_, _, err := r.Manifest(ctx, "good")
		if err == nil {
			break
		}
		if !errors.Is(err, errSilent) {
			t.Fatal(err)
		}
	}
	for _, ref := range []string{"mute", "half", "drip"} {
		if _, _, err := r.Manifest(ctx, ref); !errors.Is(err, errSilent) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	_, err := io.Copy(io.Discard, struct{ io.Reader }{newReader(ctx, r, image.DigestOf(nil), 1_000_000)})
	if !errors.Is(err, errSilent) || !errors.Is(err, ErrGivenUp) || blobs.Load() < 2 {
		t.Errorf("a blob: asked for %d times, %v", blobs.Load(), err)
	}
}

// TestSlowReader: only the time a registry takes counts, not that of whoever
// reads what it sent, such as a card; and what comes in time begins it anew.
func TestSlowReader(t *testing.T) {
	body := strings.Repeat("x", 3*leastBytes)
	b := bounded{trip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusOK, Body: until{r.Context().Err, strings.NewReader(body)}}, nil
	}), short}
	r, err := http.NewRequest(http.MethodGet, "https://registry.example/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, buf := 0, make([]byte, leastBytes)
	for {
		n, err := resp.Body.Read(buf)
		if got += n; err != nil {
			if err != io.EOF || got != len(body) {
				t.Errorf("%d of %d bytes, %v", got, len(body), err)
			}
			return
		}
		if n != leastBytes {
			t.Fatalf("%d bytes came at once", n)
		}
		time.Sleep(2 * short)
	}
}

// TestUpload: an upload that goes on takes any time, sent anew too; one that
// is not read, or not answered, is given up.
func TestUpload(t *testing.T) {
	slow := func(body io.Reader) error {
		for b := make([]byte, 1); ; time.Sleep(uploadPatience * short / 10) {
			if _, err := body.Read(b); err != nil {
				return nil
			}
		}
	}
	for name, c := range map[string]struct {
		take func(*http.Request) error
		want error
	}{
		"it goes on": {func(r *http.Request) error { return slow(r.Body) }, nil},
		"it is sent anew": {func(r *http.Request) error {
			body, err := r.GetBody()
			if err != nil {
				return err
			}
			return slow(body)
		}, nil},
		"not read":     {func(r *http.Request) error { <-r.Context().Done(); return r.Context().Err() }, errSilent},
		"not answered": {func(r *http.Request) error { io.ReadAll(r.Body); <-r.Context().Done(); return r.Context().Err() }, errSilent},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := bounded{trip(func(r *http.Request) (*http.Response, error) {
				if err := c.take(r); err != nil {
					return nil, err
				}
				if err := r.Context().Err(); err != nil {
					return nil, err
				}
				return &http.Response{StatusCode: http.StatusCreated, Body: http.NoBody}, nil
			}), short}
			r, err := http.NewRequest(http.MethodPatch, "https://registry.example/v2/", strings.NewReader(strings.Repeat("x", 12)))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.RoundTrip(r); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", name, err, c.want)
			}
		})
	}
}

// TestWaitingAddsUp: the time that is spent waiting for single bytes adds up, and
// what comes in large pieces begins it anew.
func TestWaitingAddsUp(t *testing.T) {
	for n, want := range map[int]error{1: errSilent, leastBytes: nil} {
		ctx, cancel := context.WithCancelCause(context.Background())
		r := &receiving{body: endless{}, cause: ctx.Err, cancel: cancel, silence: time.Hour}
		for range steps {
			r.begin()
			r.look() // as the timer does
			r.end(n, nil)
		}
		if got := context.Cause(ctx); !errors.Is(got, want) {
			t.Errorf("%d bytes a step: %v, want %v", n, got, want)
		}
		r.Close()
	}
}

// until is a body that ends with its request, as those of net/http do.
type until struct {
	check func() error
	r     io.Reader
}

func (u until) Read(b []byte) (int, error) {
	if err := u.check(); err != nil {
		return 0, err
	}
	return u.r.Read(b)
}

func (u until) Close() error { return nil }

type endless struct{}

func (endless) Read(b []byte) (int, error) { clear(b); return len(b), nil }
func (endless) Close() error               { return nil }

// TestAnswersAreBounded: an error, a token or a list without end is not read to
// its end; a blob is as long as whoever asks knows.
func TestAnswersAreBounded(t *testing.T) {
	read := func(ctx context.Context, status int) error {
		b := bounded{trip(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Body: endless{}}, nil
		}), time.Minute}
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://registry.example/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := b.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, err = io.CopyN(io.Discard, resp.Body, 2*maxAnswer)
		return err
	}
	blob := context.WithValue(context.Background(), wholeBlob{}, true)
	if err := read(context.Background(), http.StatusOK); !errors.Is(err, errLarge) {
		t.Errorf("an answer without end: %v", err)
	}
	if err := read(blob, http.StatusInternalServerError); !errors.Is(err, errLarge) {
		t.Errorf("an error without end, of a blob: %v", err)
	}
	if err := read(blob, http.StatusOK); err != nil {
		t.Errorf("a blob: %v", err)
	}
}

// TestTagsWithoutEnd: a list of tags whose every page names another one.
func TestTagsWithoutEnd(t *testing.T) {
	var pages atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/tags/list") {
			pages.Add(1)
			w.Header().Set("Link", `</v2/lab/tags/list?n=1000&last=x>; rel="next"`)
			fmt.Fprintf(w, `{"name":"lab","tags":["x"]}`)
		}
	}))
	defer s.Close()
	want := fmt.Sprint(maxTagPages, " pages")
	_, err := at(t, s, Options{}).Tags(context.Background())
	if err == nil || !strings.Contains(err.Error(), want) || pages.Load() > maxTagPages+1 {
		t.Errorf("%d pages, %v", pages.Load(), err)
	}
}

// TestTransportKeepsTLS: HTTP without TLS is used only where the options ask for
// it. Options for the certificate of a registry apply to no other host.
func TestTransportKeepsTLS(t *testing.T) {
	answered := func(name string) trip {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{Status: name, Body: http.NoBody}, nil
		}
	}
	for _, c := range []struct {
		plain     bool
		url, want string
		err       error
	}{
		{false, "https://registry.lan/v2/", "own", nil},
		{false, "https://storage.lan/x", "others", nil},
		{false, "http://registry.lan/v2/", "", ErrWithoutTLS},
		{false, "http://storage.lan/x", "", ErrWithoutTLS},
		{true, "http://registry.lan/v2/", "own", nil},
		{true, "https://registry.lan/v2/", "", errNotTried},
		{true, "https://storage.lan/x", "others", nil},
	} {
		r, err := http.NewRequest(http.MethodGet, c.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := guard{own: answered("own"), others: answered("others"), plain: c.plain, host: "registry.lan"}.RoundTrip(r)
		if !errors.Is(err, c.err) || err == nil && resp.Status != c.want {
			t.Errorf("%s, plain %v: %+v %v; want %q, %v", c.url, c.plain, resp, err, c.want, c.err)
		}
	}
}

// TestRedirects: a registry with TLS that sends to a place without it is not
// followed there, and one whose certificate is not checked sends to no server whose
// certificate is not checked either.
func TestRedirects(t *testing.T) {
	var followed atomic.Int32
	there := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { followed.Add(1) })
	plain, other := httptest.NewServer(there), httptest.NewTLSServer(there)
	defer plain.Close()
	defer other.Close()
	for to, want := range map[string]string{plain.URL: "does not speak TLS", other.URL: "certificate"} {
		s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, to+"/x", http.StatusTemporaryRedirect)
			}
		}))
		for name, o := range map[string]Options{"its authority is known": {CA: pool(s)}, "its certificate is not checked": {SkipVerify: true}} {
			if to == other.URL && o.CA != nil {
				continue // httptest has one certificate for all
			}
			_, err := at(t, s, o).Blob(context.Background(), image.DigestOf(nil), 10, 0)
			if err == nil || !strings.Contains(err.Error(), want) || followed.Load() > 0 {
				t.Errorf("to %s, %s: %v, followed %d times", to, name, err, followed.Load())
			}
		}
		s.Close()
	}
}

func pool(s *httptest.Server) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(s.Certificate())
	return p
}

// TestRegistryCertificateIsVerified: the certificate of a registry is verified
// unless the options say otherwise, and the client presents its own.
func TestRegistryCertificateIsVerified(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			fmt.Fprintf(w, `{"shown": %d}`, len(r.TLS.PeerCertificates))
		}
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = nil
	s.StartTLS()
	defer s.Close()
	for name, c := range map[string]struct {
		o    Options
		want string // "" is refused
	}{
		"no option is given":             {},
		"its authority is known":         {Options{CA: pool(s)}, `{"shown": 0}`},
		"its certificate is not checked": {Options{SkipVerify: true}, `{"shown": 0}`},
		"a certificate of the client's":  {Options{CA: pool(s), Certificate: &s.TLS.Certificates[0]}, `{"shown": 1}`},
	} {
		_, b, err := at(t, s, c.o).Manifest(context.Background(), "1.0")
		if (err != nil) != (c.want == "") || !bytes.Equal(b, []byte(c.want)) {
			t.Errorf("%s: %s, %v; want %s", name, b, err, c.want)
		}
	}
}

func TestIsChannel(t *testing.T) {
	for tag, want := range map[string]bool{
		"stable": true, "lab-canary": true, "v1": true, "": false, "1.4": false, "7": false, image.DigestOf(nil): false,
		image.CosignTag(image.DigestOf(nil)): false,
	} {
		if got := IsChannel(tag); got != want {
			t.Errorf("%q: %v", tag, got)
		}
	}
}
