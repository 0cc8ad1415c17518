package fetch

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder/cache"
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
	if _, err := c.Read(ctx, s.URL+"/long.apk", 5); err == nil || !strings.Contains(err.Error(), "more than 5 bytes") {
		t.Errorf("a file over the limit: %v", err)
	}
	if _, err := c.File(ctx, filepath.Join(dir, "none"), "x", "x", 1); err == nil {
		t.Error("a folder's missing file: no error")
	}
}
