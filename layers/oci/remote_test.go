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
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestNothingWithoutTLS: a registry at an address that looks local hears
// nothing without TLS, unless the reference says so.
func TestNothingWithoutTLS(t *testing.T) {
	heard, user := 0, ""
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		heard++
		if u, _, ok := r.BasicAuth(); ok {
			user = u
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
	if err == nil || !strings.Contains(err.Error(), "write http://"+ref) || heard != 0 {
		t.Errorf("not told: %d requests, %v", heard, err)
	}
	r, options, err := Reference(context.Background(), PlainPrefix+ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, imageOf(t, "arm64", layerOf(t, "a")), options...); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), PlainPrefix+ref, arm64); err != nil || user != "anna" {
		t.Errorf("told: %v, as %q", err, user)
	}
}

// TestNoRedirectWithoutTLS: a registry with TLS leads nobody to a server
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
