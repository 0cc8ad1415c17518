package artifact

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
)

// Signature is what a slot holds as signature.json: the OCI manifest and the
// signatures over its digest, each in cosign's classic form (FACTS 10.3).
type Signature struct {
	Manifest   []byte   `json:"manifest"` // the OCI manifest's bytes
	Signatures []Signed `json:"signatures"`
}

// Signed is one signature: the payload, and ECDSA over its SHA-256 in ASN.1.
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

const payloadType = "cosign container image signature"

// Payload returns the document to sign for an OCI manifest's digest. The
// reference is left empty: the address of a registry is no part of trust.
func Payload(digest string) ([]byte, error) {
	var p payload
	p.Critical.Image.DockerManifestDigest = digest
	p.Critical.Type = payloadType
	return json.Marshal(p)
}

// Sign signs an OCI manifest. ECDSA is made deterministic by RFC 6979, which
// is what a nil source of randomness asks crypto/ecdsa for.
func Sign(oci []byte, key *ecdsa.PrivateKey) (Signed, error) {
	p, err := Payload(DigestOf(oci))
	if err != nil {
		return Signed{}, err
	}
	sum := sha256.Sum256(p)
	sig, err := key.Sign(nil, sum[:], crypto.SHA256)
	if err != nil {
		return Signed{}, fmt.Errorf("signing: %w", err)
	}
	return Signed{Payload: p, Signature: sig}, nil
}

// Encode returns signature.json.
func (s Signature) Encode() ([]byte, error) {
	b, err := json.Marshal(s)
	return append(b, '\n'), err
}

// ParsePublicKey reads a PEM public key, which must be ECDSA on P-256, the
// kind cosign makes.
func ParsePublicKey(b []byte) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, errors.New("want a PEM block PUBLIC KEY, as cosign generate-key-pair writes to cosign.pub")
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	pub, ok := k.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, errors.New("want an ECDSA key on P-256")
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
// order, and returns the manifest and the digest that was signed. The
// contents of the files are the caller's to check against the manifest. There
// is no way to skip a link.
func Verify(signature, manifest []byte, keys []*ecdsa.PublicKey) (*Manifest, string, error) {
	var s Signature
	if len(signature) > MaxSignature {
		return nil, "", fmt.Errorf("reading %s: %d bytes, more than %d", SignatureFile, len(signature), MaxSignature)
	}
	if err := json.Unmarshal(signature, &s); err != nil {
		return nil, "", fmt.Errorf("reading %s: %w", SignatureFile, err)
	}
	if err := s.verify(keys); err != nil {
		return nil, "", fmt.Errorf("%s: %w", SignatureFile, err)
	}
	m, err := checkOCI(s.Manifest, manifest)
	return m, DigestOf(s.Manifest), err
}

func (s Signature) verify(keys []*ecdsa.PublicKey) error {
	want := DigestOf(s.Manifest)
	var problem error = errors.New("it holds no signature")
	for _, signed := range s.Signatures {
		sum := sha256.Sum256(signed.Payload)
		good := false
		for _, k := range keys {
			good = good || ecdsa.VerifyASN1(k, sum[:], signed.Signature)
		}
		if !good {
			problem = fmt.Errorf("none of the %d keys this image trusts made its signature, or it was changed", len(keys))
			continue
		}
		var p payload
		if err := json.Unmarshal(signed.Payload, &p); err != nil {
			problem = fmt.Errorf("reading what was signed: %w", err)
			continue
		}
		if p.Critical.Type != payloadType || p.Critical.Image.DockerManifestDigest != want {
			problem = fmt.Errorf("the OCI manifest was changed: its digest is %s, %q was signed", want, p.Critical.Image.DockerManifestDigest)
			continue
		}
		return nil
	}
	return problem
}
