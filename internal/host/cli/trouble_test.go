package cli

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// proxy stands between pikelet and a registry, and makes trouble.
type proxy struct {
	addr string
	ca   string
	sent atomic.Int64 // bytes of blobs that were sent
	got  atomic.Int64 // bytes of blobs that were fetched
	// trouble may answer a request itself, and reports whether it did. n counts
	// the requests from 1.
	trouble func(w http.ResponseWriter, r *http.Request, n int64) bool
	// spoil may wrap what is answered.
	spoil func(r *http.Response)
	n     atomic.Int64
}

// startProxy starts a proxy with TLS in front of a registry.
func startProxy(t *testing.T, s *registrytest.Server) *proxy {
	t.Helper()
	scheme := "http"
	if s.CA != "" {
		scheme = "https"
	}
	back := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: scheme, Host: s.Addr})
			r.Out.Host = r.In.Host
		},
		Transport:    &http.Transport{TLSClientConfig: insecure(), MaxIdleConnsPerHost: 8},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	p := &proxy{}
	back.ModifyResponse = func(r *http.Response) error {
		if p.spoil != nil {
			p.spoil(r)
		}
		if strings.Contains(r.Request.URL.Path, "/blobs/sha256:") && r.Request.Method == http.MethodGet {
			r.Body = counted{r.Body, &p.got}
		}
		return nil
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.trouble != nil && p.trouble(w, r, p.n.Add(1)) {
			return
		}
		if r.Method == http.MethodPatch {
			r.Body = counted{r.Body, &p.sent}
		}
		back.ServeHTTP(w, r)
	}))
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	t.Cleanup(server.Close)
	p.addr = server.Listener.Addr().String()
	p.ca = filepath.Join(t.TempDir(), "proxy.pem")
	write(t, p.ca, string(pemOf(server.Certificate())), 0o644)
	return p
}

// counted counts what is read.
type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// hits counts events by name.
type hits struct {
	mu sync.Mutex
	of map[string]int
}

// first counts an event, and reports whether it is one of the first ones.
func (h *hits) first(name string, times int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = map[string]int{}
	}
	h.of[name]++
	return h.of[name] <= times
}

// TestPublishOverUnreliableNetwork: publish and pull survive a network that drops
// connections, and a registry that is busy, fails, or ignores Range. Content that
// does not match its digest is refused, and nothing is written.
func TestPublishOverUnreliableNetwork(t *testing.T) {
	dir := shippedIn(t)
	s := startRegistry(t, registrytest.Options{})
	p := startProxy(t, s)
	repo := p.addr + "/twin"
	flags := []string{"--ca", p.ca, "--retry-after", "5ms", "--key", "ci.pub"}
	pushThroughTrouble(t, dir, p, repo, flags)
	pullThroughTrouble(t, dir, p, repo, flags)
	refuseChangedContent(t, dir, p, repo, flags)
	resumes(t, dir, p, repo, flags)
}

func pushThroughTrouble(t *testing.T, dir string, p *proxy, repo string, flags []string) {
	t.Helper()
	drop := func(w http.ResponseWriter) bool { panic(http.ErrAbortHandler) }
	status := func(w http.ResponseWriter, code int) bool { w.WriteHeader(code); return true }
	push := func(name string, trouble func(http.ResponseWriter, *http.Request, int64) bool) {
		t.Helper()
		p.n.Store(0)
		p.trouble = trouble
		ok(t, dir, append([]string{"publish", repo + "/" + name, "--image", "one"}, flags...)...)
		p.trouble = nil
		ok(t, dir, append([]string{"verify", repo + "/" + name + ":1.0"}, flags...)...)
	}
	var hits hits
	push("dropped", func(w http.ResponseWriter, r *http.Request, n int64) bool {
		if r.Method == http.MethodPatch && hits.first(fmt.Sprintf("dropped %d", r.ContentLength), 1) {
			io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			return drop(w)
		}
		return false
	})
	push("busy", func(w http.ResponseWriter, r *http.Request, n int64) bool {
		switch {
		case r.Method == http.MethodHead || r.Method == http.MethodGet:
			return hits.first("busy "+r.Method+r.URL.Path, 1) && status(w, 429)
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
			return hits.first("busy manifest", 2) && status(w, 503)
		}
		codes := map[string]int{http.MethodPost: 500, http.MethodPatch: 502, http.MethodPut: 504}
		return hits.first("busy "+r.Method, 1) && status(w, codes[r.Method])
	})
	if len(hits.of) < 20 || hits.of["busy POST"] < 2 || hits.of["busy PATCH"] < 2 || hits.of["busy PUT"] < 2 || hits.of["busy manifest"] < 3 {
		t.Errorf("there was no trouble: %v", hits.of)
	}
}

func pullThroughTrouble(t *testing.T, dir string, p *proxy, repo string, flags []string) {
	t.Helper()
	pull := func(out string) string {
		t.Helper()
		p.got.Store(0)
		got := ok(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", out}, flags...)...)
		must(t, dir, "cmp "+out+"/root.squashfs "+rootBlob(t, dir+"/one"))
		return got
	}
	var hits hits
	cut := func(r *http.Response) { // every blob ends after its first third, again and again
		if strings.Contains(r.Request.URL.Path, "/blobs/sha256:") && r.Request.Method == http.MethodGet && r.ContentLength > 3000 {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(r.Body, r.ContentLength/3), r.Body}
		}
	}
	p.spoil = cut
	pull("cut")
	whole := p.got.Load()
	p.spoil = nil
	p.got.Store(0)
	pull("straight")
	if once := p.got.Load(); whole > once+once/50 {
		t.Errorf("downloads that broke off were %d bytes, whole ones %d: they do not go on where they were", whole, once)
	}
	p.trouble = func(_ http.ResponseWriter, r *http.Request, _ int64) bool { r.Header.Del("Range"); return false }
	p.spoil = func(r *http.Response) { // and a registry that ignores Range
		if strings.Contains(r.Request.URL.Path, "/blobs/sha256:") && hits.first("whole"+r.Request.URL.Path, 1) {
			cut(r)
		}
	}
	pull("no-range")
	p.trouble = nil
}

func refuseChangedContent(t *testing.T, dir string, p *proxy, repo string, flags []string) {
	t.Helper()
	refuse := func(what string, spoil func(*http.Response), texts ...string) {
		t.Helper()
		p.spoil = spoil
		fails(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "lies"}, flags...), texts...)
		if left, _ := filepath.Glob(dir + "/lies*"); len(left) > 0 {
			t.Errorf("%s: %v was left", what, left)
			must(t, dir, "rm -rf lies*")
		}
	}
	change := func(part string, f func([]byte) []byte) func(*http.Response) {
		return func(r *http.Response) {
			if strings.Contains(r.Request.URL.Path, part) && r.Request.Method == http.MethodGet && r.StatusCode < 300 {
				b, _ := io.ReadAll(r.Body)
				b = f(b)
				r.Body = io.NopCloser(bytes.NewReader(b))
				r.ContentLength = int64(len(b))
				r.Header.Set("Content-Length", fmt.Sprint(len(b)))
			}
		}
	}
	root := strings.TrimPrefix(filepath.Base(rootBlob(t, dir+"/one")), "sha256:")
	refuse("a flipped byte", change("/blobs/sha256:"+root, func(b []byte) []byte { b[len(b)/2] ^= 1; return b }),
		"digest mismatch: got ")
	refuse("another blob", change("/blobs/sha256:"+root, func(b []byte) []byte { return bytes.Repeat([]byte("x"), len(b)) }),
		"digest mismatch: got ")
	refuse("a page of HTML", change("/manifests/1.0", func([]byte) []byte { return []byte("<html>") }), "reading an OCI manifest")
	refuse("another manifest", change("/manifests/sha256:", func(b []byte) []byte { return append(b, ' ') }), "digest mismatch")
	refuse("a manifest without end", change("/manifests/1.0", func(b []byte) []byte { return append(b, make([]byte, 8<<20)...) }),
		"more than 4194304 bytes")
	refuse("always unwell", func(r *http.Response) { r.StatusCode = 500 }, "500")
	p.spoil = nil
}

// resumes kills a pull when some of it came, and looks whether the next one
// fetches only the rest.
func resumes(t *testing.T, dir string, p *proxy, repo string, flags []string) {
	size := func(name string) int64 { st, _ := os.Stat(name); return st.Size() }
	root := size(rootBlob(t, dir+"/one"))
	var got atomic.Int64
	count := func(wrap func(io.ReadCloser) io.ReadCloser) func(*http.Response) {
		return func(r *http.Response) {
			if strings.HasSuffix(r.Request.URL.Path, filepath.Base(rootBlob(t, dir+"/one"))) {
				r.Body = counted{wrap(r.Body), &got}
			}
		}
	}
	p.spoil = count(func(r io.ReadCloser) io.ReadCloser { return slow{r} }) // so that there is a middle
	cmd := exec.Command(os.Args[0], append([]string{"pull", repo + "/busy:1.0", "-o", "killed"}, flags...)...)
	cmd.Dir, cmd.Env = dir, []string{"BE_PIKELET=1", "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	limit := time.After(hang)
	for got.Load() < root/2 {
		select {
		case <-time.After(5 * time.Millisecond):
		case err := <-ended:
			t.Fatalf("a pull of which %d bytes came ended with %v", got.Load(), err)
		case <-limit:
			cmd.Process.Kill()
			t.Fatal("half a pull never came")
		}
	}
	cmd.Process.Kill()
	<-ended
	if _, err := os.Stat(dir + "/killed"); err == nil {
		t.Error("half a pull has the name of a whole one")
	}
	p.spoil = count(func(r io.ReadCloser) io.ReadCloser { return r })
	got.Store(0)
	ok(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "killed"}, flags...)...)
	if n := got.Load(); n == 0 || n > root*2/3 {
		t.Errorf("after half the root of %d bytes was there, %d more were fetched", root, n)
	}
	must(t, dir, "cmp killed/root.squashfs "+rootBlob(t, dir+"/one"))

	// A registry that goes away in the middle, for longer than anybody waits.
	var away atomic.Bool
	p.spoil = count(func(r io.ReadCloser) io.ReadCloser {
		return until{r, func() bool { away.Store(got.Load() > root/2); return away.Load() }}
	})
	p.trouble = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		if away.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return away.Load()
	}
	got.Store(0)
	fails(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "away"}, flags...), "giving up after 6 tries")
	if _, err := os.Stat(dir + "/away"); err == nil {
		t.Error("half a pull has the name of a whole one")
	}
	p.trouble, p.spoil = nil, count(func(r io.ReadCloser) io.ReadCloser { return r })
	got.Store(0)
	ok(t, dir, append([]string{"pull", repo + "/busy:1.0", "-o", "away"}, flags...)...)
	if n := got.Load(); n == 0 || n > root*2/3 {
		t.Errorf("after the registry was away, %d of the root's %d bytes were fetched again", n, root)
	}
}

// until breaks off when it is told to.
type until struct {
	io.ReadCloser
	over func() bool
}

func (u until) Read(b []byte) (int, error) {
	if u.over() {
		return 0, io.ErrUnexpectedEOF
	}
	return u.ReadCloser.Read(b[:min(len(b), 32<<10)])
}

// slow gives a MiB in a fiftieth of a second.
type slow struct{ io.ReadCloser }

func (s slow) Read(b []byte) (int, error) {
	time.Sleep(time.Second / 1600)
	return s.ReadCloser.Read(b[:min(len(b), 32<<10)])
}
