package upgrade

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// TestRequestNamesManifest: a request with a tag and the digest of an image's
// manifest reaches that digest, whatever the tag; by the digest of an index it is
// refused for good, with what to write.
func TestRequestNamesManifest(t *testing.T) {
	manifest, index := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	for _, digest := range []string{manifest, index} {
		text := rollout.Request{ID: "a/1", Image: "registry.example/pi/lab:1.5@" + digest, Digest: digest}.Encode()
		r, err := rollout.DecodeRequest(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, got, err := registry.Locate(r.Image, registry.Options{}); err != nil || got != digest {
			t.Errorf("%s names %q (%v)", r.Image, got, err)
		}
		err = names(*r, manifest)
		switch want := "write image: registry.example/pi/lab:1.5@" + manifest; {
		case digest == manifest && err != nil:
			t.Error(err)
		case digest == index && (!errors.Is(err, errIndex) || !strings.HasSuffix(err.Error(), want) || !Requested{}.Refused(err)):
			t.Errorf("by an index: %v, want a refusal that ends with %q", err, want)
		}
	}
}

// TestRefused: what another attempt does not mend is refused at once, and a registry
// that is away is tried again.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{image.VerifyDigest("sha256:1", nil, nil), true},
		{fmt.Errorf("reading: %w", updater.ErrStream), true},
		{skew.ErrKubeletNewer, true},
		{registry.ErrGivenUp, false},
		{errors.New("no route to host"), false},
	} {
		if got := (Requested{}).Refused(c.err); got != c.want {
			t.Errorf("%v: refused %v, want %v", c.err, got, c.want)
		}
	}
}
