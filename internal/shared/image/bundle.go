package image

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Media types, annotations and types of the signatures that cosign 3 makes
// (docs/platform.md 10.4): a bundle of Sigstore's around a DSSE envelope around
// a statement of in-toto's.
const (
	MediaBundle       = "application/vnd.dev.sigstore.bundle.v0.3+json"
	mediaStatement    = "application/vnd.in-toto+json"
	statementType     = "https://in-toto.io/Statement/v1"
	signPredicate     = "https://sigstore.dev/cosign/sign/v1"
	bundleContent     = "dev.sigstore.bundle.content"
	bundlePredicate   = "dev.sigstore.bundle.predicateType"
	contentOfEnvelope = "dsse-envelope"
)

// MaxBundle bounds a bundle, in bytes. One that names a key has 700; with the
// entry of a transparency log, which is not looked at, about 6,000.
const MaxBundle = 64 << 10

// ErrBundle is returned for what is no bundle that holds a signature of cosign's
// made with a key.
var ErrBundle = errors.New("not a bundle with a signature of cosign's by a key")

// sigstoreBundle is a bundle in protobuf's JSON. Log entries and timestamps say
// when something was signed, which no check here asks for. A bundle of another
// kind has fields that are not listed here.
type sigstoreBundle struct {
	MediaType            string               `json:"mediaType"`
	VerificationMaterial verificationMaterial `json:"verificationMaterial"`
	DSSEEnvelope         *envelope            `json:"dsseEnvelope"`
}

type verificationMaterial struct {
	PublicKey  *keyHint        `json:"publicKey"`
	LogEntries json.RawMessage `json:"tlogEntries,omitempty"`
	Timestamps json.RawMessage `json:"timestampVerificationData,omitempty"`
}

type keyHint struct {
	Hint string `json:"hint,omitempty"`
}

// envelope is one of DSSE.
type envelope struct {
	Payload     []byte              `json:"payload"`
	PayloadType string              `json:"payloadType"`
	Signatures  []envelopeSignature `json:"signatures"`
}

type envelopeSignature struct {
	Sig   []byte `json:"sig"`
	KeyID string `json:"keyid,omitempty"`
}

// statement is what an envelope of cosign's holds. The predicate of a signature is
// empty.
type statement struct {
	Type          string             `json:"_type"`
	Subject       []statementSubject `json:"subject"`
	PredicateType string             `json:"predicateType"`
	Predicate     json.RawMessage    `json:"predicate"`
}

type statementSubject struct {
	Digest map[string]string `json:"digest"`
}

// paeBegin begins what is signed of an envelope, which no payload of the classic
// form begins with: that is JSON.
const paeBegin = "DSSEv1 "

// preAuth is DSSE's encoding of what is signed
// (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md).
func preAuth(kind string, payload []byte) []byte {
	return fmt.Appendf(nil, "%s%d %s %d %s", paeBegin, len(kind), kind, len(payload), payload)
}

// splitPreAuth is the inverse of preAuth. It takes nothing that preAuth does not
// return.
func splitPreAuth(b []byte) (kind string, payload []byte, ok bool) {
	rest, ok := bytes.CutPrefix(b, []byte(paeBegin))
	if !ok {
		return "", nil, false
	}
	k, rest, ok := cutCounted(rest)
	if !ok || len(rest) == 0 || rest[0] != ' ' {
		return "", nil, false
	}
	payload, rest, ok = cutCounted(rest[1:])
	return string(k), payload, ok && len(rest) == 0 && bytes.Equal(preAuth(string(k), payload), b)
}

// cutCounted splits a length, a space and as many bytes from a text.
func cutCounted(b []byte) (counted, rest []byte, ok bool) {
	number, rest, ok := bytes.Cut(b, []byte(" "))
	n, err := strconv.ParseUint(string(number), 10, 31)
	if !ok || err != nil || n > uint64(len(rest)) {
		return nil, nil, false
	}
	return rest[:n], rest[n:], true
}

// InBundle reports whether a signature is one that a bundle holds. Its payload is
// then what DSSE has signed: the statement, and around it its type and lengths.
func (s Signed) InBundle() bool { return bytes.HasPrefix(s.Payload, []byte(paeBegin)) }

// newStatement returns what is signed of an envelope that says something of a
// SHA-256 in hexadecimal digits.
func newStatement(hex, predicateType string, predicate []byte) ([]byte, error) {
	text, err := json.Marshal(statement{
		Type: statementType, Subject: []statementSubject{{Digest: map[string]string{"sha256": hex}}},
		PredicateType: predicateType, Predicate: predicate,
	})
	return preAuth(mediaStatement, text), err
}

// SignBundle signs the digest of a manifest or an index as cosign 3 does. The
// same key gives the same bytes, as with SignDigest.
func SignBundle(digest string, key *ecdsa.PrivateKey) (Signed, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok {
		return Signed{}, fmt.Errorf("signing %q: want a digest of SHA-256", digest)
	}
	payload, err := newStatement(hex, signPredicate, []byte("{}"))
	if err != nil {
		return Signed{}, err
	}
	return signPayload(payload, key)
}

// EncodeBundle returns the bundle of a signature that SignBundle made, or
// DecodeBundle read. key is the one that made it, which the bundle names by its
// digest as cosign does; nil where it is not known: readers have keys to try.
// The error is ErrBundle for a signature in the classic form.
func EncodeBundle(s Signed, key *ecdsa.PublicKey) ([]byte, error) {
	kind, payload, ok := splitPreAuth(s.Payload)
	if !ok {
		return nil, fmt.Errorf("writing a bundle: %w", ErrBundle)
	}
	hint := ""
	if key != nil {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(der)
		hint = base64.StdEncoding.EncodeToString(sum[:])
	}
	return json.Marshal(sigstoreBundle{
		MediaType: MediaBundle, VerificationMaterial: verificationMaterial{PublicKey: &keyHint{hint}},
		DSSEEnvelope: &envelope{Payload: payload, PayloadType: kind, Signatures: []envelopeSignature{{Sig: s.Signature}}},
	})
}

// DecodeBundle reads the signature in a bundle. Which key made it, and of what, is
// for VerifyDigest to find out. The error is ErrBundle for a bundle with a
// certificate in place of a key, with a signature over an artifact itself, with
// several signatures, or of another version.
func DecodeBundle(b []byte) (Signed, error) { return decodeBundle(b, MaxBundle) }

func decodeBundle(b []byte, limit int) (Signed, error) {
	if len(b) > limit {
		return Signed{}, fmt.Errorf("reading a bundle: %w: %d bytes, more than %d", ErrBundle, len(b), limit)
	}
	var s sigstoreBundle
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Signed{}, fmt.Errorf("reading a bundle: %w: %w", ErrBundle, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Signed{}, fmt.Errorf("reading a bundle: %w: more follows it", ErrBundle)
	}
	switch {
	case s.MediaType != MediaBundle:
		return Signed{}, fmt.Errorf("reading a bundle: %w: media type %q; want %q", ErrBundle, s.MediaType, MediaBundle)
	case s.VerificationMaterial.PublicKey == nil:
		return Signed{}, fmt.Errorf("reading a bundle: %w: it names no key", ErrBundle)
	case s.DSSEEnvelope == nil || s.DSSEEnvelope.PayloadType != mediaStatement:
		return Signed{}, fmt.Errorf("reading a bundle: %w: no envelope of type %q", ErrBundle, mediaStatement)
	case len(s.DSSEEnvelope.Signatures) != 1:
		return Signed{}, fmt.Errorf("reading a bundle: %w: %d signatures; want 1", ErrBundle, len(s.DSSEEnvelope.Signatures))
	}
	e := s.DSSEEnvelope
	return Signed{Payload: preAuth(e.PayloadType, e.Payload), Signature: e.Signatures[0].Sig}, nil
}

// readStatement checks that what was signed of an envelope is a statement of a type
// about a digest, and returns it and its bytes.
func readStatement(signed []byte, digest, predicateType string) (statement, []byte, error) {
	var s statement
	kind, payload, ok := splitPreAuth(signed)
	if !ok || kind != mediaStatement {
		return s, nil, fmt.Errorf("unsupported type of what was signed: want an envelope of %q", mediaStatement)
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		return s, nil, fmt.Errorf("reading what was signed: %w", err)
	}
	switch {
	case s.Type != statementType:
		return s, nil, fmt.Errorf("unsupported type of what was signed: got %q, want %q", s.Type, statementType)
	case s.PredicateType != predicateType:
		return s, nil, fmt.Errorf("unsupported type of what was signed: got a statement %q, want %q", s.PredicateType, predicateType)
	case len(s.Subject) != 1:
		return s, nil, fmt.Errorf("unsupported statement: it is about %d subjects; want 1", len(s.Subject))
	case "sha256:"+s.Subject[0].Digest["sha256"] != digest:
		return s, nil, fmt.Errorf("digest mismatch: got %s, want %q, which was signed", digest, "sha256:"+s.Subject[0].Digest["sha256"])
	}
	return s, payload, nil
}

// EmptyConfig is OCI's empty config.
const EmptyConfig = "{}"

// EncodeBundleManifest returns the manifest under which a registry keeps a bundle,
// as a referrer of what was signed. Its blobs are the bundle and OCI's empty
// config. cosign notes the time as an annotation too, which is optional
// (docs/platform.md 10.4): without it what is signed twice is the same twice.
func EncodeBundleManifest(bundle []byte, subject Descriptor) (manifest []byte, blobs [][]byte, err error) {
	return EncodeAttestationManifest(bundle, signPredicate, subject)
}

// MayBeBundle reports whether an entry in a list of referrers may be a bundle.
// Clients on go-containerregistry, cosign among them, write the type of the
// config into such lists (sigstore/cosign#4422).
func MayBeBundle(d Descriptor) bool { return MayBeType(d, MediaBundle) }

// MayBeSignature reports whether an entry in a list of referrers may be a bundle
// that holds a signature, and no attestation.
func MayBeSignature(d Descriptor) bool { return MayAttest(d, signPredicate) }

// MayBeType reports whether an entry in a list of referrers may be of an artifact
// type, as MayBeBundle does for bundles.
func MayBeType(d Descriptor, artifactType string) bool {
	return d.ArtifactType == artifactType || d.ArtifactType == "" || d.ArtifactType == mediaEmpty
}

// BundleIn returns where the bundle is that a manifest about subject holds. The
// error is ErrBundle for a manifest of anything else.
func BundleIn(manifest []byte, subject string) (Descriptor, error) {
	return bundleIn(manifest, subject, MaxBundle)
}

func bundleIn(manifest []byte, subject string, limit int64) (Descriptor, error) {
	m, err := DecodeOCI(manifest)
	switch {
	case err != nil:
		return Descriptor{}, fmt.Errorf("%w: %w", ErrBundle, err)
	case m.ArtifactType != MediaBundle || len(m.Layers) != 1 || m.Layers[0].MediaType != MediaBundle:
		return Descriptor{}, fmt.Errorf("%w: artifact type %q with %d layers", ErrBundle, m.ArtifactType, len(m.Layers))
	case m.Subject == nil || m.Subject.Digest != subject:
		return Descriptor{}, fmt.Errorf("%w: it is about something else than %s", ErrBundle, subject)
	case m.Config.Digest != DigestOf([]byte(EmptyConfig)):
		return Descriptor{}, fmt.Errorf("%w: its config is not empty", ErrBundle)
	case m.Layers[0].Size > limit:
		return Descriptor{}, fmt.Errorf("%w: %d bytes, more than %d", ErrBundle, m.Layers[0].Size, limit)
	}
	return m.Layers[0], nil
}
