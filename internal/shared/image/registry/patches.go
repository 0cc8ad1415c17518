package registry

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"

	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Patch is a patch that makes an image, signed by a trusted key.
type Patch struct {
	image.Patch
	from Place
}

// Open opens the patch. Its last byte is followed by io.EOF only if all of them
// have the digest that was signed.
func (p *Patch) Open(ctx context.Context) io.ReadCloser {
	return newReader(ctx, p.from, p.Blob.Digest, p.Blob.Size)
}

// FindPatch returns the patch that makes an image of the one whose OCI manifest
// has a digest; nil where there is none that one of the keys signed. Nothing but
// its manifest is read before that holds.
func FindPatch(ctx context.Context, img *Published, from string, keys []*ecdsa.PublicKey) (*Patch, error) {
	list, err := img.From.Referrers(ctx, img.Digest)
	if err != nil {
		return nil, fmt.Errorf("looking for patches of %s: %w", img, err)
	}
	looked := 0
	for _, d := range list[:min(len(list), maxListed)] {
		if !image.MayBeType(d, image.MediaPatch) || !image.MayBeFor(d, from) {
			continue
		}
		if looked++; looked > maxReferrers {
			break
		}
		d, b, err := readManifest(ctx, img.From, d.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			continue // listed, and not there
		}
		if err != nil {
			return nil, err
		}
		p, err := image.DecodePatch(b)
		if err != nil || p.From != from || p.Subject != img.Digest {
			continue
		}
		signed, err := isSigned(ctx, img.From, d.Digest, keys)
		if err != nil {
			return nil, err
		}
		if signed {
			return &Patch{p, img.From}, nil
		}
	}
	return nil, nil
}

// AddPatch puts a patch beside the image that it makes, then its signatures, as
// some registries refuse one of a manifest they do not have, and has it listed
// when they are there. A registry is read back, as Copy does.
func AddPatch(
	ctx context.Context, to Target, img *Published, p image.Patch, open func() (io.ReadCloser, error), key *ecdsa.PrivateKey,
) error {
	manifest, config, err := image.EncodePatch(p, image.Describe(img.Signature.Manifest))
	if err != nil {
		return err
	}
	if err := to.PutBlob(ctx, p.Blob, open); err != nil {
		return err
	}
	if err := putBytes(ctx, to, config); err != nil {
		return err
	}
	d := image.Describe(manifest)
	if err := to.PutManifest(ctx, "", d, manifest); err != nil {
		return err
	}
	w, err := addBoth(ctx, to, d, key)
	if err != nil {
		return err
	}
	w.blobs = []image.Descriptor{p.Blob}
	listed := []image.Descriptor{referrerOf(manifest)}
	if err := to.PutReferrers(ctx, img.Digest, listed); err != nil {
		return err
	}
	return readBack(ctx, to, []written{w, {digest: img.Digest, listed: listed}})
}

// Previous returns the latest releases below an image's that a repository has of
// its stream, at most n, the latest first. What is of another stream or damaged
// is left out, and logged.
func Previous(
	ctx context.Context, at *Remote, img *Published, n int, keys []*ecdsa.PublicKey, log *slog.Logger,
) ([]*Published, error) {
	tags, err := at.Tags(ctx)
	if err != nil {
		return nil, err
	}
	tags = slices.DeleteFunc(tags, func(t string) bool {
		return !releaseForm.MatchString(t) || image.CompareReleases(t, img.Release) >= 0
	})
	slices.SortFunc(tags, func(a, b string) int { return image.CompareReleases(b, a) })
	var list []*Published
	for _, tag := range tags {
		if len(list) == n {
			break
		}
		old, err := Open(ctx, at, tag, Want{Keys: keys, Arch: img.Arch, Stream: img.Stream})
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			log.Warn("no patch for an earlier release", "release", tag, "err", err)
			continue
		}
		list = append(list, old)
	}
	return list, nil
}

// Tags lists the tags of a repository; none where it is not there yet.
func (r *Remote) Tags(ctx context.Context) ([]string, error) {
	options, err := r.pushOptions(ctx)
	if err != nil {
		return nil, err
	}
	p, err := remote.NewPuller(options...)
	if err != nil {
		return nil, r.explain(err)
	}
	pages, err := p.Lister(ctx, r.repo)
	if err != nil {
		return nil, r.explain(err)
	}
	var tags []string
	for range maxTagPages {
		if !pages.HasNext() {
			return tags, nil
		}
		page, err := pages.Next(ctx)
		if err != nil {
			return nil, r.explain(err)
		}
		if tags = append(tags, page.Tags...); len(tags) > maxTags {
			break
		}
	}
	return nil, fmt.Errorf("listing the tags of %s: more than %d tags, or more than %d pages of them", r, maxTags, maxTagPages)
}

// Bounds on the tags of a repository: every page may name another one.
const (
	maxTags     = 100_000
	maxTagPages = 200
)
