package oci

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// TestPlainHTTPIsRefused: a registry at an address that looks local hears
// nothing without TLS, unless the reference says so.
func TestPlainHTTPIsRefused(t *testing.T) {
	var heard atomic.Int64
	var user atomic.Value
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard.Add(1)
		if u, _, ok := r.BasicAuth(); ok {
			user.Store(u)
		} else {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	dir := t.TempDir()
	config := `{"auths":{"` + host + `":{"username":"anna","password":"s3cret"}}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	ref := host + "/pi/tools:1"
	_, err := Open(context.Background(), ref, arm64)
	if err == nil || !strings.Contains(strings.Join(hint.Of(err), ""), "write http://"+ref) || heard.Load() != 0 {
		t.Errorf("not told: %d requests, %v", heard.Load(), err)
	}
	c, err := Reference(context.Background(), PlainPrefix+ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(c.Reference, imageOf(t, "arm64", layerOf(t, "a")), c.Options...); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), PlainPrefix+ref, arm64); err != nil || user.Load() != "anna" {
		t.Errorf("told: %v, as %q", err, user.Load())
	}
}

// TestReferences: what is no reference is refused before anybody is asked, with
// the way to write it.
func TestReferences(t *testing.T) {
	for _, c := range []struct{ name, ref, want string }{
		{"no host", "alpine:3.20", "with the registry's host first"},
		{"path of a Hub image", "library/alpine:3.20", "with the registry's host first"},
		{"upper case", "ghcr.io/Owner/Name:1", "ghcr.io/owner/name:1"},
		{"docker scheme", "docker://ghcr.io/owner/name:1", "leave out docker://"},
		{"OCI scheme", "oci://ghcr.io/owner/name:1", "leave out oci://"},
		{"https", "https://ghcr.io/owner/name:1", "leave out https://"},
		{"bad tag", "ghcr.io/owner/name:a b", `the tag "a b"`},
		{"bad digest", "ghcr.io/owner/name@sha256:12", `the digest "sha256:12"`},
		{"no tag", "ghcr.io/owner/name", "ghcr.io/owner/name:TAG"},
		{"no host without TLS", "http://alpine:3.20", "with the registry's host first"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(context.Background(), c.ref, arm64)
			if err == nil || !strings.Contains(err.Error()+strings.Join(hint.Of(err), "\n"), c.want) {
				t.Errorf("%s: %v, want %q", c.ref, err, c.want)
			}
		})
	}
}

// TestCredentialHelperIsMissing: an image that anybody may read is read without
// the helper that is not installed; one that wants a login says what is missing.
func TestCredentialHelperIsMissing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credsStore": "no-such-helper"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	public := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer public.Close()
	ref := PlainPrefix + strings.TrimPrefix(public.URL, "http://") + "/pi/tools:1"
	c, err := Reference(context.Background(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(c.Reference, imageOf(t, "arm64", layerOf(t, "a")), c.Options...); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), ref, arm64); err != nil {
		t.Errorf("without a login: %v", err)
	}
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		defer closed.Close()
		_, err = Open(context.Background(), PlainPrefix+strings.TrimPrefix(closed.URL, "http://")+"/pi/tools:1", arm64)
		if err == nil || !strings.Contains(err.Error(), "docker-credential-no-such-helper") ||
			!strings.Contains(strings.Join(hint.Of(err), ""), "install the credential helper") {
			t.Errorf("%d: %v, hints %q", status, err, hint.Of(err))
		}
	}
}

// TestNoRedirectWithoutTLS: a registry with TLS does not redirect to a server
// without.
func TestNoRedirectWithoutTLS(t *testing.T) {
	heard := 0
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { heard++ }))
	defer plain.Close()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/") {
			http.Redirect(w, r, plain.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}
	}))
	defer s.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(s.URL, "https://") + "/pi/tools:1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = remote.Image(ref, remote.WithTransport(guard{s.Client().Transport, false, ref.Context().RegistryStr()}))
	if !errors.Is(err, errPlain) || heard != 0 {
		t.Errorf("%d requests without TLS, %v", heard, err)
	}
}
