package image

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Media types and the annotation of cosign's classic signatures
// (docs/platform.md 10.3).
const (
	mediaImageConfig   = "application/vnd.oci.image.config.v1+json"
	mediaSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignAnnotation   = "dev.cosignproject.cosign/signature"
)

// Limits on what is read of signatures: how many one manifest may have, and
// the bytes of what each signed. cosign's own payloads have 250.
const (
	MaxSignatures = 64
	MaxPayload    = 16 << 10
)

// CosignTag is the tag under which cosign keeps the signatures of a manifest.
func CosignTag(digest string) string { return strings.Replace(digest, ":", "-", 1) + ".sig" }

// EncodeCosign returns signatures as cosign stores them: an image with one
// layer for each, whose contents are what was signed. Its blobs are the
// config and the payloads. Those that bundles hold are passed over.
func EncodeCosign(list []Signed) (manifest []byte, blobs [][]byte, err error) {
	m := OCIManifest{SchemaVersion: 2, MediaType: MediaOCIManifest}
	var ids, history []string
	for _, s := range list {
		if s.InBundle() {
			continue
		}
		digest := DigestOf(s.Payload)
		ids = append(ids, fmt.Sprintf("%q", digest))
		history = append(history, `{"created":"0001-01-01T00:00:00Z"}`)
		blobs = append(blobs, s.Payload)
		m.Layers = append(m.Layers, Descriptor{MediaType: mediaSimpleSigning, Digest: digest, Size: int64(len(s.Payload)),
			Annotations: map[string]string{cosignAnnotation: base64.StdEncoding.EncodeToString(s.Signature)}})
	}
	const configForm = `{"architecture":"","created":"0001-01-01T00:00:00Z","history":[%s],"os":"",` +
		`"rootfs":{"type":"layers","diff_ids":[%s]},"config":{}}`
	config := fmt.Appendf(nil, configForm, strings.Join(history, ","), strings.Join(ids, ","))
	m.Config = Descriptor{MediaType: mediaImageConfig, Digest: DigestOf(config), Size: int64(len(config))}
	manifest, err = json.Marshal(m)
	return manifest, append(blobs, config), err
}

// CosignLayer is a signature whose payload has not been read yet.
type CosignLayer struct {
	Digest    string // of the payload
	Size      int64  // of the payload, bytes
	Signature []byte
}

// DecodeCosign lists the signatures that an image of cosign's holds. Layers
// that are something else are passed over.
func DecodeCosign(manifest []byte) ([]CosignLayer, error) {
	m, err := DecodeOCI(manifest)
	if err != nil {
		return nil, err
	}
	var list []CosignLayer
	for _, l := range m.Layers {
		text, ok := l.Annotations[cosignAnnotation]
		if !ok {
			continue
		}
		sig, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("reading a signature of cosign: %w", err)
		}
		if l.Size < 0 || l.Size > MaxPayload {
			return nil, fmt.Errorf("reading a signature of cosign: payload of %d bytes, more than %d", l.Size, MaxPayload)
		}
		if list = append(list, CosignLayer{l.Digest, l.Size, sig}); len(list) > MaxSignatures {
			return nil, fmt.Errorf("reading the signatures of cosign: more than %d", MaxSignatures)
		}
	}
	return list, nil
}

// Join adds signatures to others, each once.
func Join(list, more []Signed) []Signed {
	list = list[:len(list):len(list)]
	for _, s := range more {
		there := false
		for _, old := range list {
			there = there || string(old.Payload) == string(s.Payload) && string(old.Signature) == string(s.Signature)
		}
		if !there {
			list = append(list, s)
		}
	}
	return list
}

// Downgrade is the statement that lets nodes of a channel go back to an
// older release. It is a signature of the image with two annotations, so
// cosign sign -a makes and checks it too. From keeps it from being used again:
// nodes that run a newer release than that do not go back.
type Downgrade struct {
	Channel string // the channel's tag
	From    string // the release the channel named before
}

// Names of the statement's annotations.
const (
	downgradeChannel = "dev.pikelet.downgrade.channel"
	downgradeFrom    = "dev.pikelet.downgrade.from"
)

// SignDowngrade signs the statement for the image an OCI manifest's digest
// names.
func SignDowngrade(digest string, d Downgrade, key *ecdsa.PrivateKey) (Signed, error) {
	return signDigest(digest, map[string]any{downgradeChannel: d.Channel, downgradeFrom: d.From}, key)
}

// Downgrades returns the statements among signatures that one of the keys made
// over a digest. Bundles hold none.
func Downgrades(digest string, list []Signed, keys []*ecdsa.PublicKey) []Downgrade {
	var found []Downgrade
	for _, s := range list {
		p, err := s.verify(digest, keys)
		if err != nil {
			continue
		}
		channel, _ := p.Optional[downgradeChannel].(string)
		from, _ := p.Optional[downgradeFrom].(string)
		if channel != "" && from != "" {
			found = append(found, Downgrade{channel, from})
		}
	}
	return found
}

// AllowsDowngrade reports whether one of the keys signed that nodes of a channel
// may go back from the release that runs to the image an OCI manifest's digest
// names. A statement for another channel allows nothing; without a channel none
// does.
func AllowsDowngrade(digest string, list []Signed, keys []*ecdsa.PublicKey, channel, running string) bool {
	return slices.ContainsFunc(Downgrades(digest, list, keys), func(d Downgrade) bool {
		return channel != "" && d.Channel == channel && CompareReleases(running, d.From) <= 0
	})
}

// SignDigest signs the digest of a manifest or an index. The same key gives the
// same bytes.
func SignDigest(digest string, key *ecdsa.PrivateKey) (Signed, error) {
	return signDigest(digest, nil, key)
}

func signDigest(digest string, optional map[string]any, key *ecdsa.PrivateKey) (Signed, error) {
	p := newPayload(digest)
	p.Optional = optional
	b, err := json.Marshal(p)
	if err != nil {
		return Signed{}, err
	}
	return signPayload(b, key)
}

// ErrSignature is returned for what no trusted key signed.
var ErrSignature = errors.New("no valid signature from a trusted key")

// VerifyDigest checks that one of the keys made one of the signatures over a
// digest, in either form. The error is ErrSignature where none did, and another one where a key
// signed something else.
func VerifyDigest(digest string, list []Signed, keys []*ecdsa.PublicKey) error {
	problem := fmt.Errorf("%w: not signed", ErrSignature)
	for _, s := range list {
		_, err := s.verify(digest, keys)
		if err == nil {
			return nil
		}
		problem = err
	}
	return problem
}

// madeBy reports whether one of the keys made the signature.
func (s Signed) madeBy(keys []*ecdsa.PublicKey) bool {
	sum := sha256.Sum256(s.Payload)
	return slices.ContainsFunc(keys, func(k *ecdsa.PublicKey) bool { return ecdsa.VerifyASN1(k, sum[:], s.Signature) })
}

// verify checks one signature over a digest and returns what was signed; nothing
// for one that a bundle holds.
func (s Signed) verify(digest string, keys []*ecdsa.PublicKey) (payload, error) {
	var p payload
	if !s.madeBy(keys) {
		return p, fmt.Errorf("%w: none of the %d keys that are trusted made it, or it was changed", ErrSignature, len(keys))
	}
	if s.InBundle() {
		_, _, err := readStatement(s.Payload, digest, signPredicate)
		return p, err
	}
	if err := json.Unmarshal(s.Payload, &p); err != nil {
		return p, fmt.Errorf("reading what was signed: %w", err)
	}
	switch {
	case p.Critical.Type != payloadType:
		return p, fmt.Errorf("unsupported type of what was signed: got %q, want %q", p.Critical.Type, payloadType)
	case p.Critical.Image.DockerManifestDigest != digest:
		return p, fmt.Errorf("digest mismatch: got %s, want %q, which was signed", digest, p.Critical.Image.DockerManifestDigest)
	}
	return p, nil
}
