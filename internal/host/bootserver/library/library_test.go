package library

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

func noKeys() ([]*ecdsa.PublicKey, error) { return nil, nil }

// trusting is what a library asks for the keys it trusts.
func trusting(key *ecdsa.PrivateKey) func() ([]*ecdsa.PublicKey, error) {
	return func() ([]*ecdsa.PublicKey, error) { return []*ecdsa.PublicKey{&key.PublicKey}, nil }
}

func statementKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestReferenceUpdates: a higher release and the same one; a lower one
// only where a key that is trusted signed that this very channel may go back
// from there; never another stream.
func TestReferenceUpdates(t *testing.T) {
	key, other := statementKey(t), statementKey(t)
	const stable = "registry.example:5000/homelab:stable"
	digest := image.DigestOf([]byte("next"))
	down := func(channel, from string, by *ecdsa.PrivateKey, of string) []image.Signed {
		s, err := image.SignDowngrade(of, image.Downgrade{Channel: channel, From: from}, by)
		if err != nil {
			t.Fatal(err)
		}
		return []image.Signed{s}
	}
	was := served{Digest: "sha256:was", Stream: "small", Release: "1.5"}
	for name, c := range map[string]struct {
		ref             string
		was             served
		stream, release string
		signatures      []image.Signed
		why             string
	}{
		"nothing was served before":   {stable, served{}, "small", "1.3", nil, ""},
		"a higher release":            {stable, was, "small", "1.10", nil, ""},
		"the same release again":      {stable, was, "small", "1.5", nil, ""},
		"a lower release":             {stable, was, "small", "1.3", nil, "older than 1.5"},
		"a lower release, allowed":    {stable, was, "small", "1.3", down("stable", "1.5", key, digest), ""},
		"allowed from a higher one":   {stable, was, "small", "1.3", down("stable", "1.6", key, digest), ""},
		"allowed from a lower one":    {stable, was, "small", "1.3", down("stable", "1.4", key, digest), "older than 1.5"},
		"allowed in another channel":  {stable, was, "small", "1.3", down("canary", "9.0", key, digest), "older than 1.5"},
		"allowed by an untrusted key": {stable, was, "small", "1.3", down("stable", "1.5", other, digest), "older than 1.5"},
		"another image is allowed":    {stable, was, "small", "1.3", down("stable", "1.5", key, image.DigestOf(nil)), "older than 1.5"},
		"a directory":                 {"./homelab", was, "small", "1.3", down("stable", "1.5", key, digest), "older than 1.5"},
		"another stream":              {stable, was, "large", "1.6", nil, `got "large", want "small"`},
		"another stream, allowed":     {stable, was, "large", "1.3", down("stable", "1.5", key, digest), `got "large", want "small"`},
		"only the digest is known":    {stable, served{Digest: "sha256:was"}, "small", "1.3", nil, ""},
		"the same image":              {stable, served{Digest: digest, Stream: "small", Release: "1.5"}, "small", "1.3", nil, ""},
	} {
		l := &Library{Keys: trusting(key), last: map[string]served{c.ref: c.was}}
		m := &image.Manifest{Stream: c.stream, Release: c.release}
		err := l.follows(c.ref, &registry.Published{Image: image.Image{Manifest: m, Digest: digest,
			Signature: image.Signature{Signatures: c.signatures}}})
		if (err == nil) != (c.why == "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v, want %q", name, err, c.why)
		}
	}
	l := &Library{Keys: func() ([]*ecdsa.PublicKey, error) { return nil, os.ErrPermission }, last: map[string]served{stable: was}}
	img := &registry.Published{Image: image.Image{Manifest: &image.Manifest{Stream: "small", Release: "1.3"}, Digest: digest}}
	if err := l.follows(stable, img); !errors.Is(err, os.ErrPermission) {
		t.Errorf("keys that can't be read: %v", err)
	}
}

func TestChannelOf(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("a.dir/image:tag", 0o755); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]string{
		"registry.example/pi/homelab:stable": "stable", "registry.example:5000/homelab:1.3": "1.3", "localhost/homelab:x": "x",
		"registry.example/homelab": "", "registry.example:5000/homelab": "", "./folder:stable": "", "folder": "", "a.dir/image:tag": "",
		"registry.example/homelab@" + image.DigestOf(nil): "",
	} {
		if got := channelOf(ref); got != want {
			t.Errorf("%s is channel %q, want %q", ref, got, want)
		}
	}
}

// TestServedIsRemembered: the digest, the stream and the release of what a
// reference named; and what an older server wrote down, which is the digest alone.
func TestServedIsRemembered(t *testing.T) {
	l := &Library{Images: &bootserver.Images{}, Memory: filepath.Join(t.TempDir(), "state", "served.yaml")}
	if err := l.remember(); err != nil {
		t.Fatal(err)
	}
	img := &image.Image{Manifest: &image.Manifest{Stream: "small", Release: "1.10"}, Digest: "sha256:a"}
	if err := l.set("r.example/x:stable", img); err != nil {
		t.Fatal(err)
	}
	again := &Library{Memory: l.Memory}
	if err := again.remember(); err != nil || again.last["r.example/x:stable"] != (served{"sha256:a", "small", "1.10"}) {
		t.Errorf("%v %v", again.last, err)
	}
	if err := os.WriteFile(l.Memory, []byte("r.example/x:stable: sha256:b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	again = &Library{Memory: l.Memory}
	if err := again.remember(); err != nil || again.last["r.example/x:stable"] != (served{Digest: "sha256:b"}) {
		t.Errorf("%v %v", again.last, err)
	}
	// What can't be written down is not served.
	l.Memory = filepath.Join(l.Memory, "x")
	if err := l.set("r.example/x:beta", img); err == nil || l.Images.Current("r.example/x:beta") != nil ||
		l.last["r.example/x:beta"] != (served{}) {
		t.Errorf("%v; served is %v, remembered %v", err, l.Images.Current("r.example/x:beta"), l.last)
	}
}

// TestFetchRefuses: what a reference may not name next is refused before
// anything of it is read, by a server that starts and by one that runs.
func TestFetchRefuses(t *testing.T) {
	const ref = "registry.example/homelab:stable"
	l := &Library{Keys: noKeys, Images: &bootserver.Images{}, last: map[string]served{ref: {"sha256:was", "small", "1.5"}}}
	l.Open = func(context.Context, string) (*registry.Published, error) {
		return &registry.Published{Image: image.Image{Manifest: &image.Manifest{Stream: "small", Release: "1.3"},
			Digest: image.DigestOf(nil)}}, nil
	}
	if _, err := l.fetch(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "older than 1.5") {
		t.Errorf("fetch: %v", err)
	}
	if err := l.Update(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "older than 1.5") {
		t.Errorf("update: %v", err)
	}
}
