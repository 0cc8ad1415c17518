// Package library decides which images a boot server serves: the image that each
// reference names, the images that it may name next, and the last one it named,
// which is served while the registry is unavailable.
package library

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/host/imagecache"
	"github.com/pikelet-os/pikelet/internal/host/publish"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// Library brings images into the cache for a boot server, and keeps them there
// until it is closed. Its methods are not for concurrent use.
type Library struct {
	Open   func(ctx context.Context, ref string) (*registry.Published, error) // checks the image's chain
	Cache  *cache.Cache
	Images *bootserver.Images // what is served
	// Keys returns the keys whose statements let a channel go back.
	Keys func() ([]*ecdsa.PublicKey, error)
	// Memory is the file that tells, across restarts, what each reference named
	// last.
	Memory string
	Meter  publish.Meter
	Log    *slog.Logger

	last map[string]served // what Memory holds
	held []*imagecache.Kept
}

var (
	// ErrOtherStream is returned for a reference that names an image of another
	// stream than before.
	ErrOtherStream = errors.New("reference names another stream")
	// ErrOlderRelease is returned for a reference that names a lower release
	// than before, without a signed statement that allows it.
	ErrOlderRelease = errors.New("reference names an older release")
)

// served is the image that a reference named last.
type served struct {
	Digest  string `yaml:"digest"`
	Stream  string `yaml:"stream,omitempty"`
	Release string `yaml:"release,omitempty"`
}

// UnmarshalYAML also reads a digest alone, which is what was written before
// releases were recorded.
func (s *served) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&s.Digest)
	}
	type plain served
	return n.Decode((*plain)(s))
}

// Start loads what the references name. Of a reference that cannot be loaded it
// serves, from the cache, what the reference named last: when power comes back,
// the registry may be on a node that boots from here. Only the first reference
// must be available in one of the two ways.
func (l *Library) Start(ctx context.Context, first string, references []string) error {
	if err := l.remember(); err != nil {
		return err
	}
	for _, ref := range references {
		l.learn(ctx, ref)
		img, err := l.fetch(ctx, ref)
		if err != nil && l.last[ref].Digest != "" && ctx.Err() == nil {
			var again error
			if img, again = l.cached(ctx, l.last[ref].Digest); again == nil {
				l.Log.Warn("serving the last image of a reference that cannot be loaded",
					"reference", ref, "stream", img.Stream, "release", img.Release, "err", err)
				err = nil
			}
		}
		if err != nil && ref == first {
			return err
		}
		if err != nil {
			l.Log.Warn("nodes of a reference cannot start until it can be loaded", "reference", ref, "err", err)
			continue
		}
		if err := l.set(ref, img); err != nil {
			return err
		}
	}
	return nil
}

// cached returns an image of the cache.
func (l *Library) cached(ctx context.Context, digest string) (*image.Image, error) {
	img, err := l.Open(ctx, imagecache.Path(l.Cache, digest))
	if err != nil {
		return nil, err
	}
	return l.keep(ctx, img)
}

// remember reads what each reference named last.
func (l *Library) remember() error {
	b, err := os.ReadFile(l.Memory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := yaml.Unmarshal(b, &l.last); err != nil {
		return hint.With(fmt.Errorf("reading %s: %w", l.Memory, err), "correct the file, or remove it")
	}
	if l.last == nil {
		l.last = map[string]served{}
	}
	return nil
}

// learn finds out which release a reference named last, where only its digest
// was recorded and the cache still has it.
func (l *Library) learn(ctx context.Context, ref string) {
	was := l.last[ref]
	if was.Digest == "" || was.Release != "" {
		return
	}
	if img, err := l.Open(ctx, imagecache.Path(l.Cache, was.Digest)); err == nil && img.Digest == was.Digest {
		l.last[ref] = served{Digest: was.Digest, Stream: img.Stream, Release: img.Release}
	}
}

// set makes an image the one that a reference names, and records that before any
// node is served the image: only what is recorded protects nodes from an older
// release after a restart. The records of other references stay.
func (l *Library) set(ref string, img *image.Image) error {
	last := maps.Clone(l.last)
	last[ref] = served{Digest: img.Digest, Stream: img.Stream, Release: img.Release}
	b, err := yaml.Marshal(last)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.Memory), 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(l.Memory, b, 0o644); err != nil {
		return err
	}
	l.last = last
	l.Images.Set(ref, img)
	return nil
}

// Close lets the cache be pruned of the images.
func (l *Library) Close() {
	for _, k := range l.held {
		k.Release()
	}
}

// fetch loads the image that a reference names. An image that the reference may
// not name next is refused before anything of it is copied.
func (l *Library) fetch(ctx context.Context, ref string) (*image.Image, error) {
	img, err := l.Open(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := l.follows(ref, img); err != nil {
		return nil, err
	}
	return l.keep(ctx, img)
}

// follows returns an error where a reference may not name an image after the one
// that it named last. A boot server follows the rule of nodes: never another
// stream, and a lower release only with a signed statement that this very
// channel may go back to it from there. Its errors are ErrOtherStream and
// ErrOlderRelease.
func (l *Library) follows(ref string, img *registry.Published) error {
	was := l.last[ref]
	switch {
	case was.Digest == "" || was.Digest == img.Digest:
		return nil
	case was.Stream != "" && img.Stream != was.Stream:
		err := fmt.Errorf("%s: %w: got %q, want %q", ref, ErrOtherStream, img.Stream, was.Stream)
		return hint.Withf(err, "serve another reference, or remove the entry of this one from %s", l.Memory)
	case was.Release == "" || image.CompareReleases(img.Release, was.Release) >= 0:
		return nil
	}
	keys, err := l.Keys()
	if err != nil {
		return err
	}
	if image.AllowsDowngrade(img.Digest, img.Signature.Signatures, keys, channelOf(ref), was.Release) {
		return nil
	}
	err = fmt.Errorf("%s: %w: %s is older than %s, which was served last", ref, ErrOlderRelease, img.Release, was.Release)
	return hint.With(err, "promote the release with a signed downgrade statement, or serve a reference to the release itself")
}

// channelOf returns the tag of a registry's reference; "" for a digest, a
// directory or a file, none of which a statement can name.
func channelOf(ref string) string {
	if !registry.IsReference(ref) {
		return ""
	}
	if _, err := os.Stat(ref); err == nil {
		return ""
	}
	t, err := name.NewTag(ref, name.WithDefaultTag(""))
	if err != nil {
		return ""
	}
	return t.TagStr()
}

func (l *Library) keep(ctx context.Context, img *registry.Published) (*image.Image, error) {
	progress, end := l.Meter("pulling", img.Size())
	kept, err := imagecache.Keep(ctx, l.Cache, img, progress)
	end()
	if err != nil {
		return nil, err
	}
	l.held = append(l.held, kept)
	return &kept.Image, nil
}

// AddHealthy adds the images that nodes were healthy with last, as far as they
// are still in the cache. A node whose image is not gets the current one.
func (l *Library) AddHealthy(ctx context.Context, health *bootserver.Records[bootserver.Health]) {
	seen := map[string]bool{}
	for _, img := range l.Images.Served() {
		seen[img.Digest] = true
	}
	for machine, h := range health.All() {
		if h.Good == "" || seen[h.Good] {
			continue
		}
		seen[h.Good] = true
		img, err := l.cached(ctx, h.Good)
		if err != nil {
			l.Log.Info("the last healthy image of a machine is not in the cache", "machine", machine, "digest", h.Good, "err", err)
			continue
		}
		l.Images.Add(img)
	}
}

// Watch updates the references every so often, until ctx ends. An error that a
// reference repeats is logged once.
func (l *Library) Watch(ctx context.Context, references []string, every time.Duration) {
	logged := map[string]string{}
	for {
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		for _, ref := range references {
			text := ""
			if err := l.Update(ctx, ref); err != nil && ctx.Err() == nil {
				text = err.Error()
			}
			if text != "" && text != logged[ref] {
				l.Log.Info("updating a reference failed", "reference", ref, "err", text)
			}
			logged[ref] = text
		}
	}
}

// Update serves the image that a reference names now, if that is another one.
// It returns ErrOtherStream or ErrOlderRelease for an image that the reference
// may not name next.
func (l *Library) Update(ctx context.Context, ref string) error {
	img, err := l.Open(ctx, ref)
	if err != nil {
		return err
	}
	if now := l.Images.Current(ref); now != nil && img.Digest == now.Digest {
		return nil
	}
	if err := l.follows(ref, img); err != nil {
		return err
	}
	kept, err := l.keep(ctx, img)
	if err != nil {
		return err
	}
	if err := l.set(ref, kept); err != nil {
		return err
	}
	l.Log.Info("serving another image", "reference", ref, "stream", kept.Stream, "release", kept.Release)
	return nil
}
