package fetch

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// mirror is a server whose answers to the requests for a file are given one by
// one; the last one goes on.
type mirror struct {
	*httptest.Server
	mu      sync.Mutex
	asked   int
	answers []http.HandlerFunc
}

func newMirror(t *testing.T, answers ...http.HandlerFunc) *mirror {
	m := &mirror{answers: answers}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		h := m.answers[min(m.asked, len(m.answers)-1)]
		m.asked++
		m.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(m.Close)
	return m
}

// hasty returns a cache that tries again at once.
func hasty(t *testing.T) *Cache {
	c := New(&cache.Cache{Dir: t.TempDir()})
	c.Backoff = time.Microsecond
	return c
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "busy", code) }
}

// busyFor answers 503 with a Retry-After.
func busyFor(after string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", after)
		status(http.StatusServiceUnavailable)(w, r)
	}
}

// drop closes the connection without an answer.
func drop(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// whole answers with content, or the range of it that is asked for.
func whole(content []byte, tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	}
}

// cut announces all of content, and breaks off after n bytes.
func cut(content []byte, n int, tag string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", tag)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content[:n])
		w.(http.Flusher).Flush()
		drop(w, nil)
	}
}

// ignoresRange answers with all of content whatever was asked for.
func ignoresRange(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Write(content)
	}
}

// TestDownloadsGoOn: what a mirror fails to send once is asked for again, from
// where it broke off.
func TestDownloadsGoOn(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 5000)
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	for what, c := range map[string]struct {
		answers []http.HandlerFunc
		want    string
		asked   int
	}{
		"503 once":             {[]http.HandlerFunc{status(503), whole(content, `"1"`)}, "", 2},
		"503 with Retry-After": {[]http.HandlerFunc{busyFor("0"), whole(content, `"1"`)}, "", 2},
		"429 once":             {[]http.HandlerFunc{status(429), whole(content, `"1"`)}, "", 2},
		"a closed connection":  {[]http.HandlerFunc{drop, whole(content, `"1"`)}, "", 2},
		"a cut download":       {[]http.HandlerFunc{cut(content, 20000, `"1"`), whole(content, `"1"`)}, "", 2},
		"no Range":             {[]http.HandlerFunc{cut(content, 20000, ""), ignoresRange(content)}, "", 2},
		"cut, then busy":       {[]http.HandlerFunc{cut(content, 20000, `"1"`), status(502), whole(content, `"1"`)}, "", 3},
		"changed in between": {[]http.HandlerFunc{cut(content, 20000, `"1"`), whole(content[1:], `"2"`)},
			"changed during the download", 2},
		"another server's name": {[]http.HandlerFunc{cut(content, 20000, `"1"`), whole(content, `"2"`)}, "", 2},
		"another range":         {[]http.HandlerFunc{cut(content, 20000, `"1"`), wrongRange}, "another range", 2},
		"always busy":           {[]http.HandlerFunc{status(503)}, "503", registry.Tries},
		"always cut in one place": {[]http.HandlerFunc{cut(content, 20000, `"1"`), cut(content, 0, `"1"`)}, "giving up after 6 tries",
			registry.Tries},
		"missing":   {[]http.HandlerFunc{status(404)}, "404", 1},
		"forbidden": {[]http.HandlerFunc{status(403)}, "403", 1},
	} {
		m := newMirror(t, c.answers...)
		f := hasty(t)
		name, err := f.Pinned(context.Background(), m.URL+"/x.apk", "x", digest, int64(len(content)))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		if m.asked != c.asked {
			t.Errorf("%s: the mirror was asked %d times, want %d", what, m.asked, c.asked)
		}
		if err != nil {
			continue
		}
		if b, err := os.ReadFile(name); err != nil || !bytes.Equal(b, content) {
			t.Errorf("%s: got %d bytes (%v), not what was sent", what, len(b), err)
		}
	}
}

// wrongRange answers with another range than was asked for.
func wrongRange(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Range", "bytes 5-9/50000")
	w.WriteHeader(http.StatusPartialContent)
	w.Write([]byte("01234"))
}

// TestRetryAfter: a mirror that says when to come back is left alone until then.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	var refused, taken time.Time
	m := newMirror(t, func(w http.ResponseWriter, r *http.Request) {
		refused = time.Now()
		busyFor("1")(w, r)
	}, func(w http.ResponseWriter, _ *http.Request) {
		taken = time.Now()
		w.Write([]byte("index"))
	})
	if b, err := hasty(t).Read(context.Background(), m.URL+"/APKINDEX.tar.gz", 10); err != nil || string(b) != "index" {
		t.Fatalf("%q, %v", b, err)
	}
	if waited := taken.Sub(refused); waited < 900*time.Millisecond {
		t.Errorf("asked again after %v, want a second", waited)
	}
}

// TestCancelledDownloads: a cancelled build does not wait for a mirror.
func TestCancelledDownloads(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	m := newMirror(t, func(w http.ResponseWriter, _ *http.Request) { cancel(); status(503)(w, nil) })
	c := hasty(t)
	c.Backoff = time.Hour
	if _, err := c.Read(ctx, m.URL, 10); err == nil || m.asked != 1 {
		t.Errorf("%v after %d requests", err, m.asked)
	}
}

// TestStalledDownloadTimesOut: a mirror that does not answer, or stops sending, is given up.
func TestStalledDownloadTimesOut(t *testing.T) {
	wait := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	half := func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		wait(w, r)
	}
	for what, h := range map[string]http.HandlerFunc{"no answer": wait, "half an answer": half} {
		c := hasty(t)
		c.Client = newClient(20 * time.Millisecond)
		_, err := c.Read(context.Background(), newMirror(t, h).URL, 100)
		if err == nil || !strings.Contains(err.Error(), "stopped sending") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestContentEncodingGzip: a mirror that calls .gz files gzip-encoded
// (bazelbuild/bazel#11686) sends the files as they are.
func TestContentEncodingGzip(t *testing.T) {
	var index bytes.Buffer
	z := gzip.NewWriter(&index)
	z.Write([]byte("APKINDEX"))
	z.Close()
	m := newMirror(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Write(index.Bytes())
	})
	b, err := hasty(t).Read(context.Background(), m.URL+"/APKINDEX.tar.gz", 1000)
	if err != nil || !bytes.Equal(b, index.Bytes()) {
		t.Errorf("got %d bytes and %v, want the %d bytes that were sent", len(b), err, index.Len())
	}
}

// TestHTMLInsteadOfAFile: a page of HTML in place of a file is called one.
func TestHTMLInsteadOfAFile(t *testing.T) {
	page := []byte("\n<!DOCTYPE html><html><body>Please sign in to the hotel network</body></html>")
	m := newMirror(t, whole(page, `"1"`))
	c := hasty(t)
	_, err := c.Read(context.Background(), m.URL+"/APKINDEX.tar.gz", 1000)
	if err == nil || !strings.Contains(err.Error(), "HTML") {
		t.Errorf("an index: %v", err)
	}
	if _, err = c.File(context.Background(), m.URL+"/a.apk", "a.apk", "Q1a", 1000); err == nil || !strings.Contains(err.Error(), "HTML") {
		t.Errorf("a package: %v", err)
	}
}

// withHints returns an error's text and, on lines of their own, its hints.
func withHints(err error) string {
	return strings.Join(append([]string{err.Error()}, hint.Of(err)...), "\n")
}

// TestLogins: a mirror that wants a login is given the one for its host, no
// other host is, and nothing shows the password.
func TestLogins(t *testing.T) {
	const password = "s3cret"
	m := newMirror(t, func(w http.ResponseWriter, r *http.Request) {
		if user, word, _ := r.BasicAuth(); user != "anna" || word != password {
			status(401)(w, r)
			return
		}
		w.Write([]byte("index"))
	})
	ctx, c := context.Background(), hasty(t)
	host := strings.TrimPrefix(m.URL, "http://")
	if _, err := c.Read(ctx, m.URL, 10); err == nil || !strings.Contains(err.Error(), "401") || !strings.Contains(withHints(err), "netrc") {
		t.Errorf("without a login: %v", err)
	}
	c.Logins = Logins{"127.0.0.1": {User: "anna", Password: password}}
	if b, err := c.Read(ctx, m.URL, 10); err != nil || string(b) != "index" {
		t.Errorf("with a login: %q, %v", b, err)
	}
	c.Logins = Logins{host: {User: "anna", Password: "wrong-" + password}}
	if _, err := c.Read(ctx, m.URL, 10); err == nil || strings.Contains(withHints(err), password) {
		t.Errorf("with a wrong one: %v", err)
	}
	c.Logins = Logins{"other.example": {User: "anna", Password: password}}
	if _, err := c.Read(ctx, m.URL, 10); err == nil {
		t.Error("the login of another host was used")
	}
}

// TestLoginsStayWithTheirHost: a mirror that redirects does not pass a login on.
func TestLoginsStayWithTheirHost(t *testing.T) {
	var got string
	other := newMirror(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		w.Write([]byte("x"))
	})
	m := newMirror(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	})
	c := hasty(t)
	c.Logins = Logins{"127.0.0.1": {User: "anna", Password: "s3cret"}}
	if _, err := c.Read(context.Background(), m.URL, 10); err != nil || got != "" {
		t.Errorf("the other host was told %q (%v)", got, err)
	}
}

// TestPasswordsInAddresses: an address with a login in it is refused, and the
// error does not show it (CVE-2024-36127 of apko).
func TestPasswordsInAddresses(t *testing.T) {
	m := newMirror(t, status(401))
	_, host, _ := strings.Cut(m.URL, "://")
	for _, login := range []string{"anna:s3cret", "s3cret", "s3cret:", "anna:s3cret%", "anna:/s3cret", "anna:a/s3cret", "anna:a/b:s3cret/"} {
		_, err := hasty(t).Read(context.Background(), "http://"+login+"@"+host+"/APKINDEX.tar.gz", 10)
		if err == nil || strings.Contains(withHints(err), "s3cret") || !strings.Contains(withHints(err), "netrc") {
			t.Errorf("%v", err)
		}
	}
	if m.asked != 0 {
		t.Errorf("the server was asked %d times", m.asked)
	}
}

// TestCheckAddress: addresses that name no repository are told apart.
func TestCheckAddress(t *testing.T) {
	dir := t.TempDir()
	for url, want := range map[string]string{
		"https://mirror.example/alpine/v3.23/main": "",
		"HTTP://mirror.example/alpine/v3.23/main":  "",
		dir:                             "",
		"../repository":                 "",
		"repo/main":                     "",
		"file:///srv/repo":              "write the directory alone: /srv/repo",
		"ftp://mirror.example/x":        "http:// or https://",
		"@edge http://mirror.example/x": "tag: edge",
		"127.0.0.1/alpine":              "http:// or https:// in front",
		"dl-cdn.example.org/alpine":     "http:// or https:// in front",
		"http://mirror.example/alpine/v3.23/main/aarch64": "leave out /aarch64",
		"http:/mirror.example/x":                          "http:// or https://",
		"https://":                                        "names no host",
		"https://anna:s3cret@mirror.example/x":            "netrc",
		"https://anna:a/s3cret@mirror.example/x":          "machine mirror.example login",
		"https://mirror.example:8443/a@b":                 "",
	} {
		err := CheckAddress(url, "aarch64")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(withHints(err), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
		if err != nil && strings.Contains(withHints(err), "s3cret") {
			t.Errorf("%s: the password is shown: %v", url, err)
		}
	}
	if !IsRemote("HTTP://mirror.example") || IsRemote("http.d/x") {
		t.Error("IsRemote depends on the case of the scheme")
	}
}

// TestNetrc: logins are read as curl and ftp read them.
func TestNetrc(t *testing.T) {
	got, err := ParseNetrc([]byte("# mirrors\nmachine a.example login anna password s3cret\nmachine b.example\n\tlogin " +
		"bert\n\tpassword \"with blank\"\n" +
		"macdef init\ncd /\nmachine not.example\n\nmachine c.example account x login carl password pw#1\ndefault login guest password none\n"))
	want := Logins{"a.example": {"anna", "s3cret"}, "b.example": {"bert", "with blank"}, "c.example": {"carl", "pw#1"}, "": {"guest", "none"}}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
	for text, want := range map[string]string{
		"machine":                      "line 1: machine",
		"machine a\nlogin x\npassword": "line 3: password",
		"machine a s3cret x":           "line 1: ",
		"login anna":                   "line 1: login",
	} {
		_, err := ParseNetrc([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(withHints(err), "s3cret") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
