// Package oci lays container images over a root: it fetches them from a
// registry or an OCI layout, checks every byte against the image's digest, and
// applies their layers with the whiteouts in them.
package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/store"
)

// LayoutPrefix marks a reference to an OCI layout in a directory.
const LayoutPrefix = "oci:"

// LayoutDir returns the directory, with or without a tag behind it, that a
// reference with LayoutPrefix names. oci://… is the address of a registry as some
// tools write it, and no such reference.
func LayoutDir(ref string) (dir string, ok bool) {
	dir, ok = strings.CutPrefix(ref, LayoutPrefix)
	return dir, ok && !strings.HasPrefix(dir, "//")
}

// Image is one image for one platform.
type Image struct {
	v1.Image
	Digest string // of its manifest
}

// Platform is what images are for.
type Platform struct{ OS, Architecture string }

// Open finds an image. ref is a registry's reference, with PlainPrefix for one
// without TLS, or oci: and the directory of a layout with, if it holds several,
// :TAG behind it. An index is narrowed to the platform.
func Open(ctx context.Context, ref string, p Platform, o ...remote.Option) (*Image, error) {
	img, err := open(ctx, ref, v1.Platform{OS: p.OS, Architecture: p.Architecture}, o)
	if err != nil {
		return nil, fmt.Errorf("reading the image %s: %w", ref, err)
	}
	return img, nil
}

func open(ctx context.Context, ref string, p v1.Platform, o []remote.Option) (*Image, error) {
	if dir, ok := LayoutDir(ref); ok {
		return fromLayout(dir, p)
	}
	c, err := Reference(ctx, ref)
	if err != nil {
		return nil, err
	}
	img, err := remote.Image(c.Reference, append(append(c.Options, remote.WithPlatform(p)), o...)...)
	if err != nil {
		return nil, c.Explain(err)
	}
	found, err := checked(img, p)
	return found, c.Explain(err)
}

// maxConfig bounds an image's configuration, which is read into memory: those
// of images of a hundred layers have some 30 kB.
const maxConfig = 4 << 20

// checked makes sure that manifest and configuration are what their digests
// say, and for the platform.
func checked(img v1.Image, p v1.Platform) (*Image, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, err
	}
	raw, err := img.RawManifest()
	if err != nil {
		return nil, err
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	if m.Config.Size > maxConfig {
		return nil, fmt.Errorf("the configuration has %d bytes, more than %d", m.Config.Size, maxConfig)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return nil, err
	}
	if hexOf(raw) != digest.Hex || hexOf(config) != m.Config.Digest.Hex {
		return nil, errors.New("digest mismatch: the manifest or configuration was changed")
	}
	c, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	if c.Architecture != "" && c.Architecture != p.Architecture || c.OS != "" && c.OS != p.OS {
		return nil, fmt.Errorf("the image is for %s/%s; want %s/%s", c.OS, c.Architecture, p.OS, p.Architecture)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("the configuration names %d layers, the manifest %d", len(c.RootFS.DiffIDs), len(m.Layers))
	}
	return &Image{img, digest.String()}, nil
}

func hexOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func fromLayout(dir string, p v1.Platform) (*Image, error) {
	tag := ""
	if _, err := os.Stat(dir); err != nil {
		if i := strings.LastIndex(dir, ":"); i > 0 {
			dir, tag = dir[:i], dir[i+1:]
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fmt.Errorf("%w (want a directory with an OCI layout)", err)
	}
	return pick(index, tag, p, 0)
}

// pick finds the one image of an index that fits; indexes may hold indexes.
func pick(index v1.ImageIndex, tag string, p v1.Platform, depth int) (*Image, error) {
	if depth > 3 {
		return nil, errors.New("indexes nested more than three deep")
	}
	m, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var fits []v1.Descriptor
	var have []string
	for _, d := range m.Manifests {
		what := d.Annotations["org.opencontainers.image.ref.name"]
		if d.Platform != nil {
			what += " " + d.Platform.String()
		}
		have = append(have, strings.TrimSpace(what))
		if tag != "" && d.Annotations["org.opencontainers.image.ref.name"] != tag {
			continue
		}
		if d.Platform != nil && (d.Platform.OS != p.OS || d.Platform.Architecture != p.Architecture) {
			continue
		}
		if d.MediaType.IsImage() || d.MediaType.IsIndex() {
			fits = append(fits, d)
		}
	}
	if len(fits) != 1 {
		err := fmt.Errorf("%d images fit %s/%s, want one; found: %s", len(fits), p.OS, p.Architecture, strings.Join(have, ", "))
		return nil, hint.With(err, "name one as oci:DIRECTORY:TAG")
	}
	if fits[0].MediaType.IsIndex() {
		inner, err := index.ImageIndex(fits[0].Digest)
		if err != nil {
			return nil, err
		}
		raw, err := inner.RawManifest()
		if err != nil {
			return nil, err
		}
		if hexOf(raw) != fits[0].Digest.Hex {
			return nil, errors.New("digest mismatch: an index in the layout was changed")
		}
		return pick(inner, "", p, depth+1)
	}
	img, err := index.Image(fits[0].Digest)
	if err != nil {
		return nil, err
	}
	return checked(img, p)
}

// Save writes the image as a layout of its own into dir, which appears whole
// or not at all.
func (i *Image) Save(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	p, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return err
	}
	if err := p.AppendImage(i.Image); err != nil {
		return fmt.Errorf("keeping the image %s: %w", i.Digest, err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		if _, there := os.Stat(dir); there == nil {
			return nil // another build was faster
		}
		return err
	}
	return os.Chmod(dir, 0o755)
}

// maxLayer bounds what one layer may unpack to.
const maxLayer = 256 << 30

// Layer is one layer of an image.
type Layer struct {
	v1.Layer
	DiffID string // digest of what it unpacks to, sha256:…
	at     string // for errors
}

// List returns the image's layers, the lowest first.
func (i *Image) List(source string) ([]Layer, error) {
	list, err := i.Layers()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	c, err := i.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", source, err)
	}
	var layers []Layer
	for n, l := range list {
		layers = append(layers, Layer{l, c.RootFS.DiffIDs[n].String(), fmt.Sprintf("%s, layer %d", source, n+1)})
	}
	return layers, nil
}

// Read reads the layer into a part, whiteouts and all. What file was given
// counts for nothing when Read fails: only then is every byte checked.
func (l Layer) Read(file *store.File) (layers.Part, error) {
	packed, err := l.Compressed()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.at, err)
	}
	defer packed.Close()
	r, err := layers.Decompress(packed) // in bounded memory
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.at, err)
	}
	defer r.Close()
	limited := &io.LimitedReader{R: r, N: maxLayer}
	sum := sha256.New()
	in := io.TeeReader(limited, sum)
	p, err := layers.ReadTar(in, file, l.at)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, fmt.Errorf("%s: %w", l.at, err)
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("%s: unpacks to more than %d GiB", l.at, int64(maxLayer>>30))
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != l.DiffID {
		return nil, fmt.Errorf("%s: digest mismatch: unpacks to %s, want %s", l.at, got, l.DiffID)
	}
	return p, nil
}
