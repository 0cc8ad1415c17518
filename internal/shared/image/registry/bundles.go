package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// bundle is a signature in cosign 3's form: the bundle, and the manifest that
// refers to what was signed.
type bundle struct {
	manifest []byte
	text     []byte
	signed   image.Signed
}

// newBundle makes the bundle of a signature of what subject describes. key is the
// one that signed.
func newBundle(s image.Signed, subject image.Descriptor, key *ecdsa.PublicKey) (bundle, error) {
	b := bundle{signed: s}
	var err error
	if b.text, err = image.EncodeBundle(s, key); err != nil {
		return b, err
	}
	b.manifest, _, err = image.EncodeBundleManifest(b.text, subject)
	return b, err
}

// bundles returns the bundles among what refers to a digest, image.MaxSignatures
// at most. What a registry lists that is no bundle about the digest, or that is
// not there, is passed over: it signs nothing.
func bundles(ctx context.Context, p Place, digest string) ([]bundle, error) {
	list, err := p.Referrers(ctx, digest)
	if err != nil {
		return nil, fmt.Errorf("looking for bundles of signatures of %s: %w", digest, err)
	}
	var found []bundle
	read := 0
	for _, d := range list[:min(len(list), maxListed)] {
		if !image.MayBeSignature(d) {
			continue
		}
		if read++; read > image.MaxSignatures {
			break
		}
		b, err := readBundle(ctx, p, d.Digest, digest)
		if errors.Is(err, image.ErrBundle) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, fmt.Errorf("reading a bundle of a signature of %s: %w", digest, err)
		}
		found = append(found, b)
	}
	// In one order, whatever a registry lists them in: a slot holds them.
	slices.SortFunc(found, func(a, b bundle) int { return bytes.Compare(a.signed.Signature, b.signed.Signature) })
	return found, nil
}

// readBundle reads a bundle by its manifest's digest. The error is image.ErrBundle
// for what is no bundle about subject.
func readBundle(ctx context.Context, p Place, digest, subject string) (bundle, error) {
	_, m, err := readManifest(ctx, p, digest)
	if err != nil {
		return bundle{}, err
	}
	d, err := image.BundleIn(m, subject)
	if err != nil {
		return bundle{}, err
	}
	b := bundle{manifest: m}
	if b.text, err = readAll(newReader(ctx, p, d.Digest, d.Size)); err != nil {
		return b, err
	}
	b.signed, err = image.DecodeBundle(b.text)
	if err == nil && b.signed.Attests() != "" { // which signs nothing, and would be in every slot
		err = fmt.Errorf("%w: it holds an attestation", image.ErrBundle)
	}
	return b, err
}

// addBundles adds bundles about a digest to those a place has, and returns what
// the place has to list for them. A registry that refuses their type keeps the
// classic form alone, which Remote.RefusesBundles tells.
func addBundles(ctx context.Context, to Target, digest string, list []bundle) ([]image.Descriptor, error) {
	there, err := bundles(ctx, to, digest)
	if err != nil && !errors.Is(err, errUnknownReferrers) {
		return nil, err
	}
	var have []image.Signed
	var listed []image.Descriptor
	for _, b := range there {
		have = append(have, b.signed)
		listed = append(listed, referrerOf(b.manifest))
	}
	for _, b := range list {
		if r, ok := to.(*Remote); ok && r.RefusesBundles() != nil {
			return listed, nil
		}
		all := image.Join(have, []image.Signed{b.signed})
		if len(all) == len(have) {
			continue
		}
		have = all
		if err := putBundle(ctx, to, b); toleratesBundles(to, err) {
			return listed, nil
		} else if err != nil {
			return nil, fmt.Errorf("writing a bundle of a signature of %s: %w", digest, err)
		}
		listed = append(listed, referrerOf(b.manifest))
	}
	return listed, nil
}

func putBundle(ctx context.Context, to Target, b bundle) error {
	for _, blob := range [][]byte{b.text, []byte(image.EmptyConfig)} {
		if err := putBytes(ctx, to, blob); err != nil {
			return err
		}
	}
	return to.PutManifest(ctx, "", image.Describe(b.manifest), b.manifest)
}

// putBytes stores a blob that is in memory.
func putBytes(ctx context.Context, to Target, b []byte) error {
	d := image.Descriptor{MediaType: "application/octet-stream", Digest: image.DigestOf(b), Size: int64(len(b))}
	return to.PutBlob(ctx, d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}
