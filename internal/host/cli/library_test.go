package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/host/bootserver/library"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

func noKeys() ([]*ecdsa.PublicKey, error) { return nil, nil }

func statementKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newLibrary returns a library that logs to out.
func newLibrary(out io.Writer, dir, memory string, keys func() ([]*ecdsa.PublicKey, error)) *library.Library {
	return &library.Library{
		Cache: &cache.Cache{Dir: dir, Now: time.Now()}, Images: &bootserver.Images{}, Keys: keys, Memory: memory,
		Meter: func(string, int64) (registry.Progress, func()) { return func(int64) {}, func() {} },
		Log:   slog.New(slog.NewTextHandler(out, nil)),
	}
}

// lastServed returns the text of the file that records what was served.
func lastServed(t *testing.T, l *library.Library) string {
	t.Helper()
	b, err := os.ReadFile(l.Memory)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestChannelShowsOldRelease: a registry shows an older release under a channel,
// to a server that runs and to one that starts again, which then serves what it
// served last; with a statement for the channel it is served.
func TestChannelShowsOldRelease(t *testing.T) {
	dir := shippedIn(t)
	const ref = "registry.example/homelab:stable"
	key := statementKey(t)
	o := &imageOptions{Keys: []string{dir + "/ci.pub"}}
	says := &strings.Builder{}
	shows := dir + "/two"
	var statement []image.Signed
	start := func() *library.Library {
		t.Helper()
		l := newLibrary(says, dir+"/cache", dir+"/state/served.yaml",
			func() ([]*ecdsa.PublicKey, error) { return []*ecdsa.PublicKey{&key.PublicKey}, nil })
		l.Open = func(ctx context.Context, asked string) (*registry.Published, error) {
			if asked != ref {
				return o.published(ctx, asked) // the cache
			}
			img, err := o.published(ctx, shows)
			if err == nil {
				img.Signature.Signatures = append(img.Signature.Signatures, statement...)
			}
			return img, err
		}
		t.Cleanup(l.Close)
		if err := l.Start(t.Context(), ref, []string{ref}); err != nil {
			t.Fatal(err)
		}
		return l
	}
	serves := func(l *library.Library, want string) {
		t.Helper()
		if got := l.Images.Current(ref); got == nil || got.Release != want {
			t.Errorf("%+v is served, want %s", got, want)
		}
	}
	l := start()
	serves(l, "1.1")
	shows = dir + "/one"
	if err := l.Update(t.Context(), ref); err == nil || !strings.Contains(err.Error(), "older than 1.1") {
		t.Errorf("the older release is taken: %v", err)
	}
	serves(l, "1.1")
	serves(start(), "1.1")
	if !strings.Contains(says.String(), "older than 1.1, which was served last") {
		t.Errorf("said %q", says)
	}
	// An older server wrote down only the digest; the cache knows the release.
	digest := l.Images.Current(ref).Digest
	if err := os.WriteFile(l.Memory, []byte(ref+": "+digest+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	serves(start(), "1.1")
	older, err := o.published(t.Context(), shows)
	if err != nil {
		t.Fatal(err)
	}
	allow := func(channel string) {
		s, err := image.SignDowngrade(older.Digest, image.Downgrade{Channel: channel, From: "1.1"}, key)
		if err != nil {
			t.Fatal(err)
		}
		statement = []image.Signed{s}
	}
	allow("canary")
	serves(start(), "1.1")
	allow("stable")
	l = start()
	serves(l, "1.0")
	if got := lastServed(t, l); !strings.Contains(got, "release: \"1.0\"") {
		t.Errorf("recorded is\n%s", got)
	}
	if keys, err := (&serveOptions{imageOptions: *o}).downgradeKeys(); err != nil || len(keys) != 1 {
		t.Errorf("%d keys count, %v", len(keys), err)
	}
}

// TestDowngradeKeys: the keys that are named count, and else those that the user
// trusts; an image's own do not.
func TestDowngradeKeys(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("HOME", dir)
	key := statementKey(t)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "ci.pub")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	o := &serveOptions{}
	if keys, err := o.downgradeKeys(); len(keys) != 0 {
		t.Errorf("without a key %d count, %v", len(keys), err)
	}
	o.Keys = []string{file}
	if keys, err := o.downgradeKeys(); err != nil || len(keys) != 1 || !keys[0].Equal(&key.PublicKey) {
		t.Errorf("%d keys, %v", len(keys), err)
	}
}

// TestServeWithoutRegistry: a boot server that starts while its registry is down
// serves the last image it served; without one, it logs that nodes cannot start.
func TestServeWithoutRegistry(t *testing.T) {
	dir := shippedIn(t)
	var said strings.Builder
	o := &imageOptions{Keys: []string{dir + "/ci.pub"}}
	away := false
	start := func(state string) (*library.Library, error) {
		l := newLibrary(&said, dir+"/cache", state+"/served.yaml", noKeys)
		l.Open = func(ctx context.Context, ref string) (*registry.Published, error) {
			if away && strings.HasPrefix(ref, dir+"/one") {
				return nil, os.ErrDeadlineExceeded
			}
			return o.published(ctx, ref)
		}
		return l, l.Start(context.Background(), dir+"/one", []string{dir + "/one", dir + "/nowhere"})
	}
	l, err := start(dir + "/state")
	if err != nil {
		t.Fatal(err)
	}
	was := l.Images.Current(dir + "/one").Digest
	l.Close()
	if !strings.Contains(said.String(), "nodes of a reference cannot start until it can be loaded") {
		t.Errorf("said %q", said.String())
	}
	// What another reference was last is not forgotten by that.
	if err := os.WriteFile(dir+"/state/served.yaml", []byte(dir+"/one: "+was+"\n"+dir+"/nowhere: sha256:gone\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	away = true
	if l, err = start(dir + "/state"); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := l.Images.Current(dir + "/one"); got == nil || got.Digest != was {
		t.Errorf("%v is served, not %s", got, was)
	}
	if b, err := os.ReadFile(dir + "/state/served.yaml"); err != nil || !strings.Contains(string(b), "sha256:gone") {
		t.Errorf("it remembers\n%s%v", b, err)
	}
	if !strings.Contains(said.String(), "serving the last image of a reference") {
		t.Errorf("said %q", said.String())
	}
	if _, err := start(dir + "/other"); err == nil {
		t.Error("it serves what it never had")
	}
}
