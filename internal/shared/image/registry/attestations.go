package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// predicates are the types of attestations that go with an image.
var predicates = [...]string{image.PredicateSLSA}

// ErrNoReferrer is returned where nothing that a trusted key signed says of an
// image what was asked for.
var ErrNoReferrer = errors.New("nothing signed by a trusted key refers to the image")

// Attestation is a statement about an image, signed by a trusted key.
type Attestation struct {
	image.Attestation
	Digest string // of the manifest that refers to the image
}

// FindAttestation returns what the keys that the image was checked with attest of
// it, with a predicate of a type. The error is ErrNoReferrer where they attest
// nothing; of several statements, the one counts whose bytes come first.
func FindAttestation(ctx context.Context, img *Published, predicateType string) (*Attestation, error) {
	list, err := attestations(ctx, img.From, img.Digest, predicateType)
	if err != nil {
		return nil, err
	}
	problem := fmt.Errorf("looking for an attestation of %s: %w", img, ErrNoReferrer)
	for _, b := range list {
		a, err := image.VerifyAttestation(b.signed, img.Digest, predicateType, img.trusted)
		if err == nil {
			return &Attestation{a, image.DigestOf(b.manifest)}, nil
		}
		problem = fmt.Errorf("verifying an attestation of %s: %w: %w", img, ErrNoReferrer, err)
	}
	return nil, problem
}

// attestations returns the attestations among what refers to a digest, whoever
// signed them, maxReferrers at most, in the order of their bytes. What a registry
// lists that does not attest, or is not there, is passed over.
func attestations(ctx context.Context, p Place, digest, predicateType string) ([]bundle, error) {
	list, err := p.Referrers(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("looking for attestations of %s: %w", digest, err)
	}
	var found []bundle
	looked := 0
	for _, d := range list[:min(len(list), maxListed)] {
		if !image.MayAttest(d, predicateType) {
			continue
		}
		if looked++; looked > maxReferrers {
			break
		}
		b, err := readAttestation(ctx, p, d.Digest, digest)
		if errors.Is(err, image.ErrBundle) || errors.Is(err, fs.ErrNotExist) || err == nil && b.signed.Attests() != predicateType {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading an attestation of %s: %w", digest, err)
		}
		found = append(found, b)
	}
	slices.SortFunc(found, func(a, b bundle) int {
		return bytes.Compare(append(a.signed.Payload, a.signed.Signature...), append(b.signed.Payload, b.signed.Signature...))
	})
	return found, nil
}

func readAttestation(ctx context.Context, p Place, digest, subject string) (bundle, error) {
	_, m, err := readManifest(ctx, p, digest)
	if err != nil {
		return bundle{}, err
	}
	d, err := image.AttestationIn(m, subject)
	if err != nil {
		return bundle{}, err
	}
	b := bundle{manifest: m}
	if b.text, err = readAll(newReader(ctx, p, d.Digest, d.Size)); err != nil {
		return b, err
	}
	b.signed, err = image.DecodeAttestation(b.text)
	return b, err
}

// newAttestation makes the bundle of an attestation of what subject describes. key
// is the one that signed.
func newAttestation(s image.Signed, subject image.Descriptor, key *ecdsa.PublicKey) (bundle, error) {
	b := bundle{signed: s}
	var err error
	if b.text, err = image.EncodeBundle(s, key); err != nil {
		return b, err
	}
	b.manifest, _, err = image.EncodeAttestationManifest(b.text, s.Attests(), subject)
	return b, err
}

// attested returns the attestations that go with an image: those that a key made
// which the image was checked with, and the same ones by another key, unless it is
// nil. Everything else a registry may make up.
func (img *Published) attested(ctx context.Context, key *ecdsa.PrivateKey) ([]bundle, error) {
	var all []bundle
	for _, predicateType := range predicates {
		list, err := attestations(ctx, img.From, img.Digest, predicateType)
		if err != nil {
			return nil, err
		}
		for _, b := range list {
			if _, err := image.VerifyAttestation(b.signed, img.Digest, predicateType, img.trusted); err != nil {
				continue
			}
			all = appendBundle(all, b)
			if key == nil {
				continue
			}
			s, err := b.signed.Resign(key)
			if err != nil {
				return nil, err
			}
			own, err := newAttestation(s, image.Describe(img.Signature.Manifest), &key.PublicKey)
			if err != nil {
				return nil, err
			}
			all = appendBundle(all, own)
		}
	}
	return all, nil
}

// appendBundle adds a bundle, unless its signature is there.
func appendBundle(list []bundle, b bundle) []bundle {
	for _, old := range list {
		if bytes.Equal(old.signed.Payload, b.signed.Payload) && bytes.Equal(old.signed.Signature, b.signed.Signature) {
			return list
		}
	}
	return append(list, b)
}

// putAttestations stores attestations, and returns what the place has to list for
// them. A registry that refuses the type of bundles has none.
func putAttestations(ctx context.Context, to Target, list []bundle) ([]image.Descriptor, error) {
	var listed []image.Descriptor
	for _, b := range list {
		if r, ok := to.(*Remote); ok && r.RefusesBundles() != nil {
			return listed, nil
		}
		if err := putBundle(ctx, to, b); toleratesBundles(to, err) {
			return listed, nil
		} else if err != nil {
			return nil, fmt.Errorf("writing an attestation: %w", err)
		}
		listed = append(listed, referrerOf(b.manifest))
	}
	return listed, nil
}
