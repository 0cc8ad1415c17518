package image

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestGolden pins the bytes others rely on: the manifest, the OCI manifest,
// the payload cosign signs, and the signature, which RFC 6979 makes the same
// every time.
func TestGolden(t *testing.T) {
	m := sample()
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.json", text)
	oci, err := EncodeOCI(m, text)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "oci.json", oci)
	s, err := Sign(oci, testKey(12345))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "payload.json", s.Payload)
	sig, err := Signature{Manifest: oci, Signatures: []Signed{s}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "signature.json", sig)
}

func TestVerifyChain(t *testing.T) {
	key, other := testKey(12345), testKey(54321)
	sig, man := signed(t, key)
	m, digest, err := Verify(sig, man, []*ecdsa.PublicKey{&other.PublicKey, &key.PublicKey})
	if err != nil || m.Stream != "homelab" || !strings.HasPrefix(digest, "sha256:") {
		t.Fatalf("a good chain: %v %s %v", m, digest, err)
	}
	if _, _, err := Verify(sig, man, []*ecdsa.PublicKey{&other.PublicKey}); !errors.Is(err, ErrSignature) {
		t.Errorf("a foreign key: got %v, want ErrSignature", err)
	}
	if _, _, err := Verify(sig, man, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("no keys: got %v, want ErrSignature", err)
	}
	none := []byte(`{"manifest":"e30=","signatures":[]}`)
	if _, _, err := Verify(none, man, []*ecdsa.PublicKey{&key.PublicKey}); !errors.Is(err, ErrSignature) {
		t.Errorf("no signatures: got %v, want ErrSignature", err)
	}
}

// TestSignedForSomethingElse: what a trusted key signed is accepted only as what
// it was signed for: a payload of another type, or a manifest of another artifact,
// is refused.
func TestSignedForSomethingElse(t *testing.T) {
	key := testKey(12345)
	keys := []*ecdsa.PublicKey{&key.PublicKey}
	m := sample()
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	good, err := EncodeOCI(m, manifest)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ kind, artifactType, want string }{
		"an image":             {payloadType, ArtifactType, ""},
		"another payload":      {"atomic container signature", ArtifactType, "unsupported type of what was signed"},
		"a payload of no type": {"", ArtifactType, "unsupported type of what was signed"},
		"another artifact":     {payloadType, "application/vnd.example", "unsupported artifact type"},
	} {
		oci := bytes.Replace(good, []byte(ArtifactType), []byte(c.artifactType), 1)
		var p payload
		p.Critical.Image.DockerManifestDigest, p.Critical.Type = DigestOf(oci), c.kind
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		sig, err := key.Sign(nil, sum[:], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		text, err := Signature{Manifest: oci, Signatures: []Signed{{Payload: b, Signature: sig}}}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := Verify(text, manifest, keys); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// TestEveryFlippedByteBreaksTheChain inverts each byte of both files in turn.
// JSON's base64 ignores nothing here, so no byte is without meaning but the
// closing newlines.
func TestEveryFlippedByteBreaksTheChain(t *testing.T) {
	key := testKey(12345)
	sig, man := signed(t, key)
	keys := []*ecdsa.PublicKey{&key.PublicKey}
	for what, b := range map[string][]byte{"signature": sig, "manifest": man} {
		for i := range len(b) - 1 {
			b[i] ^= 0x01
			m, _, err := Verify(sig, man, keys)
			if err == nil && !cmp.Equal(m, mustDecode(t, sample())) {
				t.Errorf("%s: byte %d flipped: another manifest is accepted", what, i)
			}
			if err == nil && what == "manifest" {
				t.Errorf("manifest: byte %d flipped: accepted", i)
			}
			b[i] ^= 0x01
		}
	}
}

func TestParsePublicKey(t *testing.T) {
	k := testKey(99)
	b, err := EncodePublicKey(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParsePublicKey(b); err != nil || !got.Equal(&k.PublicKey) {
		t.Errorf("%v, %v", got, err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	wrong, _ := EncodePublicKey(&p384.PublicKey)
	for _, b := range [][]byte{nil, []byte("x"), wrong} {
		if _, err := ParsePublicKey(b); err == nil {
			t.Errorf("%.30q: no error", b)
		}
	}
}

func FuzzVerify(f *testing.F) {
	key := testKey(12345)
	m := sample()
	man, _ := m.Encode()
	oci, _ := EncodeOCI(m, man)
	s, _ := Sign(oci, key)
	sig, _ := Signature{Manifest: oci, Signatures: []Signed{s}}.Encode()
	f.Add(sig, man)
	f.Add([]byte("{}"), []byte("{}"))
	f.Fuzz(func(t *testing.T, sig, man []byte) {
		if _, _, err := Verify(sig, man, []*ecdsa.PublicKey{&key.PublicKey}); err == nil && !bytes.Equal(man, mustEncode(t)) {
			t.Fatal("something that was not signed is accepted")
		}
	})
}

// TestSealedSizes: what is laid out before the root is written fits what is
// signed afterwards.
func TestSealedSizes(t *testing.T) {
	key := testKey(12345)
	sig, man := signed(t, key)
	s, err := DecodeSignature(sig)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := SignBundle(DigestOf(s.Manifest), key)
	if err != nil {
		t.Fatal(err)
	}
	s.Signatures = append(s.Signatures, bundle)
	if sig, err = s.Encode(); err != nil {
		t.Fatal(err)
	}
	m := sample()
	m.Root.Hash = ""
	for i := range m.Files {
		if m.Files[i].Name == RootFile {
			m.Files[i].Digest = ""
		}
	}
	if text, signature, err := m.SealedSizes(); err != nil || text != int64(len(man)) || signature != int64(len(sig)) {
		t.Errorf("SealedSizes() = %d, %d, %v; want %d, %d", text, signature, err, len(man), len(sig))
	}
}
