package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/layers/tarball"
)

// layersDir is where a vendor keeps OCI layers, each a tar of its layout.
const layersDir = "layers"

func vendoredLayer(digest string) string {
	return layersDir + "/" + strings.ReplaceAll(digest, ":", "-") + ".tar"
}

// Vendor copies every input that a build would fetch into dir: packages as a
// repository whose index key signs, and OCI layers. Each package is checked
// before it is kept. What else lies in dir stays.
func (p *Plan) Vendor(ctx context.Context, cache *fetch.Cache, dir string, key *apk.Key, log *slog.Logger) error {
	index := &apk.Index{Description: "Inputs of the image " + p.Image.Name}
	for _, pkg := range p.Packages {
		record, err := p.vendorPackage(ctx, cache, pkg, dir)
		if err != nil {
			return err
		}
		index.Packages = append(index.Packages, record)
	}
	b, err := apk.WriteIndex(index, key)
	if err != nil {
		return err
	}
	if err := writeWhole(filepath.Join(dir, Arch, indexFiles[0]), bytes.NewReader(b)); err != nil {
		return err
	}
	public, err := key.Public()
	if err != nil {
		return err
	}
	if err := writeWhole(filepath.Join(dir, key.Name), bytes.NewReader(public)); err != nil {
		return err
	}
	log.Info("vendored packages", "count", len(index.Packages), "directory", dir)
	for _, o := range p.Overlays {
		for _, f := range o.Fetch {
			from, err := p.pinned(ctx, cache, f)
			if err != nil {
				return fmt.Errorf("overlay %s: %w", o.Name, err)
			}
			if err := copyWhole(filepath.Join(dir, filepath.FromSlash(vendoredFile(f))), from); err != nil {
				return err
			}
			log.Info("vendored a file", "file", path.Base(f.URL), "overlay", o.Name, "directory", dir)
		}
	}
	for _, l := range p.Layers {
		if l.image == nil {
			continue
		}
		if err := l.vendor(dir); err != nil {
			return fmt.Errorf("%s: %w", l.source(), err)
		}
		log.Info("vendored a layer", "layer", l.source(), "directory", dir)
	}
	return nil
}

func (p *Plan) vendorPackage(ctx context.Context, cache *fetch.Cache, pkg Package, dir string) (*apk.Package, error) {
	from, err := cache.File(ctx, pkg.url, pkg.vendored(), pkg.Identity, pkg.Size)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", pkg.Package, err)
	}
	f, err := os.Open(from)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a, err := apk.OpenArchive(f, pkg.Size, pkg.Package, pkg.keys)
	if err != nil {
		return nil, err
	}
	if err := a.Unpack(func(*tar.Header, io.Reader) error { return nil }); err != nil {
		return nil, err
	}
	return a.Info, writeWhole(filepath.Join(dir, filepath.FromSlash(pkg.vendored())), io.NewSectionReader(f, 0, pkg.Size))
}

// vendor keeps an OCI layer as a tar of a layout with nothing else in it.
func (l Layer) vendor(dir string) error {
	tmp, err := os.MkdirTemp(dir, ".layer-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	layout := filepath.Join(tmp, "layout")
	if err := l.image.Save(layout); err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(tarDir(w, layout)) }()
	err = writeWhole(filepath.Join(dir, filepath.FromSlash(vendoredLayer(l.Digest))), r)
	r.CloseWithError(err)
	return err
}

func tarDir(w io.Writer, dir string) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		b, err := os.Open(p)
		if err != nil {
			return err
		}
		defer b.Close()
		st, err := b.Stat()
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: filepath.ToSlash(rel), Mode: 0o644, Size: st.Size(), Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err = io.Copy(tw, b)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// vendoredImage unpacks an OCI layer of the vendor's into a layout directory.
// Whoever opens that checks it.
func vendoredImage(ctx context.Context, cache *fetch.Cache, digest, to string) error {
	none := &fetch.Missing{What: digest}
	if cache.Vendor == nil {
		return none
	}
	r, err := cache.Vendor.Open(ctx, vendoredLayer(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return none
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(to), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	err = tarball.Each(r, "the vendor's "+digest, func(h *tar.Header, body io.Reader) error {
		if h.Typeflag != tar.TypeReg {
			return nil
		}
		return writeWhole(filepath.Join(tmp, filepath.FromSlash(h.Name)), body)
	})
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, to); err != nil {
		if _, there := os.Stat(to); there != nil {
			return err
		}
	}
	return nil
}

func copyWhole(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeWhole(name, f)
}

// writeWhole writes a file that appears under its name only when it is whole.
func writeWhole(name string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(name), ".part-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = io.Copy(tmp, r)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), name)
}
