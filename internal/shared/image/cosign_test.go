package image

import (
	"bytes"
	"crypto/ecdsa"
	"testing"
)

// FuzzCosign: what is read of signatures and manifests is bounded, and what we
// store we read again.
func FuzzCosign(f *testing.F) {
	one, _ := SignDigest(DigestOf(nil), testKey(12345))
	down, _ := SignDowngrade(DigestOf(nil), Downgrade{"stable", "1.2"}, testKey(12345))
	m, _, _ := EncodeCosign([]Signed{one, down})
	index, _ := EncodeIndex(Descriptor{MediaType: MediaOCIManifest, Digest: DigestOf(nil), Platform: &Platform{"arm64", "linux"}})
	f.Add(m, one.Payload, one.Signature)
	f.Add(index, down.Payload, down.Signature)
	f.Add([]byte("{}"), []byte("{}"), []byte{})
	f.Add([]byte("{}"), []byte(paeBegin), []byte{})
	f.Fuzz(func(t *testing.T, b, payload, sig []byte) {
		if list, err := DecodeCosign(b); err == nil && len(list) > MaxSignatures {
			t.Fatal("more signatures than there may be")
		}
		if i, err := DecodeIndex(b); err == nil {
			if d, err := i.For("arm64"); err == nil && !digestForm.MatchString(d.Digest) {
				t.Fatalf("an index leads to %q", d.Digest)
			}
		}
		s := Signed{payload, sig}
		m, blobs, err := EncodeCosign([]Signed{s})
		if err != nil {
			t.Fatal(err)
		}
		list, err := DecodeCosign(m)
		if s.InBundle() {
			if err != nil || len(list) != 0 {
				t.Fatalf("what a bundle holds is among the classic ones: %+v %v", list, err)
			}
			return
		}
		if len(payload) > MaxPayload {
			return
		}
		if err != nil || len(list) != 1 || !bytes.Equal(list[0].Signature, sig) || list[0].Digest != DigestOf(blobs[0]) {
			t.Fatalf("%+v %v", list, err)
		}
		verified := VerifyDigest(DigestOf(nil), []Signed{s}, []*ecdsa.PublicKey{&testKey(12345).PublicKey}) == nil
		if verified && !bytes.Equal(payload, one.Payload) && !bytes.Equal(payload, down.Payload) {
			t.Fatal("something that was not signed is accepted")
		}
	})
}
