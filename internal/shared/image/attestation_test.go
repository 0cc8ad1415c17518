package image

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"strings"
	"testing"
)

func attested(t testing.TB, digest, predicateType, predicate string, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	s, err := Attest(digest, predicateType, []byte(predicate), key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := EncodeBundle(s, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAttestationGolden pins the bytes others rely on: the bundle, and the manifest
// that refers to what it is about.
func TestAttestationGolden(t *testing.T) {
	subject := Descriptor{MediaType: MediaOCIManifest, ArtifactType: ArtifactType, Digest: DigestOf(nil), Size: 340}
	key := testKey(12345)
	b := attested(t, subject.Digest, PredicateSLSA, `{"buildDefinition":{}}`, key)
	golden(t, "attestation.json", append(bytes.Clone(b), '\n'))
	m, blobs, err := EncodeAttestationManifest(b, PredicateSLSA, subject)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "attestation-manifest.json", append(bytes.Clone(m), '\n'))
	d, err := AttestationIn(m, subject.Digest)
	if err != nil || d.Digest != DigestOf(b) || !bytes.Equal(blobs[0], b) {
		t.Errorf("what was written is read as %+v, %v", d, err)
	}
	s, err := DecodeAttestation(b)
	if err != nil {
		t.Fatal(err)
	}
	a, err := VerifyAttestation(s, subject.Digest, PredicateSLSA, []*ecdsa.PublicKey{&key.PublicKey})
	if err != nil || string(a.Predicate) != `{"buildDefinition":{}}` || !bytes.HasPrefix(a.Statement, []byte(`{"_type":"https://in-toto.io`)) {
		t.Errorf("got %s, %s, %v", a.Predicate, a.Statement, err)
	}
	if got := s.Attests(); got != PredicateSLSA {
		t.Errorf("it attests %q", got)
	}
}

// TestAttestations: a statement counts only if a trusted key signed it, about that
// digest, with a predicate of that type; a signature is no attestation.
func TestAttestations(t *testing.T) {
	digest, key, other := DigestOf([]byte("image")), testKey(1), testKey(2)
	signature, err := SignBundle(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := SignDigest(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	of := func(digest, kind string, key *ecdsa.PrivateKey) Signed {
		s, err := Attest(digest, kind, []byte(`{"a":"b"}`), key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := of(digest, PredicateSLSA, key)
	changed := Signed{Payload: bytes.Replace(good.Payload, []byte(`{"a":"b"}`), []byte(`{"a":"c"}`), 1), Signature: good.Signature}
	again, err := good.Resign(other)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		signed Signed
		want   string // "" is accepted
	}{
		"ours":                         {good, ""},
		"by another key":               {of(digest, PredicateSLSA, other), "none of the 1 keys"},
		"the same one, by another key": {again, "none of the 1 keys"},
		"another predicate":            {changed, "none of the 1 keys"},
		"about something else":         {of(DigestOf([]byte("other")), PredicateSLSA, key), "which was signed"},
		"of another type":              {of(digest, "https://spdx.dev/Document", key), "unsupported type"},
		"a signature":                  {signature, "unsupported type"},
		"a classic signature":          {plain, "unsupported type"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := VerifyAttestation(c.signed, digest, PredicateSLSA, []*ecdsa.PublicKey{&key.PublicKey})
			switch {
			case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want %q", err, c.want)
			case strings.HasPrefix(c.want, "none of") && !errors.Is(err, ErrSignature):
				t.Errorf("not ErrSignature: %v", err)
			}
		})
	}
	if err := VerifyDigest(digest, []Signed{good}, []*ecdsa.PublicKey{&key.PublicKey}); err == nil {
		t.Error("an attestation signs the image")
	}
	for _, s := range []Signed{signature, plain, {Payload: []byte("DSSEv1 1 a 1 b")}} {
		if got := s.Attests(); got != "" {
			t.Errorf("%s attests %q", s.Payload, got)
		}
	}
	if _, err := Attest("md5:00", PredicateSLSA, []byte("{}"), key); err == nil {
		t.Error("another digest is attested")
	}
	if _, err := Attest(digest, PredicateSLSA, []byte("{"), key); err == nil {
		t.Error("what is no JSON is attested")
	}
}

// TestAttestationSize: attestations may be larger than signatures, and are bounded.
func TestAttestationSize(t *testing.T) {
	digest, key := DigestOf(nil), testKey(1)
	b := attested(t, digest, PredicateSLSA, `{"a":"`+strings.Repeat("a", MaxBundle)+`"}`, key)
	subject := Descriptor{MediaType: MediaOCIManifest, Digest: digest, Size: 2}
	m, _, err := EncodeAttestationManifest(b, PredicateSLSA, subject)
	if err != nil {
		t.Fatal(err)
	}
	_, in := AttestationIn(m, digest)
	_, decoded := DecodeAttestation(b)
	if err := errors.Join(in, decoded); err != nil {
		t.Error(err)
	}
	if _, err := BundleIn(m, digest); !errors.Is(err, ErrBundle) {
		t.Errorf("as a signature: %v", err)
	}
	if _, err := DecodeAttestation(make([]byte, MaxAttestation+1)); !errors.Is(err, ErrBundle) || !strings.Contains(err.Error(), "more than") {
		t.Errorf("one that is too large: %v", err)
	}
	if m, _, err = EncodeAttestationManifest(make([]byte, MaxAttestation+1), PredicateSLSA, subject); err != nil {
		t.Fatal(err)
	}
	if _, err := AttestationIn(m, digest); !errors.Is(err, ErrBundle) {
		t.Errorf("the manifest of one that is too large: %v", err)
	}
}

// TestMayAttest: a registry that lists annotations saves reading what else refers to
// an image; one that lists none does not hide anything.
func TestMayAttest(t *testing.T) {
	for _, c := range []struct {
		d                 Descriptor
		attests, isSigned bool
	}{
		{Descriptor{ArtifactType: MediaBundle}, true, true},
		{Descriptor{}, true, true},
		{Descriptor{ArtifactType: MediaBundle, Annotations: map[string]string{bundlePredicate: PredicateSLSA}}, true, false},
		{Descriptor{ArtifactType: MediaBundle, Annotations: map[string]string{bundlePredicate: signPredicate}}, false, true},
		{Descriptor{ArtifactType: MediaSPDX}, false, false},
	} {
		if a, s := MayAttest(c.d, PredicateSLSA), MayBeSignature(c.d); a != c.attests || s != c.isSigned {
			t.Errorf("%+v: attests %v, signs %v", c.d, a, s)
		}
	}
}
