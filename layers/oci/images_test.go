package oci

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/store"
)

var arm64 = Platform{"linux", "arm64"}

// layerOf makes a layer of names: one that ends in / is a directory, one with ->
// a link.
func layerOf(t testing.TB, names ...string) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, n := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(n)), Uid: 3}
		body := n
		if from, to, link := strings.Cut(n, "->"); link {
			h.Typeflag, h.Name, h.Linkname, h.Size, body = tar.TypeSymlink, from, to, 0, ""
		} else if strings.HasSuffix(n, "/") {
			h.Typeflag, h.Mode, h.Size, body = tar.TypeDir, 0o755, 0, ""
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(tw, body)
	}
	tw.Close()
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, arch string, list ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: arch, RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, list...); err != nil {
		t.Fatal(err)
	}
	return img
}

// apply lays an image over a new tree.
func apply(t testing.TB, img *Image, to string) (*layers.Tree, error) {
	t.Helper()
	file := storetest.File(t, 1<<20)
	return applyTo(layers.NewTree(file), file, img, to)
}

func applyTo(tree *layers.Tree, file *store.File, img *Image, to string) (*layers.Tree, error) {
	list, err := img.List("oci")
	for _, l := range list {
		var p layers.Part
		if p, err = l.Read(file); err == nil {
			err = Apply(tree, p, "oci", to)
		}
		if err != nil {
			break
		}
	}
	return tree, err
}

func names(tree *layers.Tree) string {
	var list []string
	for _, e := range tree.Entries() {
		list = append(list, e.Name)
	}
	return strings.Join(list, " ")
}

// layoutOf writes a layout with images for both architectures, as one index.
func layoutOf(t testing.TB, list ...v1.Layer) string {
	t.Helper()
	dir := t.TempDir()
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imageOf(t, "arm64", list...),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: imageOf(t, "amd64", layerOf(t, "wrong")),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	if _, err := layout.Write(dir, index); err != nil {
		t.Fatal(err)
	}
	return dir
}
