package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// patchMemory is what making patches may take, bytes, about: one of a program of
// 120 MB takes most of it, and is made all the same where it takes more.
const patchMemory = 3 << 30

// published says what became of the patches of a release.
type published struct {
	From    string `json:"from"`  // the release it is for
	Bytes   int64  `json:"bytes"` // 0: there is none
	Whole   int64  `json:"whole"` // bytes of the image
	Problem string `json:"problem,omitempty"`
}

// publishPatches makes a patch for each of the n releases before an image that a
// repository has, and puts them beside the image. An image that no patch can be
// made for is told; it is no reason not to publish.
func publishPatches(ctx context.Context, to *registry.Remote, img *registry.Published, n int, key *ecdsa.PrivateKey, say *teller) ([]published, error) {
	if n == 0 {
		return nil, nil
	}
	keys, err := keysOf(ctx, img)
	if err != nil {
		return nil, err
	}
	if key == nil {
		if key = developmentSigner(); key == nil || !holds(keys, key) {
			say.warning("no patches were made: nodes want them signed; say --sign KEY, with one of the keys of your image spec, or --from 0 for none")
			return nil, nil
		}
	}
	previous, err := registry.Previous(ctx, to, img, n, keys, func(why string) { say.warning("no patch for it: " + why) })
	if err != nil {
		return nil, fmt.Errorf("looking for the releases before %s: %w", img.Release, err)
	}
	var list []published
	for _, old := range previous {
		p := published{From: old.Release, Whole: size(img.Manifest)}
		stats, err := publishPatch(ctx, to, img, old, key, say)
		switch {
		case ctx.Err() != nil:
			return list, err
		case err != nil:
			p.Problem = err.Error()
			say.warning(fmt.Sprintf("no patch for release %s: %v", old.Release, err))
		default:
			p.Bytes = stats
			say.line(fmt.Sprintf("a patch for release %s: %.2f MB instead of %.2f", old.Release, float64(stats)/1e6, float64(p.Whole)/1e6))
		}
		list = append(list, p)
	}
	return list, nil
}

func holds(keys []*ecdsa.PublicKey, key *ecdsa.PrivateKey) bool {
	return slices.ContainsFunc(keys, func(k *ecdsa.PublicKey) bool { return k.Equal(&key.PublicKey) })
}

// developmentSigner returns the development key; nil where there is none yet.
func developmentSigner() *ecdsa.PrivateKey {
	name, err := developmentKey()
	if err != nil {
		return nil
	}
	if _, err := os.Stat(name); err != nil {
		return nil
	}
	key, err := readKey(name)
	if err != nil {
		return nil
	}
	return key
}

// keysOf returns the keys that an image trusts.
func keysOf(ctx context.Context, img *registry.Published) ([]*ecdsa.PublicKey, error) {
	r, err := img.Open(ctx, image.InitramfsFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return inspect.Keys(b), err
}

// publishPatch makes the patch for one release, unless it is there, and returns
// how large it is.
func publishPatch(ctx context.Context, to *registry.Remote, img, old *registry.Published, key *ecdsa.PrivateKey, say *teller) (int64, error) {
	keys, err := keysOf(ctx, old)
	if err != nil {
		return 0, err
	}
	if !holds(keys, key) {
		return 0, errors.New("its nodes do not trust the key that would sign it")
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
	f, stats, err := makePatch(ctx, img, old, dir, say)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, stats.Bytes)); err != nil {
		return 0, err
	}
	p := image.Patch{From: old.Digest, Release: old.Release, Work: stats.Work, Blob: image.Descriptor{Digest: fmt.Sprintf("sha256:%x", sum.Sum(nil)), Size: stats.Bytes}}
	return stats.Bytes, registry.AddPatch(ctx, to, img, p, func() (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(f, 0, stats.Bytes)), nil
	}, key)
}

// makePatch makes a patch in a folder, and tries it: what it makes are the very
// bytes that were signed.
func makePatch(ctx context.Context, img, old *registry.Published, dir string, say *teller) (*os.File, patch.Stats, error) {
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
	tell, end := meter(say, "making a patch for "+old.Release, size(img.Manifest))
	stats, err := patch.Make(ctx, f, a, b, patch.Options{Workers: runtime.GOMAXPROCS(0), Memory: patchMemory, Tell: tell, In: onEverySlot})
	end()
	if err == nil {
		if err = patch.Try(ctx, f, stats.Bytes, a, img.Manifest, dir); err != nil {
			err = fmt.Errorf("trying it: %w", err)
		}
	}
	if err == nil && stats.Bytes >= size(img.Manifest) {
		err = fmt.Errorf("it would be larger than the image")
	}
	if err != nil {
		f.Close()
		return nil, stats, err
	}
	return f, stats, nil
}

// onEverySlot says whether slot a and slot b both have a file of an image under
// its own name.
func onEverySlot(name string) bool {
	for _, l := range []slots.Letter{slots.A, slots.B} {
		if on, ok := l.OnSlot(name); !ok || on != name {
			return false
		}
	}
	return true
}
