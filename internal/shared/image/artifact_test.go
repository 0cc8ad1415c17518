package image

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

func sample() *Manifest {
	blocks := uint64(1000)
	m := &Manifest{
		Format: Format, Stream: "homelab", Release: "1.2", BuildID: strings.Repeat("0123456789abcdef", 2), Epoch: 1_790_000_000,
		Arch: "arm64", Boards: []string{"rpi4"}, SlotSize: 1 << 30, Packages: DigestOf([]byte("packages")),
		Root: Root{DataBlocks: blocks, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, Compression: "fast", BlockSize: 262144},
		Files: []File{
			{Name: "vmlinuz", Size: 3, Digest: DigestOf([]byte("abc"))},
			{Name: "cmdline-a.txt", Size: 1, Digest: DigestOf([]byte("x"))},
			{Name: RootFile, Size: int64(blocks)*4096 + verity.TreeSize(blocks), Digest: DigestOf([]byte("root"))},
		},
	}
	return m
}

// testKey is a fixed key, so that what it signs can be golden.
func testKey(n int64) *ecdsa.PrivateKey {
	raw := make([]byte, 32)
	binary.BigEndian.PutUint64(raw[24:], uint64(n))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		panic(err)
	}
	return k
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	want, err := os.ReadFile("testdata/" + name)
	if err != nil || !bytes.Equal(got, want) {
		if os.Getenv("UPDATE_GOLDEN") != "" {
			os.WriteFile("testdata/"+name, got, 0o644)
		}
		t.Errorf("testdata/%s differs (%v); got\n%s", name, err, got)
	}
}

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

func signed(t *testing.T, key *ecdsa.PrivateKey) (signature, manifest []byte) {
	t.Helper()
	m := sample()
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	oci, err := EncodeOCI(m, manifest)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Sign(oci, key)
	if err != nil {
		t.Fatal(err)
	}
	signature, err = Signature{Manifest: oci, Signatures: []Signed{s}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return signature, manifest
}

func TestVerifyChain(t *testing.T) {
	key, other := testKey(12345), testKey(54321)
	sig, man := signed(t, key)
	m, digest, err := Verify(sig, man, []*ecdsa.PublicKey{&other.PublicKey, &key.PublicKey})
	if err != nil || m.Stream != "homelab" || !strings.HasPrefix(digest, "sha256:") {
		t.Fatalf("a good chain: %v %s %v", m, digest, err)
	}
	if _, _, err := Verify(sig, man, []*ecdsa.PublicKey{&other.PublicKey}); err == nil || !strings.Contains(err.Error(), "none of the 1 keys") {
		t.Errorf("a foreign key: %v", err)
	}
	if _, _, err := Verify(sig, man, nil); err == nil {
		t.Error("no keys: no error")
	}
	if _, _, err := Verify([]byte(`{"manifest":"e30=","signatures":[]}`), man, []*ecdsa.PublicKey{&key.PublicKey}); err == nil {
		t.Error("no signatures: no error")
	}
}

// TestSignedForSomethingElse: what a trusted key signed counts only as what it
// was signed for: a payload of another type, or a manifest that is no Pikelet
// image, is none.
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
		"another payload":      {"atomic container signature", ArtifactType, "it was changed"},
		"a payload of no type": {"", ArtifactType, "it was changed"},
		"another artifact":     {payloadType, "application/vnd.example", "no Pikelet image"},
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
			if err == nil && !reflect.DeepEqual(m, mustDecode(t, sample())) {
				t.Errorf("%s: byte %d flipped: another manifest is accepted", what, i)
			}
			if err == nil && what == "manifest" {
				t.Errorf("manifest: byte %d flipped: accepted", i)
			}
			b[i] ^= 0x01
		}
	}
}

func mustDecode(t *testing.T, m *Manifest) *Manifest {
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	d, err := DecodeManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestManifestRefuses(t *testing.T) {
	for what, spoil := range map[string]func(*Manifest){
		"format":       func(m *Manifest) { m.Format = 2 },
		"stream":       func(m *Manifest) { m.Stream = "" },
		"build id":     func(m *Manifest) { m.BuildID = "x" },
		"path":         func(m *Manifest) { m.Files[0].Name = "../x" },
		"absolute":     func(m *Manifest) { m.Files[0].Name = "/x" },
		"digest":       func(m *Manifest) { m.Files[0].Digest = "sha256:" },
		"size":         func(m *Manifest) { m.Files[0].Size = -1 },
		"twice":        func(m *Manifest) { m.Files = append(m.Files, m.Files[0]) },
		"root size":    func(m *Manifest) { m.Root.DataBlocks++ },
		"no root":      func(m *Manifest) { m.Files = m.Files[:2] },
		"no slot size": func(m *Manifest) { m.SlotSize = 0 },
	} {
		m := sample()
		spoil(m)
		if _, err := m.Encode(); err == nil {
			t.Errorf("%s: encoded without an error", what)
		}
		b, _ := json.Marshal(m)
		if _, err := DecodeManifest(b); err == nil {
			t.Errorf("%s: decoded without an error", what)
		}
	}
	if _, err := DecodeManifest([]byte(`{"format":1,"surprise":true}`)); err == nil || !strings.Contains(err.Error(), "surprise") {
		t.Errorf("an unknown field: %v", err)
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

func FuzzManifestRoundTrip(f *testing.F) {
	b, _ := sample().Encode()
	f.Add(b)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := DecodeManifest(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatalf("decoded, not encoded: %v", err)
		}
		if m2, err := DecodeManifest(again); err != nil || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%+v became %+v (%v)", m, m2, err)
		}
	})
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
			t.Fatal("something nobody signed is accepted")
		}
	})
}

func mustEncode(t *testing.T) []byte {
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSealedSizes: what is laid out before the root is written fits what is
// signed afterwards.
func TestSealedSizes(t *testing.T) {
	sig, man := signed(t, testKey(12345))
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

func TestCompareReleases(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"1.0", "1.0", 0}, {"1.9", "1.10", -1}, {"2", "1.99.3", 1}, {"1.0.1", "1.0", 1}, {"1.0", "1", 0}, {"01.2", "1.2", 0}, {"10", "9", 1}, {"1.0", "1.0.0.1", -1}} {
		for _, flipped := range []bool{false, true} {
			a, b, want := c.a, c.b, c.want
			if flipped {
				a, b, want = b, a, -want
			}
			if got := CompareReleases(a, b); (got > 0) != (want > 0) || (got < 0) != (want < 0) {
				t.Errorf("%s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
}

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
		if len(payload) > MaxPayload {
			return
		}
		if err != nil || len(list) != 1 || !bytes.Equal(list[0].Signature, sig) || list[0].Digest != DigestOf(blobs[0]) {
			t.Fatalf("%+v %v", list, err)
		}
		if VerifyDigest(DigestOf(nil), []Signed{s}, []*ecdsa.PublicKey{&testKey(12345).PublicKey}) == nil && !bytes.Equal(payload, one.Payload) && !bytes.Equal(payload, down.Payload) {
			t.Fatal("something nobody signed is accepted")
		}
	})
}
