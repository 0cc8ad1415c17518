package upgrade

import (
	"errors"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
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
