package cli

import (
	"context"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// way is how a node may come by an image.
type way struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes"`   // that it downloads
	Seconds float64 `json:"seconds"` // before it is written, about
}

// packRate is what an estimate takes a Pi 4 for: it packs 25 MB a second, a
// fifth of what a desk's core does. That is a guess; nodes measure what they can
// do themselves.
const packRate = 25e6

// ways lists how a node that runs a comes by b, in the order that it tries them.
// whole is what the files of b's slot have that a's has not.
func ways(ctx context.Context, a, b *inspect.Slot, whole int64, o placeOptions, ref string) ([]way, error) {
	if whole == 0 {
		return []way{{Name: "nothing: it has all of it"}}, nil
	}
	var list []way
	if p := publishedPatch(ctx, a, b, o, ref); p != nil {
		list = append(list, way{patch.ByPatch, p.Blob.Size, float64(p.Blob.Size)/patch.LinkRate + float64(p.Work)/packRate})
	}
	was, _ := a.Manifest.File(image.RootFile)
	if is, _ := b.Manifest.File(image.RootFile); was.Digest != is.Digest {
		if n, err := inspect.FetchByFiles(ctx, a, b); err == nil { // where not, it is no way
			list = append(list, way{patch.ByFiles, n, float64(n) / patch.LinkRate})
		}
	}
	return append(list, way{patch.ByImage, whole, float64(whole) / patch.LinkRate}), nil
}

// publishedPatch returns the patch that is published beside b, for a; nil where
// there is none that a node of a would take.
func publishedPatch(ctx context.Context, a, b *inspect.Slot, o placeOptions, ref string) *registry.Patch {
	options, err := o.registry()
	if err != nil {
		return nil
	}
	place, tag, err := registry.Locate(ref, options)
	if err != nil { // a card, or a disk image
		return nil
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Arch: arch, OwnKeys: inspect.Keys})
	if err != nil || img.Digest != b.Digest {
		return nil
	}
	p, err := registry.FindPatch(ctx, img, a.Digest, a.Keys)
	if err != nil {
		return nil
	}
	return p
}
