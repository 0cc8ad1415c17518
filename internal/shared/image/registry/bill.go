package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// MaxBill bounds a bill of materials, in bytes. One of 400 things has 400,000.
const MaxBill = 32 << 20

// Bill is a bill of materials, signed by a trusted key.
type Bill struct {
	Document []byte // SPDX 2.3, JSON
	Digest   string // of the manifest that refers to the image, which is signed
}

// FindBill returns the bill of materials of an image that a key signed which the
// image was checked with. Its bytes have the digest that was signed. The error is
// ErrNoReferrer where there is none.
func FindBill(ctx context.Context, img *Published) (*Bill, error) {
	list, err := img.From.Referrers(ctx, img.Digest)
	if err != nil {
		return nil, fmt.Errorf("looking for the bill of materials of %s: %w", img, err)
	}
	looked := 0
	for _, d := range list[:min(len(list), maxListed)] {
		if !image.MayBeType(d, image.MediaSPDX) {
			continue
		}
		if looked++; looked > maxReferrers {
			break
		}
		b, err := readBill(ctx, img, d.Digest)
		if errors.Is(err, errNoReferrer) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return b, err
	}
	return nil, fmt.Errorf("looking for the bill of materials of %s: %w", img, ErrNoReferrer)
}

// readBill reads a bill of materials by its manifest's digest. The error is
// errNoReferrer for what is none of the image, or is not signed.
func readBill(ctx context.Context, img *Published, digest string) (*Bill, error) {
	text, err := readReferrer(ctx, img.From, digest, img.Digest)
	if err != nil {
		return nil, err
	}
	m, err := image.DecodeOCI(text)
	if err != nil {
		return nil, err
	}
	if m.ArtifactType != image.MediaSPDX || len(m.Layers) != 1 || m.Layers[0].MediaType != image.MediaSPDX {
		return nil, fmt.Errorf("reading %s: %w", digest, errNoReferrer)
	}
	signed, err := isSigned(ctx, img.From, digest, img.trusted)
	if err != nil {
		return nil, err
	}
	if !signed {
		return nil, fmt.Errorf("reading %s: %w: no trusted key signed it", digest, errNoReferrer)
	}
	d := m.Layers[0]
	if d.Size > MaxBill {
		return nil, fmt.Errorf("reading the bill of materials of %s: %d bytes, more than %d", img, d.Size, MaxBill)
	}
	b, err := readAll(newReader(ctx, img.From, d.Digest, d.Size))
	if err != nil {
		return nil, fmt.Errorf("reading the bill of materials of %s: %w", img, err)
	}
	return &Bill{Document: b, Digest: digest}, nil
}
