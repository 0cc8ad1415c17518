package patch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Local returns an image of which those files can be read anywhere that a patch
// between it and another one is made of: the image itself where its place lets
// that be done, or one whose source is a directory, into which the files were
// copied and checked.
func Local(ctx context.Context, img image.Image, other *image.Manifest, dir string) (image.Image, error) {
	local := image.Blobs(dir)
	copied := false
	for _, f := range img.Files {
		if same, ok := other.File(f.Name); ok && same.Digest == f.Digest {
			continue
		}
		r, err := img.Source.OpenAt(f)
		if err == nil {
			r.Close()
			continue
		}
		if !errors.Is(err, errors.ErrUnsupported) {
			return img, err
		}
		if err := copyFile(ctx, img, f, local); err != nil {
			return img, fmt.Errorf("copying %s: %w", f.Name, err)
		}
		copied = true
	}
	if copied {
		img.Source = local
	}
	return img, nil
}

func copyFile(ctx context.Context, img image.Image, f image.File, to image.Blobs) error {
	if err := os.MkdirAll(string(to), 0o700); err != nil {
		return err
	}
	r, err := img.Open(ctx, f.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(to.Path(f.Digest))
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}
