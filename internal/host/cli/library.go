package cli

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/host/bootserver"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// library brings images into the cache for a boot server, and keeps them there
// while it runs.
type library struct {
	open   func(ctx context.Context, ref string) (*registry.Published, error)
	cache  string
	say    *teller
	images *bootserver.Images
	keys   func() ([]*ecdsa.PublicKey, error) // those whose statements let a channel go back
	memory string                             // the file that says what each reference was last
	last   map[string]served                  // what it says
	held   []func()
}

// served is what a reference named last.
type served struct {
	Digest  string `yaml:"digest"`
	Stream  string `yaml:"stream,omitempty"`
	Release string `yaml:"release,omitempty"`
}

// UnmarshalYAML reads the digest alone too, as it was written before releases
// were kept.
func (s *served) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return n.Decode(&s.Digest)
	}
	type plain served
	return n.Decode((*plain)(s))
}

// start brings what is served. What can't be had is what it was last, from the
// cache: when power comes back, the registry may be on a node that boots from
// here. Only the first reference must be there.
func (l *library) start(ctx context.Context, first string, references []string) error {
	if err := l.remember(); err != nil {
		return err
	}
	for _, ref := range references {
		l.learn(ctx, ref)
		img, err := l.fetch(ctx, ref)
		if err != nil && l.last[ref].Digest != "" && ctx.Err() == nil {
			var again error
			if img, again = l.cached(ctx, l.last[ref].Digest); again == nil {
				l.say.warning(fmt.Sprintf("%v; serving what %s was last, %s %s", err, ref, img.Stream, img.Release))
				err = nil
			}
		}
		if err != nil && ref == first {
			return err
		}
		if err != nil {
			l.say.warning(fmt.Sprintf("%s: %v; its nodes can't start until it is there", ref, err))
			continue
		}
		if err := l.set(ref, img); err != nil {
			return err
		}
	}
	return nil
}

// cached returns an image of the cache.
func (l *library) cached(ctx context.Context, digest string) (*image.Image, error) {
	layout, err := cachedImage(l.cache, digest)
	if err != nil {
		return nil, err
	}
	img, err := l.open(ctx, layout)
	if err != nil {
		return nil, err
	}
	return l.keep(ctx, img)
}

// remember reads what each reference was last.
func (l *library) remember() error {
	b, err := os.ReadFile(l.memory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := yaml.Unmarshal(b, &l.last); err != nil {
		return fmt.Errorf("%s: %w; mend it, or remove it", l.memory, err)
	}
	if l.last == nil {
		l.last = map[string]served{}
	}
	return nil
}

// learn finds out which release a reference named last, where only its digest
// was written down and the cache still has it.
func (l *library) learn(ctx context.Context, ref string) {
	was := l.last[ref]
	if was.Digest == "" || was.Release != "" {
		return
	}
	layout, err := cachedImage(l.cache, was.Digest)
	if err != nil {
		return
	}
	if img, err := l.open(ctx, layout); err == nil && img.Digest == was.Digest {
		l.last[ref] = served{Digest: was.Digest, Stream: img.Stream, Release: img.Release}
	}
}

// set makes an image what a reference names, and writes that down before any
// node is served it: what is not written down protects nobody after a restart.
// What others were last stays.
func (l *library) set(ref string, img *image.Image) error {
	last := maps.Clone(l.last)
	last[ref] = served{Digest: img.Digest, Stream: img.Stream, Release: img.Release}
	b, err := yaml.Marshal(last)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.memory), 0o755); err != nil {
		return err
	}
	if err := atomicfile.Write(l.memory, b, 0o644); err != nil {
		return err
	}
	l.last = last
	l.images.Set(ref, img)
	return nil
}

func (l *library) close() {
	for _, release := range l.held {
		release()
	}
}

// fetch brings the image that a reference names. What it may not name after
// what it named last is refused before anything of it is copied.
func (l *library) fetch(ctx context.Context, ref string) (*image.Image, error) {
	img, err := l.open(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := l.follows(ref, img); err != nil {
		return nil, err
	}
	return l.keep(ctx, img)
}

// follows returns why a reference may not name an image after what it named
// last; nil where it may. A boot server goes by the rule that nodes go by:
// another stream never, and a lower release only where somebody signed that
// this very channel may go back to it from there.
func (l *library) follows(ref string, img *registry.Published) error {
	was := l.last[ref]
	switch {
	case was.Digest == "" || was.Digest == img.Digest:
		return nil
	case was.Stream != "" && img.Stream != was.Stream:
		return fmt.Errorf("%s names stream %q now; this server serves %q under it: serve another reference, or remove its entry from %s",
			ref, img.Stream, was.Stream, l.memory)
	case was.Release == "" || image.CompareReleases(img.Release, was.Release) >= 0:
		return nil
	}
	keys, err := l.keys()
	if err != nil {
		return err
	}
	if image.AllowsDowngrade(img.Digest, img.Signature.Signatures, keys, channelOf(ref), was.Release) {
		return nil
	}
	return fmt.Errorf("%s names release %s now, which is older than %s, which was served last; "+
		"pikelet promote --allow-downgrade signs what lets a channel go back, and a reference to the release itself is served as it is",
		ref, img.Release, was.Release)
}

// channelOf returns the tag of a registry's reference; "" for a digest, a
// folder or a file, none of which a statement can name.
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

func (l *library) keep(ctx context.Context, img *registry.Published) (*image.Image, error) {
	kept, _, release, err := keep(ctx, img, l.cache, l.say)
	if err != nil {
		return nil, err
	}
	l.held = append(l.held, release)
	return &kept.Image, nil
}

// former has the images at hand that nodes were healthy with last, as far as
// they are still in the cache. Where one is not, its node gets what is current.
func (l *library) former(ctx context.Context, health *bootserver.Records[bootserver.Health]) {
	seen := map[string]bool{}
	for _, img := range l.images.Served() {
		seen[img.Digest] = true
	}
	for machine, h := range health.All() {
		if h.Good == "" || seen[h.Good] {
			continue
		}
		seen[h.Good] = true
		img, err := l.cached(ctx, h.Good)
		if err != nil {
			l.say.line(fmt.Sprintf("machine %s was healthy with %s, which is not in the cache any more: %v", machine, h.Good, err))
			continue
		}
		l.images.Add(img)
	}
}

// watch makes what a reference names the image that is to run, whenever it
// moves.
func (l *library) watch(ctx context.Context, references []string, every time.Duration) {
	said := map[string]string{}
	for {
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		for _, ref := range references {
			says := ""
			if err := l.look(ctx, ref); err != nil && ctx.Err() == nil {
				says = fmt.Sprintf("looking at %s: %v", ref, err)
			}
			if says != "" && says != said[ref] {
				l.say.line(says)
			}
			said[ref] = says
		}
	}
}

func (l *library) look(ctx context.Context, ref string) error {
	img, err := l.open(ctx, ref)
	if err != nil {
		return err
	}
	if now := l.images.Current(ref); now != nil && img.Digest == now.Digest {
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
	l.say.line(fmt.Sprintf("serving %s %s from now on", kept.Stream, kept.Release))
	return nil
}
