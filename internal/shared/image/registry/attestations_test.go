package registry

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"log"
	"path/filepath"
	"strings"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// attest puts an attestation of an image onto a shelf.
func attest(t *testing.T, s *shelf, digest, predicate string, key *ecdsa.PrivateKey) {
	t.Helper()
	signed, err := image.Attest(digest, image.PredicateSLSA, []byte(predicate), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newAttestation(signed, image.Describe(s.blobs[digest]), &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := putBundle(context.Background(), s, b); err != nil {
		t.Fatal(err)
	}
}

// throughArchive returns image 1.0 of a place as it is in an archive of it.
func throughArchive(t *testing.T, from Place, keys []*ecdsa.PublicKey) *Published {
	t.Helper()
	img, err := Open(t.Context(), from, "1.0", Want{Keys: keys, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "a.tar")
	if err := SaveArchive(t.Context(), img, file, nil); err != nil {
		t.Fatal(err)
	}
	archive, err := OpenArchive(file)
	if err != nil {
		t.Fatal(err)
	}
	if img, err = Open(t.Context(), archive, "", Want{Keys: keys, Arch: "arm64"}); err != nil {
		t.Fatal(err)
	}
	return img
}

// TestAttestationsTravel: what a trusted key attests of an image goes along with it,
// however large, into an archive and registries, and nothing that another key
// attests; a key that signs on the way attests the same.
func TestAttestationsTravel(t *testing.T) {
	ctx := context.Background()
	s, m, second, stranger := newShelf(), newMaking(t, "1.0"), newKey(t), newKey(t)
	digest := m.onto(t, s, "1.0")
	predicate := `{"a":"` + strings.Repeat("a", image.MaxBundle) + `"}`
	attest(t, s, digest, predicate, m.key)
	attest(t, s, digest, `{"a":"made up"}`, stranger)
	keys := []*ecdsa.PublicKey{&m.key.PublicKey}
	img := throughArchive(t, s, keys)
	for _, api := range []bool{false, true} {
		server := quirky(t, api, nil)
		for range 2 {
			if err := Copy(ctx, img, at(t, server, Options{}), []string{"1.0"}, second, nil); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range []*ecdsa.PrivateKey{m.key, second, stranger} {
			there, err := open(ctx, at(t, server, Options{}), "1.0", "arm64")
			if err != nil {
				t.Fatal(err)
			}
			there.trusted = []*ecdsa.PublicKey{&k.PublicKey}
			a, err := FindAttestation(ctx, there, image.PredicateSLSA)
			if k == stranger {
				if !errors.Is(err, ErrNoReferrer) || !errors.Is(err, image.ErrSignature) {
					t.Errorf("API %v: another key's: %v", api, err)
				}
				continue
			}
			if err != nil || string(a.Predicate) != predicate {
				t.Errorf("API %v: got %v", api, err)
			}
		}
		list, err := attestations(ctx, at(t, server, Options{}), digest, image.PredicateSLSA)
		if err != nil || len(list) != 2 {
			t.Errorf("API %v: %d attestations, %v", api, len(list), err)
		}
	}
}

// TestAttestationIsNoSignature: an attestation does not make an image signed, and is
// not among its signatures, which every slot holds.
func TestAttestationIsNoSignature(t *testing.T) {
	ctx := context.Background()
	for _, signed := range []bool{false, true} {
		s, m := newShelf(), newMaking(t, "1.0")
		m.unsigned["oci"] = !signed
		digest := m.onto(t, s, "1.0")
		attest(t, s, digest, `{}`, m.key)
		img, err := Open(ctx, s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"})
		if !signed {
			if !errors.Is(err, image.ErrSignature) {
				t.Errorf("an image that is attested alone: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := len(img.Signature.Signatures); n != 1 {
			t.Errorf("%d signatures, want 1", n)
		}
		if _, err := FindAttestation(ctx, img, image.PredicateSLSA); err != nil {
			t.Error(err)
		}
		if _, err := FindAttestation(ctx, img, "https://spdx.dev/Document"); !errors.Is(err, ErrNoReferrer) {
			t.Errorf("another type: %v", err)
		}
	}
}

// TestRefusedAttestations: a registry that refuses bundles has no attestations, and
// takes the image.
func TestRefusedAttestations(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	attest(t, s, digest, `{}`, m.key)
	img, err := Open(ctx, s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, h := range registrytest.Habits() {
		if !h.NoBundles {
			continue
		}
		refused++
		to := at(t, inHabit(t, h, ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))), Options{})
		if err := Copy(ctx, img, to, []string{"1.0"}, nil, nil); err != nil {
			t.Errorf("%s: %v", h.Name, err)
		}
		if to.RefusesBundles() == nil {
			t.Errorf("%s: the refusal is not known", h.Name)
		}
	}
	if refused == 0 {
		t.Error("no registry refused a bundle")
	}
}

// TestFindBill: a bill of materials counts if a trusted key signed the manifest that
// refers to the image, and its bytes have the digest in it.
func TestFindBill(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	img, err := Open(ctx, s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	bill := func(text string) func(o *image.OCIManifest) {
		return func(o *image.OCIManifest) {
			o.Layers = []image.Descriptor{{MediaType: image.MediaSPDX, Digest: s.put([]byte(text)), Size: int64(len(text))}}
		}
	}
	if _, err := FindBill(ctx, img); !errors.Is(err, ErrNoReferrer) {
		t.Errorf("none: %v", err)
	}
	s.refer(t, digest, bill(`{"unsigned":1}`))
	sign(t, s, s.refer(t, digest, bill(`{"by another":1}`)), newKey(t))
	sign(t, s, s.refer(t, image.DigestOf([]byte("another image")), bill(`{"another":1}`)), m.key)
	if _, err := FindBill(ctx, img); !errors.Is(err, ErrNoReferrer) {
		t.Errorf("none that counts: %v", err)
	}
	ours := s.refer(t, digest, bill(`{"ours":1}`))
	sign(t, s, ours, m.key)
	b, err := FindBill(ctx, img)
	if err != nil || string(b.Document) != `{"ours":1}` || b.Digest != ours {
		t.Errorf("got %+v, %v", b, err)
	}
	s.blobs[image.DigestOf([]byte(`{"ours":1}`))] = []byte(`{"evil":1}`)
	if _, err := FindBill(ctx, img); !errors.Is(err, image.ErrDigestMismatch) {
		t.Errorf("a changed document: %v", err)
	}
	sign(t, s, s.refer(t, digest, func(o *image.OCIManifest) {
		o.Layers = []image.Descriptor{{MediaType: image.MediaSPDX, Digest: image.DigestOf(nil), Size: MaxBill + 1}}
	}), m.key)
	s.list = s.list[len(s.list)-1:]
	if _, err := FindBill(ctx, img); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("one that is too large: %v", err)
	}
}
