package builder

import (
	"context"
	"fmt"
	"time"

	bcache "github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/oci"
	"github.com/pikelet-os/pikelet/layers/store"
)

// Layer is a layer of the spec by its contents.
type Layer struct {
	lock.Layer
	spec   spec.Layer
	image  *oci.Image  // of an OCI layer
	folder layers.Part // of a directory that is read once, to pin and to pack it
}

// source is what files of the layer are said to come from.
func (l Layer) source() string { return l.Kind + " " + l.Name }

// pinLayers finds the layers and their digests. Where a lock has one, it must
// be the one that is found.
func (p *Plan) pinLayers(ctx context.Context, in Inputs, c *contents) error {
	pinned := map[string]string{}
	if in.Lock != nil {
		if len(in.Lock.Layers) != len(p.Image.Layers) {
			return p.outdated("the spec has %d layers, the lock %d", len(p.Image.Layers), len(in.Lock.Layers))
		}
		for _, l := range in.Lock.Layers {
			pinned[l.Kind+" "+l.Name] = l.Digest
		}
	}
	for _, s := range p.Image.Layers {
		l, err := p.openLayer(ctx, s, in.Cache, pinned, c)
		if err != nil {
			return err
		}
		want, locked := pinned[l.source()]
		switch {
		case in.Lock != nil && !locked:
			return p.outdated("the lock has no layer %s", l.source())
		case locked && want != l.Digest:
			return p.outdated("the layer %s is %s, the lock has %s", l.source(), l.Digest, want)
		}
		p.Layers = append(p.Layers, l)
	}
	return nil
}

// outdated returns an error that wraps lock.ErrOutdated, for the reason given.
func (p *Plan) outdated(format string, args ...any) error {
	return fmt.Errorf("%s %w: %s", lock.Name(p.Image.File()), lock.ErrOutdated, fmt.Sprintf(format, args...))
}

func (p *Plan) openLayer(ctx context.Context, s spec.Layer, cache *fetch.Cache, pinned map[string]string, c *contents) (Layer, error) {
	l := Layer{spec: s}
	var err error
	switch {
	case s.Folder != "":
		l.Kind, l.Name = "folder", s.Folder
		var f *layers.Dir
		if f, err = layers.OpenDir(p.Image.Path(s.Folder)); err != nil {
			break
		}
		if c == nil {
			l.Digest, err = f.Digest()
		} else if l.folder, err = f.Read(c.Put, l.source()); err == nil {
			l.Digest = layers.DirDigest(l.folder)
		}
	case s.Tar != "":
		l.Kind, l.Name = "tar", s.Tar
		l.Digest, err = layers.Archive{File: p.Image.Path(s.Tar)}.Digest()
	default:
		l.Kind, l.Name = "oci", s.OCI
		if l.image, err = p.openImage(ctx, s.OCI, cache, pinned[l.source()]); err == nil {
			l.Digest = l.image.Digest
		}
	}
	if err != nil {
		return l, fmt.Errorf("layer %s: %w", l.source(), err)
	}
	return l, nil
}

// openImage finds an OCI layer: by its digest, if there is one, in the cache
// and at the vendor before the registry.
func (p *Plan) openImage(ctx context.Context, ref string, cache *fetch.Cache, digest string) (*oci.Image, error) {
	platform := oci.Platform{OS: "linux", Architecture: ociArch}
	if dir, ok := oci.LayoutDir(ref); ok {
		return oci.Open(ctx, oci.LayoutPrefix+p.Image.Path(dir), platform)
	}
	if digest != "" {
		kept := cache.Path("oci " + digest)
		if f, err := cache.Open(bcache.Packages, "oci "+digest); err == nil { // marks it as used
			f.Close()
			return keptImage(ctx, kept, digest, platform)
		}
		if err := vendoredImage(ctx, cache, digest, kept); err == nil {
			return keptImage(ctx, kept, digest, platform)
		} else if !missing(err) {
			return nil, err
		}
		ref = registry.Name(ref) + "@" + digest
	}
	if cache.Offline {
		return nil, &fetch.Missing{What: "the image " + ref, Offline: true}
	}
	img, err := oci.Open(ctx, ref, platform)
	if err != nil {
		return nil, err
	}
	kept := cache.Path("oci " + img.Digest)
	if err := img.Save(kept); err != nil {
		return nil, err
	}
	return keptImage(ctx, kept, img.Digest, platform)
}

// keptImage opens an image of the cache, which must be the one it is kept as.
func keptImage(ctx context.Context, kept, digest string, platform oci.Platform) (*oci.Image, error) {
	img, err := oci.Open(ctx, oci.LayoutPrefix+kept, platform)
	if err == nil && img.Digest != digest {
		return nil, hint.Withf(fmt.Errorf("digest mismatch in the cache: %s: got %s, want %s", kept, img.Digest, digest), "remove %s", kept)
	}
	return img, err
}

// load reads the layer, where pinning it did not.
func (l Layer) load(img *spec.Image, c *contents) ([]layers.Part, error) {
	read := func(key string, from func(*store.File) (layers.Part, error)) (layers.Part, error) {
		p, err := c.part(key, func(file *store.File) (*part, error) {
			files, err := from(file)
			return &part{Files: files}, err
		})
		if err != nil {
			return nil, err
		}
		return p.Files, nil
	}
	switch l.Kind {
	case "folder":
		return []layers.Part{l.folder}, nil
	case "tar":
		p, err := read(c.key("tar", l.Digest), func(file *store.File) (layers.Part, error) {
			return layers.Archive{File: img.Path(l.spec.Tar)}.Read(file, l.source())
		})
		return []layers.Part{p}, err
	}
	list, err := l.image.List(l.source())
	if err != nil {
		return nil, err
	}
	var parts []layers.Part
	for _, layer := range list {
		p, err := read(c.key("oci", layer.DiffID), layer.Read)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// apply lays the layer's parts over the tree.
func (l Layer) apply(t *layers.Tree, parts []layers.Part, at time.Time) error {
	to := layers.Clean(l.spec.To)
	for _, p := range parts {
		p.SetSource(l.source())
		switch l.Kind {
		case "oci":
			if err := oci.Apply(t, p, l.source(), to); err != nil {
				return err
			}
			continue
		case "tar":
			p.Rebase(to)
		default:
			var rules []layers.Rule
			for _, r := range l.spec.Rules {
				rules = append(rules, layers.Rule{Path: r.Path, Owner: r.Owner, Mode: r.Mode})
			}
			if err := layers.Normalize(p, l.source(), to, rules, at); err != nil {
				return err
			}
		}
		if err := p.Apply(t); err != nil {
			return err
		}
	}
	return nil
}

// identity is what of the layer decides the image's bytes.
func (l Layer) identity() string {
	text := fmt.Sprintf("layer %s %s to %q", l.Kind, l.Digest, layers.Clean(l.spec.To))
	for _, r := range l.spec.Rules {
		text += fmt.Sprintf(" rule %q %q %q", r.Path, r.Owner, r.Mode)
	}
	return text
}
