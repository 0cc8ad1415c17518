package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Habit is what some registry does that others do not.
type Habit struct {
	Name   string
	Report string // where it was reported
	// Wrap puts the habit before a registry that has no referrers API. elsewhere is
	// the address of another server before the same registry, without the habit.
	Wrap        func(behind http.Handler, elsewhere string) http.Handler
	TypeRefused bool // nothing can be published there
	NoBundles   bool // of signatures only those in the classic form can be
	TagsFixed   bool // an image can be, and no patch can be added later
	OneTag      bool // an image can be, under one tag alone
}

// Proxy returns a handler that passes requests on to a registry.
func Proxy(addr string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: addr})
			r.Out.Host = r.In.Host
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

// Habits lists habits of registries that people have.
func Habits() []Habit {
	const quay, ecr = "https://github.com/oras-project/oras/issues/738", "https://github.com/moby/buildkit/issues/3776"
	return []Habit{
		{Name: "no referrers API", Report: "https://github.com/kyverno/kyverno/issues/16664", Wrap: referrers(http.StatusNotFound, "")},
		{Name: "referrers API that lists nothing", Report: "https://github.com/containerd/containerd/pull/12347",
			Wrap: referrers(http.StatusOK, index())},
		{Name: "referrers API that lists what is not there", Report: "https://github.com/oras-project/oras-go/issues/1396",
			Wrap: referrers(http.StatusOK, index(entry{mediaManifest, "sha256:" + strings.Repeat("ab", 32), 700, ""}))},
		{Name: "referrers API in pages", Report: "https://github.com/google/go-containerregistry/issues/2446", Wrap: pages},
		{Name: "sha256-HEX is a digest", Report: "https://github.com/oras-project/oras-go/issues/1396", Wrap: tagsAreDigests},
		{Name: "unknown types are invalid", Report: "https://github.com/ocx-sh/ocx/issues/480", TypeRefused: true,
			Wrap: refuseTypes(http.StatusBadRequest, "MANIFEST_INVALID", "application/vnd.")},
		{Name: "unknown types are unsupported", Report: quay, TypeRefused: true,
			Wrap: refuseTypes(http.StatusMethodNotAllowed, "UNSUPPORTED", "application/vnd.")},
		{Name: "bundles are invalid", Report: quay, NoBundles: true,
			Wrap: refuseTypes(http.StatusBadRequest, "MANIFEST_INVALID", "application/vnd.dev.sigstore")},
		{Name: "bundles are unsupported", Report: quay, NoBundles: true,
			Wrap: refuseTypes(http.StatusUnsupportedMediaType, "", "application/vnd.dev.sigstore")},
		{Name: "tags after manifests", Report: "https://github.com/sigstore/cosign/issues/2208", Wrap: tagsAfterManifests},
		{Name: "tags do not move", Report: ecr, TagsFixed: true, Wrap: refuseTags(http.StatusBadRequest, "TAG_INVALID", false)},
		{Name: "tags do not move by a rule", Report: "https://github.com/goharbor/harbor/issues/17332", TagsFixed: true,
			Wrap: refuseTags(http.StatusPreconditionFailed, "PRECONDITION", false)},
		{Name: "a digest has one tag", Report: ecr, OneTag: true, Wrap: refuseTags(http.StatusConflict, "TAG_INVALID", true)},
		{Name: "tokens for what was asked", Report: "https://github.com/regclient/regclient/issues/153", Wrap: tokens},
		{Name: "too many requests", Report: "https://github.com/containerd/containerd/issues/10447", Wrap: busy},
		{Name: "uploads break off", Report: "https://github.com/distribution/distribution/issues/1692", Wrap: breakOff},
		{Name: "relative locations", Report: "https://github.com/apple/swift-container-plugin/pull/44",
			Wrap: locations(func(u *url.URL, _ string) { u.Scheme, u.Host = "", "" })},
		{Name: "locations on another host", Report: "https://github.com/oras-project/oras-go/pull/1282",
			Wrap: locations(func(u *url.URL, elsewhere string) { u.Scheme, u.Host = "http", elsewhere })},
		{Name: "locations with a query", Report: "https://github.com/distribution/distribution/pull/48",
			Wrap: locations(func(u *url.URL, _ string) { u.RawQuery += "&account=a%2Fb&digest_hint=x" })},
	}
}

const (
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
)

type entry struct {
	MediaType    string `json:"mediaType"`
	Digest       string `json:"digest"`
	Size         int    `json:"size"`
	ArtifactType string `json:"artifactType,omitempty"`
}

// index returns an index over manifests.
func index(list ...entry) string {
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": append([]entry{}, list...)})
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// refuse answers as registries do.
func refuse(w http.ResponseWriter, code int, word, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if word != "" {
		fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, word, message)
	}
}

// has reports whether a registry has a manifest.
func has(behind http.Handler, r *http.Request, ref string) bool {
	name, _, _ := strings.Cut(r.URL.Path, "/manifests/")
	ask := httptest.NewRequest(http.MethodHead, name+"/manifests/"+ref, nil)
	ask.Header.Set("Accept", mediaManifest+", "+mediaIndex)
	rec := httptest.NewRecorder()
	behind.ServeHTTP(rec, ask)
	return rec.Code == http.StatusOK
}

// put is the PUT of a manifest.
type put struct {
	ref          string
	ArtifactType string `json:"artifactType"`
	Config       entry  `json:"config"`
	Subject      *entry `json:"subject"`
	body         []byte
}

// putOf reads the PUT of a manifest, and leaves the request as it was.
func putOf(r *http.Request) (put, bool) {
	_, ref, ok := strings.Cut(r.URL.Path, "/manifests/")
	if !ok || r.Method != http.MethodPut {
		return put{}, false
	}
	p := put{ref: ref}
	b, err := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	r.Body = io.NopCloser(bytes.NewReader(b))
	p.body = b
	return p, err == nil && json.Unmarshal(b, &p) == nil
}

// referrers answers the referrers API.
func referrers(code int, body string) func(http.Handler, string) http.Handler {
	return func(behind http.Handler, _ string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !strings.Contains(r.URL.Path, "/referrers/") {
				behind.ServeHTTP(w, r)
				return
			}
			w.Header().Set("Content-Type", mediaIndex)
			w.WriteHeader(code)
			io.WriteString(w, body)
		})
	}
}

// pages gives a registry a referrers API that lists one manifest a page.
func pages(behind http.Handler, _ string) http.Handler {
	var mu sync.Mutex
	of := map[string][]entry{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, digest, ok := strings.Cut(r.URL.Path, "/referrers/")
		if !ok {
			if p, ok := putOf(r); ok && p.Subject != nil {
				mu.Lock()
				of[p.Subject.Digest] = append(of[p.Subject.Digest], entry{mediaManifest, p.ref, len(p.body), p.ArtifactType})
				mu.Unlock()
			}
			behind.ServeHTTP(w, r)
			return
		}
		mu.Lock()
		list := of[digest]
		mu.Unlock()
		n, _ := strconv.Atoi(r.URL.Query().Get("page"))
		w.Header().Set("Content-Type", mediaIndex)
		if n+1 < len(list) {
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, n+1))
		}
		io.WriteString(w, index(list[min(n, len(list)):min(n+1, len(list))]...))
	})
}

// tagsAreDigests takes sha256-HEX for a digest, where there is a manifest of that,
// until it is written as a tag.
func tagsAreDigests(behind http.Handler, _ string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ref, ok := strings.Cut(r.URL.Path, "/manifests/sha256-")
		if there := has(behind, r, "sha256-"+ref); ok && r.Method == http.MethodGet && !there && !strings.Contains(ref, ".") {
			r.URL.Path = name + "/manifests/sha256:" + ref
		}
		behind.ServeHTTP(w, r)
	})
}

// refuseTypes refuses manifests whose artifact type begins with some text.
func refuseTypes(code int, word, begin string) func(http.Handler, string) http.Handler {
	return func(behind http.Handler, _ string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if p, ok := putOf(r); ok && strings.HasPrefix(p.ArtifactType, begin) {
				refuse(w, code, word, "unknown media type: "+p.ArtifactType)
				return
			}
			behind.ServeHTTP(w, r)
		})
	}
}

// tagsAfterManifests refuses a tag of a manifest that is not there by its digest.
func tagsAfterManifests(behind http.Handler, _ string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := putOf(r); ok && !strings.HasPrefix(p.ref, "sha256") {
			if !has(behind, r, image.DigestOf(p.body)) {
				refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
				return
			}
		}
		behind.ServeHTTP(w, r)
	})
}

// refuseTags refuses a tag that is there, or, with once, a second one of a digest.
func refuseTags(code int, word string, once bool) func(http.Handler, string) http.Handler {
	return func(behind http.Handler, _ string) http.Handler {
		var mu sync.Mutex
		tagged := map[string]string{} // digest to tag
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, ok := putOf(r)
			if !ok || strings.HasPrefix(p.ref, "sha256:") {
				behind.ServeHTTP(w, r)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			digest := image.DigestOf(p.body)
			there := has(behind, r, p.ref)
			if old := tagged[digest]; there && !once || once && old != "" && old != p.ref {
				refuse(w, code, word, fmt.Sprintf("The tag '%s' cannot be overwritten because it is configured as immutable.", p.ref))
				return
			}
			tagged[digest] = p.ref
			behind.ServeHTTP(w, r)
		})
	}
}

// tokens wants a token for each request, of which the first challenge asks for one
// that may pull.
func tokens(behind http.Handler, _ string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(map[string]string{"token": strings.Join(r.URL.Query()["scope"], " ")})
			return
		}
		want := "pull"
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			want = "push"
		}
		if !strings.Contains(r.Header.Get("Authorization"), want) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="test",scope="repository:lab:pull"`, r.Host))
			refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return
		}
		behind.ServeHTTP(w, r)
	})
}

// first reports whether something happens for the first time.
type first struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (f *first) time(what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = map[string]bool{}
	}
	was := f.seen[what]
	f.seen[what] = true
	return !was
}

// busy answers the first request for a manifest, and the first one that sends one,
// that there were too many.
func busy(behind http.Handler, _ string) http.Handler {
	var f first
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") && f.time(r.Method) {
			io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down")
			return
		}
		behind.ServeHTTP(w, r)
	})
}

// breakOff fails in the middle of the first uploads.
func breakOff(behind http.Handler, _ string) http.Handler {
	var f first
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch && f.time(strconv.FormatInt(r.ContentLength, 10)) {
			io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			refuse(w, http.StatusBadGateway, "", "")
			return
		}
		behind.ServeHTTP(w, r)
	})
}

// locations changes where uploads go on.
func locations(change func(u *url.URL, elsewhere string)) func(http.Handler, string) http.Handler {
	return func(behind http.Handler, elsewhere string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			behind.ServeHTTP(&located{ResponseWriter: w, change: func(text string) string {
				u, err := r.URL.Parse(text)
				if err != nil {
					return text
				}
				u.Scheme, u.Host = "http", r.Host
				change(u, elsewhere)
				return u.String()
			}}, r)
		})
	}
}

// located changes the Location of an answer.
type located struct {
	http.ResponseWriter
	change func(string) string
}

// WriteHeader implements http.ResponseWriter.
func (l *located) WriteHeader(code int) {
	if at := l.Header().Get("Location"); at != "" && code == http.StatusAccepted {
		l.Header().Set("Location", l.change(at))
	}
	l.ResponseWriter.WriteHeader(code)
}
