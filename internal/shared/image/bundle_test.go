package image

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
)

// enveloped returns a bundle around any payload that a key signs.
func enveloped(t testing.TB, kind string, payload []byte, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	signed := preAuth(kind, payload)
	sum := sha256.Sum256(signed)
	sig, err := key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	b, err := EncodeBundle(Signed{signed, sig}, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func bundleOf(t testing.TB, digest string, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	s, err := SignBundle(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	b, err := EncodeBundle(s, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// verifyBundle is what a reader does with a bundle.
func verifyBundle(b []byte, digest string, keys ...*ecdsa.PublicKey) error {
	s, err := DecodeBundle(b)
	if err != nil {
		return err
	}
	return VerifyDigest(digest, []Signed{s}, keys)
}

// TestBundleGolden pins the bytes others rely on: the bundle, and the manifest that
// refers to what it signs.
func TestBundleGolden(t *testing.T) {
	subject := Descriptor{MediaType: MediaOCIIndex, ArtifactType: ArtifactType, Digest: DigestOf(nil), Size: 340}
	b := bundleOf(t, subject.Digest, testKey(12345))
	golden(t, "bundle.json", append(bytes.Clone(b), '\n'))
	m, blobs, err := EncodeBundleManifest(b, subject)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "bundle-manifest.json", append(bytes.Clone(m), '\n'))
	d, err := BundleIn(m, subject.Digest)
	if err != nil || d.Digest != DigestOf(b) || !bytes.Equal(blobs[0], b) || string(blobs[1]) != "{}" {
		t.Errorf("what was written is read as %+v, %v", d, err)
	}
}

// TestBundleOfCosign: a bundle that cosign 3.1.3 made is read.
func TestBundleOfCosign(t *testing.T) {
	b, err := os.ReadFile("testdata/cosign3.json")
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile("testdata/cosign3.pub")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParsePublicKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	const digest = "sha256:064ce9a05cda7fe57ff9a12f9f85323c70e77588c4f9da83ac782daa997b364d"
	if err := verifyBundle(b, digest, key); err != nil {
		t.Error(err)
	}
	if err := verifyBundle(b, digest, &testKey(12345).PublicKey); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
}

// TestBundles: a bundle counts only if a trusted key signed with it the very digest
// that is asked for, and as a signature of cosign's.
func TestBundles(t *testing.T) {
	key, other := testKey(12345), testKey(54321)
	digest := DigestOf([]byte("image"))
	hex := strings.TrimPrefix(digest, "sha256:")
	form := func(kind, predicate, subjects string) []byte {
		return []byte(`{"_type":"` + kind + `","subject":` + subjects + `,"predicateType":"` + predicate + `","predicate":{}}`)
	}
	subject := `{"digest":{"sha256":"` + hex + `"}}`
	good := bundleOf(t, digest, key)
	of := func(kind, predicate, subjects string) []byte {
		return enveloped(t, mediaStatement, form(kind, predicate, "["+subjects+"]"), key)
	}
	for name, c := range map[string]struct {
		bundle []byte
		want   string // "" is accepted
	}{
		"ours": {good, ""},
		"with a log entry and a time": {bytes.Replace(good, []byte(`"publicKey":`),
			[]byte(`"tlogEntries":[{"logIndex":"1"}],"timestampVerificationData":{},"publicKey":`), 1), ""},
		"without a hint":  {bytes.Replace(good, []byte(`"hint"`), []byte(`"hint":"","hint"`), 1), ""},
		"annotations":     {of(statementType, signPredicate, `{"annotations":{"a":"b"},`+subject[1:]), ""},
		"another key":     {bundleOf(t, digest, other), "none of the 1 keys that are trusted made it"},
		"another digest":  {bundleOf(t, DigestOf([]byte("other")), key), "which was signed"},
		"another payload": {tampered(t, good, form(statementType, signPredicate, "["+subject+",{}]")), "none of the 1 keys"},
		"another payload type": {enveloped(t, "application/json", form(statementType, signPredicate, "["+subject+"]"), key),
			"no envelope of type"},
		"another statement":        {of("https://in-toto.io/Statement/v0.1", signPredicate, subject), "unsupported type"},
		"an attestation":           {of(statementType, "https://spdx.dev/Document", subject), "unsupported type"},
		"two subjects":             {of(statementType, signPredicate, subject+","+subject), "2 subjects"},
		"no subject":               {of(statementType, signPredicate, ""), "0 subjects"},
		"a digest of another kind": {of(statementType, signPredicate, `{"digest":{"sha512":"`+hex+`"}}`), "mismatch"},
		"no statement":             {enveloped(t, mediaStatement, []byte("<html>"), key), "reading what was signed"},
		"no signature":             {unsigned(t, good), "0 signatures"},
		"two signatures": {bytes.Replace(good, []byte(`"signatures":[`), []byte(`"signatures":[{"sig":"AAAA"},`), 1),
			"2 signatures"},
		"a certificate": {bytes.Replace(good, []byte(`"publicKey"`), []byte(`"certificate":{"rawBytes":"AAAA"},"publicKey"`), 1),
			"unknown field"},
		"no key": {bytes.Replace(good, []byte(`"publicKey":{`), []byte(`"tlogEntries":{`), 1), "names no key"},
		"a blob's": {[]byte(`{"mediaType":"` + MediaBundle + `","verificationMaterial":{"publicKey":{}},"messageSignature":{}}`),
			"unknown field"},
		"another version": {bytes.Replace(good, []byte("v0.3"), []byte("v0.4"), 1), "media type"},
		"more follows":    {append(bytes.Clone(good), "{}"...), "more follows it"},
		"of any length":   {append(bytes.Clone(good), bytes.Repeat([]byte(" "), MaxBundle)...), "more than 65536"},
		"nothing":         {nil, "reading a bundle"},
	} {
		err := verifyBundle(c.bundle, digest, &key.PublicKey)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// tampered puts another payload into a bundle, under the same signature.
func tampered(t *testing.T, b, payload []byte) []byte {
	t.Helper()
	return changed(t, b, func(s *sigstoreBundle) { s.DSSEEnvelope.Payload = payload })
}

func unsigned(t *testing.T, b []byte) []byte {
	t.Helper()
	return changed(t, b, func(s *sigstoreBundle) { s.DSSEEnvelope.Signatures = nil })
}

func changed(t *testing.T, b []byte, change func(*sigstoreBundle)) []byte {
	t.Helper()
	var s sigstoreBundle
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	change(&s)
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTamperedBundle: a bundle whose payload was made to name another image does not
// sign that image, and no flipped byte makes it sign anything else.
func TestTamperedBundle(t *testing.T) {
	key := testKey(12345)
	digest, evil := DigestOf([]byte("image")), DigestOf([]byte("evil"))
	good := bundleOf(t, digest, key)
	theirs := tampered(t, good, []byte(strings.Replace(string(statementOf(t, good)), digest[7:], evil[7:], 1)))
	if err := verifyBundle(theirs, evil, &key.PublicKey); !errors.Is(err, ErrSignature) {
		t.Errorf("another image: %v", err)
	}
	if err := verifyBundle(theirs, digest, &key.PublicKey); !errors.Is(err, ErrSignature) {
		t.Errorf("the image that was signed: %v", err)
	}
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 1
		if s, err := DecodeBundle(b); err == nil && VerifyDigest(digest, []Signed{s}, []*ecdsa.PublicKey{&key.PublicKey}) == nil {
			if want, _ := DecodeBundle(good); !bytes.Equal(s.Payload, want.Payload) {
				t.Errorf("byte %d flipped: another payload is accepted", i)
			}
		}
	}
}

func statementOf(t *testing.T, b []byte) []byte {
	t.Helper()
	s, err := DecodeBundle(b)
	if err != nil {
		t.Fatal(err)
	}
	_, payload, ok := splitPreAuth(s.Payload)
	if !ok {
		t.Fatalf("%q", s.Payload)
	}
	return payload
}

// TestFormsStayApart: no payload of one form is taken for one of the other, a
// bundle allows no downgrade, and an image of cosign's holds the classic form alone.
func TestFormsStayApart(t *testing.T) {
	key := testKey(12345)
	keys := []*ecdsa.PublicKey{&key.PublicKey}
	digest := DigestOf([]byte("image"))
	down, err := SignDowngrade(digest, Downgrade{"stable", "1.2"}, key)
	if err != nil {
		t.Fatal(err)
	}
	notes := `{"` + downgradeChannel + `":"stable","` + downgradeFrom + `":"1.2"}`
	bundled, err := DecodeBundle(enveloped(t, mediaStatement, []byte(`{"_type":"`+statementType+`","subject":[{"digest":{"sha256":"`+
		digest[7:]+`"},"annotations":`+notes+`}],"predicateType":"`+signPredicate+`","predicate":`+notes+`,"optional":`+notes+`}`), key))
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := DecodeBundle(enveloped(t, mediaStatement, down.Payload, key))
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyDigest(digest, []Signed{wrapped}, keys); err == nil {
		t.Error("a classic payload in an envelope is accepted")
	}
	if got := Downgrades(digest, []Signed{bundled, wrapped}, keys); len(got) != 0 {
		t.Errorf("bundles allow %v", got)
	}
	if got := Downgrades(digest, []Signed{bundled, down}, keys); len(got) != 1 {
		t.Errorf("beside a bundle: %v", got)
	}
	m, blobs, err := EncodeCosign([]Signed{bundled, down})
	if err != nil || len(blobs) != 2 {
		t.Fatalf("%d blobs, %v", len(blobs), err)
	}
	if list, err := DecodeCosign(m); err != nil || len(list) != 1 || list[0].Digest != DigestOf(down.Payload) {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := EncodeBundle(down, nil); !errors.Is(err, ErrBundle) {
		t.Errorf("a bundle of a classic signature: %v", err)
	}
}

// TestBundleInASlot: signature.json holds what a bundle signs, and the chain holds
// by that alone.
func TestBundleInASlot(t *testing.T) {
	key := testKey(12345)
	manifest, oci := encoded(t)
	s, err := SignBundle(DigestOf(oci), key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := Signature{Manifest: oci, Signatures: []Signed{s}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Verify(text, manifest, []*ecdsa.PublicKey{&key.PublicKey}); err != nil {
		t.Error(err)
	}
	if _, _, err := Verify(text, manifest, []*ecdsa.PublicKey{&testKey(54321).PublicKey}); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
}

// TestBundleManifests: a manifest leads to a bundle only if it is one about what
// was asked for.
func TestBundleManifests(t *testing.T) {
	subject := Descriptor{MediaType: MediaOCIIndex, Digest: DigestOf(nil), Size: 340}
	b := bundleOf(t, subject.Digest, testKey(12345))
	for name, c := range map[string]struct {
		change func(*OCIManifest)
		want   string
	}{
		"ours":              {func(*OCIManifest) {}, ""},
		"another artifact":  {func(m *OCIManifest) { m.ArtifactType = MediaSPDX }, "artifact type"},
		"two layers":        {func(m *OCIManifest) { m.Layers = append(m.Layers, m.Layers[0]) }, "2 layers"},
		"another layer":     {func(m *OCIManifest) { m.Layers[0].MediaType = MediaSPDX }, "artifact type"},
		"another subject":   {func(m *OCIManifest) { m.Subject.Digest = DigestOf([]byte("x")) }, "about something else"},
		"no subject":        {func(m *OCIManifest) { m.Subject = nil }, "about something else"},
		"a config":          {func(m *OCIManifest) { m.Config.Digest = DigestOf([]byte("x")) }, "config is not empty"},
		"a bundle too long": {func(m *OCIManifest) { m.Layers[0].Size = 1 << 40 }, "more than 65536"},
	} {
		text, _, err := EncodeBundleManifest(b, subject)
		if err != nil {
			t.Fatal(err)
		}
		m, err := DecodeOCI(text)
		if err != nil {
			t.Fatal(err)
		}
		c.change(m)
		if text, err = json.Marshal(m); err != nil {
			t.Fatal(err)
		}
		_, err = BundleIn(text, subject.Digest)
		if (err == nil) != (c.want == "") || err != nil && (!errors.Is(err, ErrBundle) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	if _, err := BundleIn([]byte("<html>"), subject.Digest); !errors.Is(err, ErrBundle) {
		t.Errorf("no manifest: %v", err)
	}
}

// FuzzBundle: what is read of bundles is bounded, and what was not signed is not
// accepted.
func FuzzBundle(f *testing.F) {
	key := testKey(12345)
	digest := DigestOf(nil)
	good := bundleOf(f, digest, key)
	theirs, err := os.ReadFile("testdata/cosign3.json")
	if err != nil {
		f.Fatal(err)
	}
	want, err := DecodeBundle(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, want.Payload)
	f.Add(theirs, []byte("DSSEv1 0  0 "))
	f.Add([]byte(`{"mediaType":"`+MediaBundle+`","verificationMaterial":{},"dsseEnvelope":{}}`), []byte("DSSEv1 999999999999 x"))
	f.Add([]byte("{}"), []byte("DSSEv1 "))
	f.Fuzz(func(t *testing.T, b, signed []byte) {
		if kind, payload, ok := splitPreAuth(signed); ok && !bytes.Equal(preAuth(kind, payload), signed) {
			t.Fatalf("%q is split into %q and %q", signed, kind, payload)
		}
		s, err := DecodeBundle(b)
		if err != nil {
			if !errors.Is(err, ErrBundle) {
				t.Fatal(err)
			}
			return
		}
		if VerifyDigest(digest, []Signed{s}, []*ecdsa.PublicKey{&key.PublicKey}) == nil && !bytes.Equal(s.Payload, want.Payload) {
			t.Fatal("something that was not signed is accepted")
		}
		again, err := EncodeBundle(s, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > MaxBundle {
			return
		}
		if twice, err := DecodeBundle(again); err != nil || !bytes.Equal(twice.Payload, s.Payload) || !bytes.Equal(twice.Signature, s.Signature) {
			t.Fatalf("what was read is written as something else: %v", err)
		}
	})
}
