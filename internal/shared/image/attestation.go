package image

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
)

// PredicateSLSA is the type of predicate that says how something was built
// (https://slsa.dev/spec/v1.1/provenance).
const PredicateSLSA = "https://slsa.dev/provenance/v1"

// MaxAttestation bounds an attestation's bundle, in bytes. One that names 200
// packages has 100,000.
const MaxAttestation = 4 << 20

// Attest signs a predicate about the digest of a manifest, a JSON object of the
// type named, as cosign 3 attests. The same key gives the same bytes, as with
// SignDigest.
func Attest(digest, predicateType string, predicate []byte, key *ecdsa.PrivateKey) (Signed, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok {
		return Signed{}, fmt.Errorf("attesting %q: want a digest of SHA-256", digest)
	}
	payload, err := newStatement(hex, predicateType, predicate)
	if err != nil {
		return Signed{}, fmt.Errorf("attesting %s: %w", digest, err)
	}
	return signPayload(payload, key)
}

// signPayload signs what preAuth or a classic payload holds. ECDSA is made
// deterministic by RFC 6979, which is what a nil source of randomness asks
// crypto/ecdsa for.
func signPayload(payload []byte, key *ecdsa.PrivateKey) (Signed, error) {
	sum := sha256.Sum256(payload)
	sig, err := key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return Signed{}, fmt.Errorf("signing: %w", err)
	}
	return Signed{Payload: payload, Signature: sig}, nil
}

// Resign signs what was signed with another key.
func (s Signed) Resign(key *ecdsa.PrivateKey) (Signed, error) { return signPayload(s.Payload, key) }

// Attestation is a statement about an image, checked.
type Attestation struct {
	Statement []byte // of in-toto, JSON: what was signed
	Predicate []byte // the part of it that says something
}

// VerifyAttestation checks that one of the keys signed a statement with a predicate
// of a type about a digest, and returns it. The error is ErrSignature where none of
// the keys did.
func VerifyAttestation(s Signed, digest, predicateType string, keys []*ecdsa.PublicKey) (Attestation, error) {
	if !s.madeBy(keys) {
		return Attestation{}, fmt.Errorf("%w: none of the %d keys that are trusted made it, or it was changed", ErrSignature, len(keys))
	}
	st, payload, err := readStatement(s.Payload, digest, predicateType)
	if err != nil {
		return Attestation{}, err
	}
	return Attestation{Statement: payload, Predicate: st.Predicate}, nil
}

// Attests returns the type of the predicate of what a bundle holds; "" for a
// signature, in either form, and for what is no statement.
func (s Signed) Attests() string {
	kind, payload, ok := splitPreAuth(s.Payload)
	if !ok || kind != mediaStatement {
		return ""
	}
	var st statement
	if json.Unmarshal(payload, &st) != nil || st.PredicateType == signPredicate {
		return ""
	}
	return st.PredicateType
}

// EncodeAttestationManifest is EncodeBundleManifest for an attestation with a
// predicate of a type.
func EncodeAttestationManifest(bundle []byte, predicateType string, subject Descriptor) (manifest []byte, blobs [][]byte, err error) {
	return encodeReferrer(MediaBundle, bundle, Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		map[string]string{bundleContent: contentOfEnvelope, bundlePredicate: predicateType})
}

// MayAttest reports whether an entry in a list of referrers may be an attestation
// with a predicate of a type. Not all registries list annotations.
func MayAttest(d Descriptor, predicateType string) bool {
	is, listed := d.Annotations[bundlePredicate]
	return MayBeBundle(d) && (!listed || is == predicateType)
}

// AttestationIn is BundleIn for an attestation, which may be larger.
func AttestationIn(manifest []byte, subject string) (Descriptor, error) {
	return bundleIn(manifest, subject, MaxAttestation)
}

// DecodeAttestation is DecodeBundle for an attestation, which may be larger.
func DecodeAttestation(b []byte) (Signed, error) { return decodeBundle(b, MaxAttestation) }
