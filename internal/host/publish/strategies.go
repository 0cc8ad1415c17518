package publish

import (
	"context"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// Strategy is one method by which a node obtains an image.
type Strategy struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes"`   // that the node downloads
	Seconds float64 `json:"seconds"` // about how long that takes, before anything is written
}

// packRate is an estimate of how fast a Pi 4 compresses, in bytes a second: a
// fifth of a core of a desktop computer. Nodes measure their own rate.
const packRate = 25e6

// Strategies lists how a node that runs image a obtains image b, in the order
// that the node tries them. whole is the size of the files of b that a does not
// have, and ref is where b was opened.
func Strategies(ctx context.Context, a, b *inspect.Slot, whole int64, ref string, o registry.Options) []Strategy {
	if whole == 0 {
		return []Strategy{{Name: "nothing: it has all of it"}}
	}
	var list []Strategy
	if p := publishedPatch(ctx, a, b, ref, o); p != nil {
		list = append(list, Strategy{patch.ByPatch, p.Blob.Size, float64(p.Blob.Size)/patch.LinkRate + float64(p.Work)/packRate})
	}
	was, _ := a.Manifest.File(image.RootFile)
	if is, _ := b.Manifest.File(image.RootFile); was.Digest != is.Digest {
		if n, err := inspect.FetchByFiles(ctx, a, b); err == nil { // on an error the strategy does not apply
			list = append(list, Strategy{patch.ByFiles, n, float64(n) / patch.LinkRate})
		}
	}
	return append(list, Strategy{patch.ByImage, whole, float64(whole) / patch.LinkRate})
}

// publishedPatch returns the patch from a to b that is published beside b; nil
// where there is none that a node of a would accept.
func publishedPatch(ctx context.Context, a, b *inspect.Slot, ref string, o registry.Options) *registry.Patch {
	place, tag, err := registry.Locate(ref, o)
	if err != nil { // a card, or a disk image
		return nil
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Arch: Arch, OwnKeys: inspect.Keys})
	if err != nil || img.Digest != b.Digest {
		return nil
	}
	p, err := registry.FindPatch(ctx, img, a.Digest, a.Keys)
	if err != nil {
		return nil
	}
	return p
}
