package registry

import (
	"context"
	"crypto/ecdsa"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// refer puts a manifest onto a shelf that refers to an image with one blob, lists
// it, and returns its digest.
func (s *shelf) refer(t *testing.T, subject string, change func(*image.OCIManifest)) string {
	t.Helper()
	m := image.OCIManifest{SchemaVersion: 2, MediaType: image.MediaOCIManifest, ArtifactType: image.MediaSPDX,
		Subject: &image.Descriptor{MediaType: image.MediaOCIManifest, Digest: subject},
		Config:  image.Descriptor{Digest: s.put([]byte("{}")), Size: 2},
		Layers:  []image.Descriptor{{Digest: s.put([]byte("packages")), Size: 8}}}
	if change != nil {
		change(&m)
	}
	b := encode(t, m)
	s.list = append(s.list, image.Describe(b))
	return s.put(b)
}

// TestSignedReferrersAlone: of what a registry says refers to an image, only
// what a key signed that the image was checked with goes along, and nothing else
// is fetched, whatever size it claims.
func TestSignedReferrersAlone(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	ours := s.refer(t, digest, nil)
	sign(t, s, ours, m.key)
	nowhere := image.DigestOf([]byte("no registry has this"))
	huge := func(o *image.OCIManifest) {
		o.Layers = []image.Descriptor{{Digest: nowhere, Size: 1 << 62}}
	}
	s.refer(t, digest, huge)
	sign(t, s, s.refer(t, digest, func(o *image.OCIManifest) { o.Annotations = map[string]string{"by": "another"} }), newKey(t))
	sign(t, s, s.refer(t, image.DigestOf([]byte("another image")), nil), m.key)
	sign(t, s, s.refer(t, digest, func(o *image.OCIManifest) { o.ArtifactType = image.ArtifactType }), m.key)
	s.list = append(s.list, image.Descriptor{Digest: nowhere, Size: 9}) // listed, and not there
	img, err := Open(ctx, s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	there := newShelf()
	if err := Copy(ctx, img, there, []string{"1.0"}, nil, nil); err != nil {
		t.Fatal(err)
	}
	for i, d := range s.list {
		if _, ok := there.blobs[d.Digest]; ok != (d.Digest == ours) {
			t.Errorf("referrer %d went along: %v", i, ok)
		}
	}
	if slices.Contains(s.asked, nowhere) {
		t.Error("a blob of an unsigned manifest was asked for")
	}
	if len(there.tags) != 4 { // the tag, and the signatures of index, image and bill of materials
		t.Errorf("signatures: %v", there.tags)
	}
	// A trusted key does not make any size good.
	sign(t, s, s.refer(t, digest, func(o *image.OCIManifest) { huge(o); o.Layers = append(o.Layers, o.Layers...) }), m.key)
	if err := Copy(ctx, img, newShelf(), nil, nil, nil); err == nil ||
		!strings.Contains(err.Error(), "blobs of more than 4294967296 bytes") {
		t.Errorf("a signed referrer of any size: %v", err)
	}
}

// TestManyReferrers: how many go along is bounded, and how many are looked at.
func TestManyReferrers(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	img, err := Open(ctx, s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxReferrers + 1 {
		sign(t, s, s.refer(t, digest, func(o *image.OCIManifest) {
			o.Annotations = map[string]string{"n": strings.Repeat("x", i)}
		}), m.key)
	}
	if found, err := img.signedReferrers(ctx); err != nil || len(found) != maxReferrers {
		t.Errorf("%d, %v", len(found), err)
	}
	s.list = append(make([]image.Descriptor, maxListed), s.list...)
	if found, err := img.signedReferrers(ctx); err != nil || len(found) != 0 {
		t.Errorf("behind %d others: %d, %v", maxListed, len(found), err)
	}
}

// TestUnrelatedReferrersAreNotSigned: a manifest that a registry lists as a referrer
// of an image is signed with it only if it refers to that image and is no image
// itself.
func TestUnrelatedReferrersAreNotSigned(t *testing.T) {
	ctx := context.Background()
	s, m, evil := newShelf(), newMaking(t, "1.0"), newMaking(t, "1.1")
	evil.unsigned = map[string]bool{"oci": true, "index": true}
	theirs := evil.onto(t, s, "1.1")
	digest := m.onto(t, s, "1.0")
	bill := s.refer(t, digest, nil)
	asSubject := s.refer(t, digest, func(o *image.OCIManifest) {
		*o = *evil.oci
		o.Subject = &image.Descriptor{Digest: digest}
	})
	about := s.refer(t, theirs, nil)
	s.list = append(s.list, image.Descriptor{MediaType: image.MediaOCIManifest, Digest: theirs})
	key := newKey(t)
	signed, err := Sign(ctx, s, "1.0", "arm64", key)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(signed, digest) || !slices.Contains(signed, bill) || len(signed) != 3 {
		t.Errorf("signed %v", signed)
	}
	for _, d := range []string{theirs, asSubject, about} {
		list, err := Signatures(ctx, s, d)
		if err != nil || image.VerifyDigest(d, list, []*ecdsa.PublicKey{&key.PublicKey}) == nil {
			t.Errorf("%s was signed (%v)", d, err)
		}
	}
}
