// Package imagecache keeps images from registries in the cache of builds, so
// that flashing several cards, and a boot server that starts again, download an
// image once.
package imagecache

import (
	"context"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// Kept is an image in the cache.
type Kept struct {
	*registry.Published
	Layout string // the directory with its OCI layout

	release func()
}

// Release lets the cache be pruned again. The image must not be read after it.
func (k *Kept) Release() { k.release() }

// Keep copies an image into the cache; what the cache has already is checked,
// not copied again. Two callers that keep the same image at the same time share
// one copy. Nothing in the cache is pruned until the returned image is released.
func Keep(ctx context.Context, c *cache.Cache, img *registry.Published, progress registry.Progress) (*Kept, error) {
	release := c.Hold()
	unlock, err := c.Own(cache.Images, img.Digest)
	if err != nil {
		release()
		return nil, err
	}
	layout := Path(c, img.Digest)
	kept, err := registry.Keep(ctx, img, layout, progress)
	unlock()
	if err != nil {
		release()
		return nil, err
	}
	return &Kept{kept, layout, release}, nil
}

// Path returns the directory where the cache keeps the image with an OCI
// manifest digest, whether or not the image is there.
func Path(c *cache.Cache, digest string) string { return c.Path(cache.Images, digest) }
