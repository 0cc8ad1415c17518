package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// quirk answers a request in place of the registry behind it, or returns false.
type quirk func(w http.ResponseWriter, r *http.Request, behind http.Handler) bool

// quirky starts a registry in memory that keeps no list of referrers, unless
// withAPI, with a quirk of some real registry before it.
func quirky(t *testing.T, withAPI bool, q quirk) *httptest.Server {
	t.Helper()
	behind := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(withAPI))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q == nil || !q(w, r, behind) {
			behind.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// signedImage returns an image with one signed referrer, its digest and that of
// the referrer.
func signedImage(t *testing.T) (img *Published, referrer string) {
	t.Helper()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	referrer = s.refer(t, digest, nil)
	sign(t, s, referrer, m.key)
	img, err := Open(context.Background(), s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	return img, referrer
}

// goesThrough publishes an image and copies it back, and checks that its
// referrer came along.
func goesThrough(t *testing.T, s *httptest.Server) {
	t.Helper()
	img, referrer := signedImage(t)
	comesBack(t, s, img, referrer)
}

func comesBack(t *testing.T, s *httptest.Server, img *Published, referrer string) {
	t.Helper()
	ctx := context.Background()
	if err := Copy(ctx, img, at(t, s, Options{}), []string{"1.0"}, nil, nil); err != nil {
		t.Errorf("publishing: %v", err)
		return
	}
	there, err := Open(ctx, at(t, s, Options{}), "1.0", Want{Keys: img.trusted, Arch: "arm64"})
	if err != nil {
		t.Errorf("opening: %v", err)
		return
	}
	back := newShelf()
	if err := Copy(ctx, there, back, []string{"1.0"}, nil, nil); err != nil {
		t.Errorf("pulling: %v", err)
		return
	}
	if _, ok := back.blobs[referrer]; !ok {
		t.Error("the referrer is lost")
	}
}

var signatureTag = regexp.MustCompile(`/manifests/sha256-([0-9a-f]{64})\.sig$`)

// wantsSubjects is Harbor's habit: a PUT of the tag sha256-….sig is answered
// with 404 while the manifest that it signs is not there (goharbor/harbor,
// src/server/middleware/cosign).
func wantsSubjects(w http.ResponseWriter, r *http.Request, behind http.Handler) bool {
	m := signatureTag.FindStringSubmatch(r.URL.Path)
	if r.Method != http.MethodPut || m == nil {
		return false
	}
	subject := strings.Replace(r.URL.Path, "sha256-"+m[1]+".sig", "sha256:"+m[1], 1)
	rec := httptest.NewRecorder()
	behind.ServeHTTP(rec, httptest.NewRequest(http.MethodHead, subject, nil))
	if rec.Code == http.StatusOK {
		return false
	}
	http.Error(w, `{"errors":[{"code":"NOT_FOUND"}]}`, http.StatusNotFound)
	return true
}

// TestSubjectsBeforeSignatures: a registry that takes a signature only for a
// manifest that is there takes an image, and a patch for it (sigstore/cosign#2208).
func TestSubjectsBeforeSignatures(t *testing.T) {
	ctx := context.Background()
	s := quirky(t, false, wantsSubjects)
	goesThrough(t, s)
	img, _ := signedImage(t)
	to := at(t, s, Options{})
	if err := Copy(ctx, img, to, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	blob := []byte("patch")
	made := image.Descriptor{Digest: image.DigestOf(blob), Size: int64(len(blob))}
	p := image.Patch{From: image.DigestOf([]byte("old")), Release: "0.9", Blob: made}
	key := newKey(t)
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }
	if err := AddPatch(ctx, to, img, p, open, key); err != nil {
		t.Fatalf("adding a patch: %v", err)
	}
	there := *img
	there.From = at(t, s, Options{})
	found, err := FindPatch(ctx, &there, p.From, []*ecdsa.PublicKey{&key.PublicKey})
	if err != nil || found == nil {
		t.Errorf("the patch is not found: %v, %v", found, err)
	}
}

// TestTagsAreWrittenLast: a tag names an image only once its manifests and
// signatures are there.
func TestTagsAreWrittenLast(t *testing.T) {
	var mu sync.Mutex
	var puts []string
	s := quirky(t, true, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if _, ref, ok := strings.Cut(r.URL.Path, "/manifests/"); ok && r.Method == http.MethodPut {
			mu.Lock()
			defer mu.Unlock()
			kind := "tag"
			if strings.HasPrefix(ref, "sha256:") {
				kind = "digest"
			} else if isCosignTag(ref) {
				kind = "signature"
			}
			if len(puts) == 0 || puts[len(puts)-1] != kind {
				puts = append(puts, kind)
			}
		}
		return false
	})
	goesThrough(t, s)
	if got, want := strings.Join(puts, " "), "digest signature tag"; got != want {
		t.Errorf("manifests were put in the order %q, want %q", got, want)
	}
}

// referrersAnswer answers the referrers API.
func referrersAnswer(code int, contentType, body string) quirk {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		io.WriteString(w, body)
		return true
	}
}

// TestRegistriesWithoutReferrers: whatever a registry answers that has no
// referrers API, the list is written and read under its tag
// (google/go-containerregistry#1962, sigstore/sigstore-js#1187).
func TestRegistriesWithoutReferrers(t *testing.T) {
	const refusal, page = `{"errors":[{"code":"UNSUPPORTED"}]}`, "<html><body>Sign in</body></html>"
	for _, code := range []int{400, 404, 405, 406, 410, 415, 500, 501, 502, 503, 505} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			goesThrough(t, quirky(t, false, referrersAnswer(code, "application/json", refusal)))
		})
	}
	t.Run("200 with HTML", func(t *testing.T) { goesThrough(t, quirky(t, false, referrersAnswer(200, "text/html", page))) })
	t.Run("200 with other JSON", func(t *testing.T) { goesThrough(t, quirky(t, false, referrersAnswer(200, "application/json", "{}"))) })
	t.Run("303 to HTML", func(t *testing.T) {
		goesThrough(t, quirky(t, false, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			switch {
			case strings.Contains(r.URL.Path, "/referrers/"):
				http.Redirect(w, r, "/login.html", http.StatusSeeOther)
			case r.URL.Path == "/login.html":
				w.Header().Set("Content-Type", "text/html")
				io.WriteString(w, page)
			default:
				return false
			}
			return true
		}))
	})
}

// TestReferrersAPIIsAskedForOnce: whether a repository has the API is decided
// with one question of a client, however many manifests there are.
func TestReferrersAPIIsAskedForOnce(t *testing.T) {
	asked := 0
	var mu sync.Mutex
	s := quirky(t, false, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		mu.Lock()
		asked++
		mu.Unlock()
		http.NotFound(w, r)
		return true
	})
	ctx := context.Background()
	img, _ := signedImage(t)
	to := at(t, s, Options{})
	if err := Copy(ctx, img, to, []string{"1.0"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if list, err := to.Referrers(ctx, img.Digest); err != nil || len(list) != 1 {
			t.Errorf("referrers: %v, %v", list, err)
		}
	}
	if asked != 2 {
		t.Errorf("the API was asked %d times, want once by the publish, and once when it was read back", asked)
	}
}

// TestFailingReferrersAPI: a registry whose API fails, and that has no list
// under a tag, is not one without referrers: its patches would be lost silently.
func TestFailingReferrersAPI(t *testing.T) {
	s := quirky(t, false, referrersAnswer(503, "text/plain", "busy"))
	_, err := at(t, s, Options{}).Referrers(context.Background(), image.DigestOf(nil))
	if err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("got %v, want an error with the status", err)
	}
	// One that refuses is asked for a login.
	s = quirky(t, false, referrersAnswer(403, "text/plain", "no"))
	_, err = at(t, s, Options{}).Referrers(context.Background(), image.DigestOf(nil))
	if !strings.Contains(strings.Join(hint.Of(err), ""), "docker login") {
		t.Errorf("a refusal: %v", err)
	}
}

// paged answers the referrers API with one descriptor a page and a Link to the
// next (google/go-containerregistry#2446).
func paged(n int, next func(r *http.Request, page int) string) quirk {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		page, _ := strconv.Atoi(r.URL.Query().Get("page"))
		w.Header().Set("Content-Type", image.MediaOCIIndex)
		if page+1 < n {
			w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next(r, page+1)))
		}
		json.NewEncoder(w).Encode(image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex,
			Manifests: []image.Descriptor{{MediaType: image.MediaOCIManifest, Digest: image.DigestOf([]byte(strconv.Itoa(page)))}}})
		return true
	}
}

// TestReferrersInPages: every page of a list is read, up to a bound, and no page
// leads to another host.
func TestReferrersInPages(t *testing.T) {
	relative := func(r *http.Request, page int) string { return fmt.Sprintf("%s?page=%d", r.URL.Path, page) }
	absolute := func(r *http.Request, page int) string { return "http://" + r.Host + relative(r, page) }
	same := func(r *http.Request, _ int) string { return r.URL.Path + "?page=1" }
	elsewhere := func(*http.Request, int) string { return "http://registry.example/v2/lab/referrers/x" }
	for what, c := range map[string]struct {
		q    quirk
		n    int
		want string
	}{
		"one page":          {paged(1, relative), 1, ""},
		"relative links":    {paged(5, relative), 5, ""},
		"absolute links":    {paged(3, absolute), 3, ""},
		"links in a circle": {paged(maxListed*2, same), maxListed, ""},
		"another host":      {paged(2, elsewhere), 0, "another host"},
	} {
		list, err := at(t, quirky(t, false, c.q), Options{}).Referrers(context.Background(), image.DigestOf(nil))
		if len(list) != c.n || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %d and %v, want %d and %q", what, len(list), err, c.n, c.want)
		}
	}
	huge := referrersAnswer(200, image.MediaOCIIndex, `{"schemaVersion":2,"mediaType":"`+image.MediaOCIIndex+`","manifests":[]}`+
		strings.Repeat(" ", image.MaxOCI))
	if _, err := at(t, quirky(t, false, huge), Options{}).Referrers(context.Background(), image.DigestOf(nil)); err == nil ||
		!strings.Contains(err.Error(), "more than") {
		t.Errorf("a list over the bound: %v", err)
	}
}

// TestInterruptedPublishIsCompleted: a publish that was interrupted between a
// referrer and the list of referrers is completed by the next one.
func TestInterruptedPublishIsCompleted(t *testing.T) {
	var mu sync.Mutex
	broken := true
	s := quirky(t, false, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		mu.Lock()
		defer mu.Unlock()
		_, ref, _ := strings.Cut(r.URL.Path, "/manifests/")
		if !broken || r.Method != http.MethodPut || !strings.HasPrefix(ref, "sha256-") || strings.HasSuffix(ref, ".sig") {
			return false
		}
		http.Error(w, `{"errors":[{"code":"DENIED"}]}`, http.StatusForbidden)
		return true
	})
	img, referrer := signedImage(t)
	if err := Copy(context.Background(), img, at(t, s, Options{}), []string{"1.0"}, nil, nil); err == nil {
		t.Fatal("the first publish did not break off")
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	comesBack(t, s, img, referrer)
}

// TestForeignReferrersAreKept: entries that others wrote into a list of referrers
// are kept.
func TestForeignReferrersAreKept(t *testing.T) {
	ctx := context.Background()
	s := quirky(t, false, nil)
	img, referrer := signedImage(t)
	to := at(t, s, Options{})
	tag := strings.Replace(img.Digest, ":", "-", 1)
	theirs := []byte(`{"schemaVersion":2,"mediaType":"` + image.MediaOCIManifest + `"}`)
	if err := to.PutManifest(ctx, "", image.Describe(theirs), theirs); err != nil {
		t.Fatal(err)
	}
	other := `{"mediaType":"` + image.MediaOCIManifest + `","digest":"` + image.DigestOf(theirs) +
		`","size":5,"urls":["https://registry.example/other"]}`
	list := []byte(`{"schemaVersion":2,"mediaType":"` + image.MediaOCIIndex + `","annotations":{"by":"another"},"manifests":[` + other + `]}`)
	if err := to.PutManifest(ctx, tag, image.Describe(list), list); err != nil {
		t.Fatal(err)
	}
	if err := Copy(ctx, img, to, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	_, b, err := to.Manifest(ctx, tag)
	if err != nil || !bytes.Contains(b, []byte(other)) || !bytes.Contains(b, []byte(`"by":"another"`)) ||
		!bytes.Contains(b, []byte(referrer)) {
		t.Errorf("the list became %s (%v)", b, err)
	}
}

// TestRegistriesWithoutDigestHeaderOrHEAD: a registry that names no digest in its headers, or knows
// no HEAD, takes the same image twice.
func TestRegistriesWithoutDigestHeaderOrHEAD(t *testing.T) {
	for what, q := range map[string]quirk{
		"no HEAD": func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(http.StatusMethodNotAllowed)
			}
			return r.Method == http.MethodHead
		},
		"no Docker-Content-Digest": func(w http.ResponseWriter, r *http.Request, behind http.Handler) bool {
			rec := httptest.NewRecorder()
			behind.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				if k != "Docker-Content-Digest" {
					w.Header()[k] = v
				}
			}
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
			return true
		},
	} {
		t.Run(what, func(t *testing.T) {
			s := quirky(t, false, q)
			img, referrer := signedImage(t)
			comesBack(t, s, img, referrer)
			comesBack(t, s, img, referrer)
		})
	}
}

// TestManifestsAreRetried: a manifest whose upload meets a busy registry is sent
// again, all of it.
func TestManifestsAreRetried(t *testing.T) {
	var mu sync.Mutex
	tried := map[string]bool{}
	s := quirky(t, true, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/manifests/") || tried[r.URL.Path] {
			return false
		}
		tried[r.URL.Path] = true
		io.Copy(io.Discard, r.Body)
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return true
	})
	goesThrough(t, s)
}

// brokenHelper is a keychain whose credential helper is not installed.
type brokenHelper struct{}

func (brokenHelper) Resolve(authn.Resource) (authn.Authenticator, error) {
	return nil, errors.New(`exec: "docker-credential-desktop": executable file not found in $PATH`)
}

// TestCredentialHelperIsMissing: a registry that wants no login is read without
// the helper; one that wants one says what is missing.
func TestCredentialHelperIsMissing(t *testing.T) {
	s := quirky(t, false, nil)
	img, _ := signedImage(t)
	if err := Copy(context.Background(), img, at(t, s, Options{Keychain: brokenHelper{}}), []string{"1.0"}, nil, nil); err != nil {
		t.Errorf("a registry without a login: %v", err)
	}
	refuses := quirky(t, false, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		http.Error(w, "no", http.StatusUnauthorized)
		return true
	})
	_, _, err := at(t, refuses, Options{Keychain: brokenHelper{}}).Manifest(context.Background(), "1.0")
	if err == nil || !strings.Contains(err.Error(), "docker-credential-desktop") ||
		!strings.Contains(strings.Join(hint.Of(err), ""), "install the credential helper") {
		t.Errorf("a registry with a login: %v", err)
	}
}
