package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// loses is a registry that takes what it is sent, and later does not have some of
// it. what is asked with the body of a manifest, and with nil for a blob.
func loses(what func(path string, body []byte) bool) quirk {
	var mu sync.Mutex
	lost := map[string]bool{}
	return func(w http.ResponseWriter, r *http.Request, behind http.Handler) bool {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/"):
			b, err := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(b))
			lost[r.URL.Path] = err == nil && what(r.URL.Path, b)
		case lost[r.URL.Path] && (r.Method == http.MethodGet || r.Method == http.MethodHead):
			w.WriteHeader(http.StatusNotFound)
			return true
		case r.Method == http.MethodHead && what(r.URL.Path, nil): // a blob, which is asked for before it is sent too
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	}
}

// TestPublishIsReadBack: a publish to a registry that loses something that a node or
// a reader needs is an error, which names it, and no tag is written.
func TestPublishIsReadBack(t *testing.T) {
	img, bill := signedImage(t)
	holds := func(text string) func(string, []byte) bool {
		return func(_ string, b []byte) bool { return bytes.Contains(b, []byte(text)) }
	}
	for name, c := range map[string]struct {
		lost func(path string, b []byte) bool
		want string
	}{
		"the image": {func(path string, _ []byte) bool { return strings.HasSuffix(path, "/"+img.Digest) }, "the manifest itself"},
		"the bill":  {func(path string, _ []byte) bool { return strings.HasSuffix(path, "/"+bill) }, "the manifest itself"},
		"a file": {func(path string, _ []byte) bool { return strings.HasSuffix(path, "/blobs/"+img.Files[0].Digest) },
			"its blob " + img.Files[0].Digest},
		"classic signatures": {func(path string, _ []byte) bool { return strings.HasSuffix(path, ".sig") }, "signatures"},
		"bundles":            {holds(`"artifactType":"` + image.MediaBundle + `","config"`), "of its 3 signatures"},
		"the list of referrers": {func(path string, _ []byte) bool { return strings.HasSuffix(path, referrersTag(img.Digest)) },
			"cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			s := quirky(t, false, loses(c.lost))
			err := Copy(context.Background(), img, at(t, s, Options{}), []string{"1.0"}, newKey(t), nil)
			if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want ErrIncomplete with %q", err, c.want)
			}
			if got := strings.Join(hint.Of(err), " "); !strings.Contains(got, "publish again") {
				t.Errorf("advice: %q", got)
			}
			if there, err := Tagged(context.Background(), at(t, s, Options{}), "1.0", "arm64"); err != nil || there != nil {
				t.Errorf("a tag names what is not complete (%v)", err)
			}
		})
	}
}

// TestListedLater: a registry that lists what refers to an image a moment after it
// was told gets that moment.
func TestListedLater(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]int{}
	later := func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Method+r.URL.Path]++
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".sig") && asked[r.Method+r.URL.Path] < 6 {
			http.NotFound(w, r)
			return true
		}
		return false
	}
	img, _ := signedImage(t)
	if err := Copy(context.Background(), img, at(t, quirky(t, false, later), Options{}), []string{"1.0"}, nil, nil); err != nil {
		t.Error(err)
	}
}

// TestEveryInterruptionIsMended breaks a publish off at each of its writes in turn:
// the next one completes it, with the referrers API and without.
func TestEveryInterruptionIsMended(t *testing.T) {
	habits := map[string]registrytest.Habit{}
	for _, h := range registrytest.Habits() {
		habits[h.Name] = h
	}
	img, bill := signedImage(t)
	key := newKey(t)
	for _, name := range []string{"no referrers API", "referrers API in pages"} {
		writes, done := 0, false
		step := 1
		if testing.Short() {
			step = 9
		}
		for first := 1; !done; first += step {
			behind := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
			var mu sync.Mutex
			n, broken := 0, true
			breaking := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				if r.Method != http.MethodGet && r.Method != http.MethodHead {
					n++
				}
				now := broken && n >= first
				mu.Unlock()
				if now {
					http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
					return
				}
				behind.ServeHTTP(w, r)
			})
			s := httptest.NewServer(habits[name].Wrap(breaking, ""))
			_, err := publishAll(t, at(t, s, Options{}), img, key)
			mu.Lock()
			writes, done, broken = n, err == nil, false
			mu.Unlock()
			if _, err := publishAll(t, at(t, s, Options{}), img, key); err != nil {
				t.Errorf("%s, broken off at write %d: the next publish: %v", name, first, err)
			}
			isThere(t, s, img, bill, key, habits[name])
			s.Close()
		}
		if writes < 20 {
			t.Errorf("%s: a publish has %d writes; want at least 20", name, writes)
		}
	}
}

// TestTagsAreReadBack: a tag that names something else after it was written is an
// error.
func TestTagsAreReadBack(t *testing.T) {
	img, _ := signedImage(t)
	old := append(bytes.Clone(img.Index), ' ')
	stuck := quirky(t, false, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/manifests/1.0") { // a cache answers
			w.Header().Set("Content-Type", image.MediaOCIIndex)
			w.Write(old)
			return true
		}
		return false
	})
	err := Copy(context.Background(), img, at(t, stuck, Options{}), []string{"1.0"}, nil, nil)
	if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), image.DigestOf(old)) {
		t.Errorf("got %v, want ErrIncomplete that names the old index", err)
	}
}
