package publish

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// MaxPatches is the highest number of patches of an image: a registry lists and
// copies what refers to an image as a whole.
const MaxPatches = 20

// patchMemory is about how much memory making patches may take, in bytes. A
// program of 120 MB takes most of it; a larger one is patched all the same.
const patchMemory = 3 << 30

var (
	errUntrusted = errors.New("nodes of the earlier release do not trust the signing key")
	errTooLarge  = errors.New("the patch is not smaller than the image")
)

// Patch reports on the patch for one earlier release.
type Patch struct {
	From    string `json:"from"`  // the release that the patch applies to
	Bytes   int64  `json:"bytes"` // of the patch; 0 where there is none
	Whole   int64  `json:"whole"` // of the image
	Problem string `json:"problem,omitempty"`
}

// patches makes a patch for each of the releases before an image that a
// repository has, and puts them beside the image. An image that no patch can be
// made for is logged; it does not keep an image from being published. One that
// the registry does not give back does (registry.ErrIncomplete). noKey reports that
// there is no key to sign patches with.
func patches(ctx context.Context, to *registry.Remote, img *registry.Published, o Options) (list []Patch, noKey bool, err error) {
	if o.Patches == 0 {
		return nil, false, nil
	}
	keys, err := trustedBy(ctx, img)
	if err != nil {
		return nil, false, err
	}
	key := o.Key
	if key == nil {
		if key = o.PatchKey; key == nil || !contains(keys, key) {
			return nil, true, nil
		}
	}
	previous, err := registry.Previous(ctx, to, img, o.Patches, keys, o.Log)
	if err != nil {
		return nil, false, fmt.Errorf("looking up the releases before %s: %w", img.Release, err)
	}
	for _, old := range previous {
		p := Patch{From: old.Release, Whole: img.Size()}
		size, err := publishPatch(ctx, to, img, old, key, o)
		switch {
		case ctx.Err() != nil, errors.Is(err, registry.ErrIncomplete):
			return list, false, err
		case err != nil:
			p.Problem = err.Error()
			attrs := []any{"release", old.Release, "err", err}
			if advice := hint.Of(err); len(advice) > 0 {
				attrs = append(attrs, "hint", strings.Join(advice, "; "))
			}
			o.Log.Warn("no patch for an earlier release", attrs...)
		default:
			p.Bytes = size
			o.Log.Info("published a patch", "from", old.Release, "bytes", size, "whole", p.Whole)
		}
		list = append(list, p)
	}
	return list, false, nil
}

// publishPatch makes the patch for one release, unless the repository has it,
// and returns its size in bytes.
func publishPatch(ctx context.Context, to *registry.Remote, img, old *registry.Published, key *ecdsa.PrivateKey, o Options) (int64, error) {
	keys, err := trustedBy(ctx, old)
	if err != nil {
		return 0, err
	}
	if !contains(keys, key) {
		return 0, errUntrusted
	}
	there := *img
	there.From = to
	if p, err := registry.FindPatch(ctx, &there, old.Digest, keys); err != nil || p != nil {
		if p == nil {
			return 0, err
		}
		return p.Blob.Size, nil
	}
	dir, err := os.MkdirTemp("", "pikelet-patch-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	f, stats, err := makePatch(ctx, img, old, dir, o)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, stats.Bytes)); err != nil {
		return 0, err
	}
	blob := image.Descriptor{Digest: image.DigestOfSum(sum.Sum(nil)), Size: stats.Bytes}
	p := image.Patch{From: old.Digest, Release: old.Release, Work: stats.Work, Blob: blob}
	return stats.Bytes, registry.AddPatch(ctx, to, img, p, func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(f, 0, stats.Bytes)), nil
	}, key)
}

// makePatch makes a patch in a directory, applies it, and compares the result
// with the digests of the manifest.
func makePatch(ctx context.Context, img, old *registry.Published, dir string, o Options) (*os.File, patch.Stats, error) {
	a, err := patch.Local(ctx, old.Image, img.Manifest, filepath.Join(dir, "old"))
	if err != nil {
		return nil, patch.Stats{}, err
	}
	b, err := patch.Local(ctx, img.Image, old.Manifest, filepath.Join(dir, "new"))
	if err != nil {
		return nil, patch.Stats{}, err
	}
	f, err := os.Create(filepath.Join(dir, "patch"))
	if err != nil {
		return nil, patch.Stats{}, err
	}
	progress, end := o.Meter("making a patch for "+old.Release, img.Size())
	options := patch.Options{Workers: o.Workers, Memory: patchMemory, Progress: progress, In: onEverySlot}
	stats, err := patch.Make(ctx, f, a, b, options)
	end()
	if err == nil {
		if err = patch.Try(ctx, f, stats.Bytes, a, img.Manifest, dir); err != nil {
			err = fmt.Errorf("applying the patch: %w", err)
		}
	}
	if err == nil && stats.Bytes >= img.Size() {
		err = errTooLarge
	}
	if err != nil {
		f.Close()
		return nil, stats, err
	}
	return f, stats, nil
}

// onEverySlot reports whether both slots have a file of an image under its own
// name.
func onEverySlot(name string) bool {
	for _, l := range []slots.Letter{slots.A, slots.B} {
		if on, ok := l.OnSlot(name); !ok || on != name {
			return false
		}
	}
	return true
}
