package flash

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// TestCardHoldsBundles: a card gives back the signatures of its image in the forms
// in which they came, and each of them still verifies.
func TestCardHoldsBundles(t *testing.T) {
	ctx := context.Background()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	oci := []byte(`{"schemaVersion":2,"mediaType":"` + image.MediaOCIManifest + `"}`)
	digest := image.DigestOf(oci)
	classic, err := image.Sign(oci, key)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := image.SignBundle(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]image.Signed{"classic": {classic}, "bundle": {bundle}, "both": {classic, bundle}, "none": nil} {
		s := &Source{name: "card", manifest: &image.Manifest{}, sign: image.Signature{Manifest: oci, Signatures: want}}
		got, err := registry.Signatures(ctx, s, digest)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%s: %d signatures, %v", name, len(got), err)
		}
		for _, one := range got {
			if err := image.VerifyDigest(digest, []image.Signed{one}, []*ecdsa.PublicKey{&key.PublicKey}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
