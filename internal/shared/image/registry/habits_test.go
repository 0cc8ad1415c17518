package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// inHabit starts a registry with a habit before it.
func inHabit(t *testing.T, h registrytest.Habit, behind http.Handler) *httptest.Server {
	t.Helper()
	elsewhere := httptest.NewServer(behind)
	t.Cleanup(elsewhere.Close)
	s := httptest.NewServer(h.Wrap(behind, strings.TrimPrefix(elsewhere.URL, "http://")))
	t.Cleanup(s.Close)
	return s
}

// publishAll does what a publish does: it copies an image, signs it, makes a patch,
// and moves a channel. It returns the step that failed, and why.
func publishAll(t *testing.T, to *Remote, img *Published, key *ecdsa.PrivateKey) (step string, err error) {
	t.Helper()
	ctx := context.Background()
	if err := Copy(ctx, img, to, []string{img.Release}, key, nil); err != nil {
		return "copy", err
	}
	blob := []byte("patch")
	p := image.Patch{From: image.DigestOf([]byte("old")), Release: "0.9",
		Blob: image.Descriptor{Digest: image.DigestOf(blob), Size: int64(len(blob))}}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }
	if err := AddPatch(ctx, to, img, p, open, key); err != nil {
		return "patch", err
	}
	return "channel", Move(ctx, img, to, "stable", nil)
}

// isThere checks that all of an image is there for a client that knows nothing yet:
// by its channel, with its bill of materials, its patch, and signatures in both forms.
func isThere(t *testing.T, s *httptest.Server, img *Published, bill string, key *ecdsa.PrivateKey, h registrytest.Habit) {
	t.Helper()
	ctx := context.Background()
	keys := []*ecdsa.PublicKey{&key.PublicKey}
	there, err := Open(ctx, at(t, s, Options{}), "stable", Want{Keys: keys, Arch: "arm64"})
	if err != nil {
		t.Errorf("opening: %v", err)
		return
	}
	if p, err := FindPatch(ctx, there, image.DigestOf([]byte("old")), keys); err != nil || (p == nil) != h.TagsFixed {
		t.Errorf("the patch is not found: %v", err)
	} else if p != nil {
		if b, err := readAll(p.Open(ctx)); err != nil || string(b) != "patch" {
			t.Errorf("the patch is %q, %v", b, err)
		}
	}
	back := newShelf()
	if err := Copy(ctx, there, back, nil, nil, nil); err != nil {
		t.Errorf("pulling: %v", err)
	} else if _, ok := back.blobs[bill]; !ok {
		t.Error("the bill of materials is lost")
	}
	for _, digest := range []string{img.Digest, image.DigestOf(img.Index), bill} {
		found, err := bundles(ctx, at(t, s, Options{}), digest)
		if err != nil || (len(found) == 0) != h.NoBundles {
			t.Errorf("%s has %d bundles (%v)", digest, len(found), err)
		}
	}
}

// throughHabit publishes to a registry with a habit twice, and looks whether all is
// there, or why it is not.
func throughHabit(t *testing.T, h registrytest.Habit, behind http.Handler) {
	t.Helper()
	ctx := context.Background()
	s := inHabit(t, h, behind)
	img, bill := signedImage(t)
	key := newKey(t)
	for range 2 {
		to := at(t, s, Options{})
		step, err := publishAll(t, to, img, key)
		switch {
		case h.TypeRefused:
			refuses(t, step, err, "copy", ErrTypeRefused, image.ArtifactType, "OCI artifact")
			continue
		case h.TagsFixed:
			refuses(t, step, err, "patch", ErrTagRefused, referrersTag(img.Digest), "begin with sha256-")
			err = Move(ctx, img, to, "stable", nil)
		case h.OneTag:
			refuses(t, step, err, "channel", ErrTagRefused, "stable", "exempt the tag stable")
			_, err = Open(ctx, at(t, s, Options{}), img.Release, Want{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Arch: "arm64"})
			if err != nil {
				t.Error(err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("publishing, %s: %v", step, err)
		}
		if got := to.RefusesBundles(); (got != nil) != h.NoBundles {
			t.Errorf("RefusesBundles() = %v", got)
		} else if got != nil {
			refuses(t, "", got, "", ErrTypeRefused, image.MediaBundle, "OCI artifact")
		}
		isThere(t, s, img, bill, key, h)
	}
}

// refuses checks that a step fails with an error that says what, where, and what to
// do.
func refuses(t *testing.T, step string, err error, wantStep string, want error, what, advice string) {
	t.Helper()
	if step != wantStep || !errors.Is(err, want) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "127.0.0.1:") {
		t.Errorf("%s: got %v, want at %s %v that names %q and the registry", step, err, wantStep, want, what)
	}
	if hints := strings.Join(hint.Of(err), " "); !strings.Contains(hints, advice) {
		t.Errorf("advice: %q, want %q", hints, advice)
	}
}

// TestRegistriesPeopleHave: whatever a registry's habits are, an image with its bill
// of materials, patch and signatures comes back from it, or the error says why not,
// where, and what to do.
func TestRegistriesPeopleHave(t *testing.T) {
	for _, h := range registrytest.Habits() {
		t.Run(h.Name, func(t *testing.T) {
			throughHabit(t, h, ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
		})
	}
}

// TestDistributionWithHabits is TestRegistriesPeopleHave in front of distribution.
func TestDistributionWithHabits(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs distribution's registry, which make tools builds")
	}
	for _, h := range registrytest.Habits() {
		t.Run(h.Name, func(t *testing.T) {
			s, err := registrytest.Start("../../../../build/tools/registry", t.TempDir(), registrytest.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Stop)
			throughHabit(t, h, registrytest.Proxy(s.Addr))
		})
	}
}
