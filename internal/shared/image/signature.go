package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Signature is what a slot holds as signature.json: the OCI manifest and the
// signatures over its digest, each in cosign's classic form or out of a bundle
// (docs/platform.md 10.3, 10.4).
type Signature struct {
	Manifest   []byte   `json:"manifest"` // the OCI manifest's bytes
	Signatures []Signed `json:"signatures"`
}

// Signed is one signature: the payload, and ECDSA over its SHA-256 in ASN.1. In
// both forms the payload is all that was signed.
type Signed struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

// payload is cosign's simple-signing document. The order of the fields is
// cosign's own, so that ours and cosign's are the same bytes.
type payload struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]any `json:"optional"`
}

func newPayload(digest string) payload {
	var p payload
	p.Critical.Image.DockerManifestDigest = digest
	p.Critical.Type = payloadType
	return p
}

const payloadType = "cosign container image signature"

// Sign signs an OCI manifest. What is signed names no registry: the address
// an image comes from is no part of trust.
func Sign(oci []byte, key *ecdsa.PrivateKey) (Signed, error) {
	return SignDigest(DigestOf(oci), key)
}

// Encode returns signature.json.
func (s Signature) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	return append(b, '\n'), err
}

// SealedSizes returns how many bytes manifest.json and, with one key's signatures
// in both forms, signature.json will have once the digest and the verity hash of the root are
// known: whoever lays out a slot before its root is written needs no more. Of m
// both may be "".
func (m *Manifest) SealedSizes() (manifest, signature int64, err error) {
	text, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return 0, 0, err
	}
	var missing int64 // digests to come, in m and in the OCI manifest
	for _, f := range m.Files {
		missing += int64(digestLen - len(f.Digest))
	}
	manifest = int64(len(text)) + 1 + missing + int64(hex.EncodedLen(sha256.Size)-len(m.Root.Hash))
	oci, err := encodeOCI(m, Descriptor{MediaType: MediaManifest, Size: manifest})
	if err != nil {
		return 0, 0, err
	}
	payload, err := json.Marshal(newPayload(""))
	if err != nil {
		return 0, 0, err
	}
	statement, err := newStatement(strings.Repeat("0", hex.EncodedLen(sha256.Size)), signPredicate, []byte("{}"))
	if err != nil {
		return 0, 0, err
	}
	none := Signed{Payload: []byte{}, Signature: []byte{}}
	frame, err := Signature{Manifest: []byte{}, Signatures: []Signed{none, none}}.Encode()
	if err != nil {
		return 0, 0, err
	}
	signature = int64(len(frame))
	for _, n := range []int{len(oci) + digestLen + int(missing), len(payload) + digestLen, maxECDSA, len(statement), maxECDSA} {
		signature += int64(base64.StdEncoding.EncodedLen(n))
	}
	return manifest, signature, nil
}

const (
	digestLen = len("sha256:") + 2*sha256.Size
	// maxECDSA is the length of a signature by ECDSA on P-256 in ASN.1, at most:
	// two integers of 33 bytes with two bytes before each and before both (SEC 1,
	// C.5). One of one or two bytes less is as long in base64.
	maxECDSA = 72
)

// ParsePublicKey reads a PEM public key, which must be ECDSA on P-256, the
// kind cosign makes.
func ParsePublicKey(b []byte) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("reading a public key: want a PEM block PUBLIC KEY, as cosign generate-key-pair writes to cosign.pub")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("reading a public key: want an ECDSA key on P-256")
	}
	return pub, nil
}

// EncodePublicKey is the inverse of ParsePublicKey.
func EncodePublicKey(k *ecdsa.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Verify checks key, payload, OCI manifest and Pikelet manifest, in this
// order, and returns the manifest and the digest that was signed. The error is
// ErrSignature where none of the keys signed the OCI manifest. The contents of
// the files are the caller's to check against the manifest. There is no way to
// skip a link.
func Verify(signature, manifest []byte, keys []*ecdsa.PublicKey) (*Manifest, string, error) {
	s, err := DecodeSignature(signature)
	if err != nil {
		return nil, "", err
	}
	digest := DigestOf(s.Manifest)
	if err := VerifyDigest(digest, s.Signatures, keys); err != nil {
		return nil, "", fmt.Errorf("verifying the OCI manifest in %s: %w", SignatureFile, err)
	}
	m, err := CheckOCI(s.Manifest, manifest)
	return m, digest, err
}

// DecodeSignature reads signature.json. What it says is not checked yet.
func DecodeSignature(b []byte) (Signature, error) {
	var s Signature
	if len(b) > MaxSignature {
		return s, fmt.Errorf("reading %s: %d bytes, more than %d", SignatureFile, len(b), MaxSignature)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("reading %s: %w", SignatureFile, err)
	}
	return s, nil
}
