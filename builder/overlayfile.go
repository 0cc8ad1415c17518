package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/store"
	"github.com/pikelet-os/pikelet/overlays"
)

// maxOverlayFile bounds what an overlay fetches: k3s' archive of all its
// images has 200 MB.
const maxOverlayFile = 4 << 30

// vendoredFile is what a vendor calls a file of an overlay.
func vendoredFile(f overlays.Fetch) string { return "files/sha256-" + f.SHA256 }

// pinned brings a file of an overlay.
func (p *Plan) pinned(ctx context.Context, cache *fetch.Cache, f overlays.Fetch) (string, error) {
	url := f.URL
	if !fetch.IsRemote(url) {
		url = p.Image.Path(url)
	}
	return cache.Pinned(ctx, url, vendoredFile(f), f.SHA256, maxOverlayFile)
}

// fetch brings a file of an overlay and reads what of it goes into the root.
func (p *Plan) fetch(ctx context.Context, in Inputs, o overlays.Overlay, f overlays.Fetch, c *contents) (layers.Part, error) {
	source := "overlay " + o.Name
	key := c.key("overlay file", f.SHA256, f.To, f.Mode, f.Unpack, p.Epoch)
	part, err := c.part(key, func(to *store.File) (*part, error) {
		name, err := p.pinned(ctx, in.Cache, f)
		if err != nil {
			return nil, err
		}
		var files layers.Part
		switch f.Unpack {
		case overlays.UnpackTar:
			if files, err = (layers.Archive{File: name}).Read(to, source); err == nil {
				files.Rebase(layers.Clean(f.To))
			}
		case overlays.UnpackK3s:
			if files, err = unpackK3s(name, to, source); err == nil {
				files.Rebase(layers.Clean(f.To))
			} else {
				err = fmt.Errorf("%s: %w", f.URL, err)
			}
		default:
			files, err = plainFile(name, f, time.Unix(p.Epoch, 0).UTC(), to, source)
		}
		return &part{Files: files}, err
	})
	if err != nil {
		return nil, err
	}
	part.Files.SetSource(source)
	return part.Files, nil
}

// plainFile is a file as it is. Its time is the image's: k3s imports an
// archive of images again only when its time has changed
// (docs/platform.md 7.5).
func plainFile(name string, f overlays.Fetch, at time.Time, to *store.File, source string) (layers.Part, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return nil, err
	}
	mode := int64(0o644)
	if f.Mode != "" {
		if mode, err = strconv.ParseInt(f.Mode, 8, 32); err != nil {
			return nil, fmt.Errorf("mode %q: want permissions such as 0755", f.Mode)
		}
	}
	var p layers.Part
	h := tar.Header{Typeflag: tar.TypeReg, Name: layers.Clean(f.To), Mode: mode, Size: st.Size(), ModTime: at}
	return p, p.Add(to, h, source, in)
}

// zstdMagic is what a zstd frame begins with (RFC 8878 3.1.1).
var zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}

// maxK3s bounds what a release of k3s holds when it is unpacked; a release of
// 2025 has 250 MB.
const maxK3s = 2 << 30

// unpackK3s reads the archive inside a k3s release: one program that holds
// all others as a zstd-compressed tar, and unpacks it on its first start onto
// what would be the card. Nothing is executed.
func unpackK3s(name string, to *store.File, source string) (layers.Part, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for at := 0; ; at++ {
		i := bytes.Index(b[at:], zstdMagic)
		if i < 0 {
			return nil, errors.New("no archive found; want a release of k3s, such as the file k3s-arm64")
		}
		at += i
		if p, err := readInner(b[at:], to, source); err == nil {
			return p, nil
		}
	}
}

// readInner reads the archive that begins b, if one does.
func readInner(b []byte, to *store.File, source string) (layers.Part, error) {
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(256<<20))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var p layers.Part
	found := false
	for r := tar.NewReader(io.LimitReader(z, maxK3s)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && found {
			return p, nil
		}
		if err != nil {
			return nil, err
		}
		h.Name = layers.Clean(h.Name)
		if h.Name == "" {
			continue
		}
		h.Uid, h.Gid = 0, 0
		found = found || path.Base(h.Name) == "k3s"
		if err := p.Add(to, *h, source, r); err != nil {
			return nil, err
		}
	}
}

// linkK3s makes the commands of an unpacked release of k3s be found, as k3s'
// installer does: those that nothing else in the image brings.
func linkK3s(t *layers.Tree, epoch time.Time) error {
	const program = "usr/lib/k3s/bin/k3s"
	if t.Lookup(program) == nil {
		return nil
	}
	for _, name := range []string{"k3s", "kubectl", "crictl", "ctr"} {
		if slices.ContainsFunc([]string{"bin/", "sbin/", "usr/bin/", "usr/sbin/", "usr/local/bin/"}, func(dir string) bool {
			return t.Lookup(dir+name) != nil
		}) {
			continue
		}
		h := tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/bin/" + name, Linkname: "/" + program, Mode: 0o777, ModTime: epoch}
		if err := t.Add(h, builderSource, nil); err != nil {
			return err
		}
	}
	return nil
}
