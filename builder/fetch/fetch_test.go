package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

func TestFileIsDownloadedOnce(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch r.URL.Path {
		case "/good.apk":
			w.Write([]byte("hello"))
		case "/long.apk":
			w.Write([]byte("hello and more"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	ctx, dir := context.Background(), t.TempDir()
	c := New(&cache.Cache{Dir: filepath.Join(dir, "cache")})
	for range 2 {
		name, err := c.File(ctx, s.URL+"/good.apk", "good.apk", "Q1good", 5)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
	}
	if asked != 1 {
		t.Errorf("the server was asked %d times", asked)
	}
	for url, want := range map[string]string{"/gone.apk": "404", "/long.apk": "more than the 5 bytes"} {
		if _, err := c.File(ctx, s.URL+url, "x", url, 5); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", url, err, want)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(c.Dir, cache.Packages)); len(left) != 1 {
		t.Errorf("the cache holds %d files after failed downloads, want the good one", len(left))
	}
	if _, err := c.Read(ctx, s.URL+"/long.apk", 5); err == nil || !strings.Contains(err.Error(), "larger than 5 bytes") {
		t.Errorf("a file over the limit: %v", err)
	}
	if _, err := c.File(ctx, filepath.Join(dir, "none"), "x", "x", 1); err == nil {
		t.Error("a missing file of a directory: no error")
	}
}

// TestPinnedIsHashed: what has a digest is compared with it, from the server
// and from the cache.
func TestPinnedIsHashed(t *testing.T) {
	asked := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked++; w.Write([]byte("chart")) }))
	defer s.Close()
	ctx := context.Background()
	c := New(&cache.Cache{Dir: t.TempDir()})
	sum := sha256.Sum256([]byte("chart"))
	digest := hex.EncodeToString(sum[:])
	name, err := c.Pinned(ctx, s.URL, "chart", digest, 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Pinned(ctx, s.URL, "chart", digest, 5); err != nil || asked != 1 {
		t.Errorf("from the cache: %v, the server was asked %d times", err, asked)
	}
	if err := os.WriteFile(name, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if name, err = c.Pinned(ctx, s.URL, "chart", digest, 5); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "chart" {
		t.Errorf("after the cache was changed: %q, %v", b, err)
	}
	if _, err := c.Pinned(ctx, s.URL, "chart", strings.Repeat("0", 64), 5); err == nil || !strings.Contains(err.Error(), "sha256 mismatch") {
		t.Errorf("another digest: %v", err)
	}
	_, err = c.Pinned(ctx, s.URL, "chart", strings.Repeat("1", 64), 4)
	if err == nil || !strings.Contains(err.Error(), "larger than 4 bytes") {
		t.Errorf("more than the limit: %v", err)
	}
}

// TestMirrorsKeepTLS: a mirror with TLS does not redirect to one without.
func TestMirrorsKeepTLS(t *testing.T) {
	heard := 0
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard++ }))
	defer plain.Close()
	s := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusFound))
	defer s.Close()
	c := New(&cache.Cache{Dir: t.TempDir()})
	c.Client.Transport = s.Client().Transport
	_, err := c.Read(context.Background(), s.URL+"/APKINDEX.tar.gz", 100)
	if err == nil || !strings.Contains(err.Error(), "without TLS") || heard != 0 {
		t.Errorf("%d requests without TLS, %v", heard, err)
	}
}

// TestVendorNeedsTLS: a vendor artifact is neither read nor pushed without TLS
// unless its reference says so.
func TestVendorNeedsTLS(t *testing.T) {
	heard := 0
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { heard++; handler.ServeHTTP(w, r) }))
	defer s.Close()
	ctx, dir, ref := context.Background(), t.TempDir(), strings.TrimPrefix(s.URL, "http://")+"/pi/inputs:1"
	if err := os.WriteFile(filepath.Join(dir, "a.apk"), []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(ctx, dir, ref); err == nil || !strings.Contains(strings.Join(hint.Of(err), ""), "write http://"+ref) || heard != 0 {
		t.Errorf("pushing: %d requests, %v", heard, err)
	}
	if _, err := OpenRegistry(ctx, ref); err == nil || !strings.Contains(strings.Join(hint.Of(err), ""), "write http://"+ref) || heard != 0 {
		t.Errorf("reading: %d requests, %v", heard, err)
	}
	if _, err := Push(ctx, dir, "http://"+ref); err != nil {
		t.Fatal(err)
	}
	v, err := OpenRegistry(ctx, "http://"+ref)
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.Open(ctx, "a.apk")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "bytes" {
		t.Errorf("%q, %v", b, err)
	}
}
