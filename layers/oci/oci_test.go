package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
)

func TestWhiteouts(t *testing.T) {
	for what, c := range map[string]struct {
		layers [][]string
		want   string
	}{
		"later over earlier":             {[][]string{{"etc/a", "etc/b"}, {"etc/a"}}, "etc etc/a etc/b"},
		"a file taken away":              {[][]string{{"etc/a", "etc/b"}, {"etc/.wh.a"}}, "etc etc/b"},
		"a directory taken away":         {[][]string{{"etc/d/a", "etc/b"}, {"etc/.wh.d"}}, "etc etc/b"},
		"taken away and brought again":   {[][]string{{"d/a", "d/b"}, {".wh.d", "d/c"}}, "d d/c"},
		"opaque":                         {[][]string{{"d/a", "d/e/f", "o"}, {"d/new", "d/.wh..wh..opq"}}, "d d/new o"},
		"opaque is not for its own":      {[][]string{{"d/a"}, {"d/", "d/.wh..wh..opq", "d/a"}}, "d d/a"},
		"a file in place of a directory": {[][]string{{"d/a", "d/b"}, {"d"}}, "d"},
		"a directory in place of a file": {[][]string{{"d"}, {"d/a"}}, "d d/a"},
		"a link in place of a directory": {[][]string{{"d/a", "e/"}, {"d->e"}}, "d e"},
		"whiteout of what is not there":  {[][]string{{"a"}, {"x/.wh.y"}}, "a"},
		"a directory in place of a link, and a whiteout in it": {
			[][]string{{"target/keep", "link->target"}, {"link/", "link/.wh.keep", "link/new"}}, "link link/new target target/keep"},
		"a directory in place of a link, and opaque": {
			[][]string{{"target/keep", "link->target"}, {"link/", "link/.wh..wh..opq", "link/new"}}, "link link/new target target/keep"},
		"directories in place of links in one another": {
			[][]string{{"t/u/keep", "t/l->u", "link->t"}, {"link/l/.wh.keep", "link/l/", "link/"}}, "link link/l t t/l t/u t/u/keep"},
		"a whiteout of a directory that is brought again": {[][]string{{"d->e", "e/a"}, {".wh.d", "d/", "d/b"}}, "d d/b e e/a"},
		"a whiteout in a directory that stays a link":     {[][]string{{"e/a", "d->e"}, {"d/.wh.a"}}, "d e"},
		"files of AUFS": {[][]string{{"a"}, {".wh..wh.aufs", ".wh..wh.plnk/1.2", "d/.wh..wh.orph"}}, "a"},
	} {
		var list []v1.Layer
		for _, n := range c.layers {
			list = append(list, layerOf(t, n...))
		}
		img, err := Open(context.Background(), LayoutPrefix+layoutOf(t, list...), arm64)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := apply(t, img, "")
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got := names(tree); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

func TestRegistryAndKeep(t *testing.T) {
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer s.Close()
	ref := strings.TrimPrefix(s.URL, "http://") + "/lab/tools:1"
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(layoutOf(t, layerOf(t, "usr/bin/tool")))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(r, index); err != nil {
		t.Fatal(err)
	}
	img, err := Open(context.Background(), PlainPrefix+ref, arm64)
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(t.TempDir(), "kept")
	for range 2 { // the second finds it there
		if err := img.Save(kept); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	again, err := Open(context.Background(), LayoutPrefix+kept, arm64)
	if err != nil || again.Digest != img.Digest {
		t.Fatalf("%+v, %v", again, err)
	}
	tree, err := apply(t, again, "opt")
	if err != nil || names(tree) != "opt opt/usr opt/usr/bin opt/usr/bin/tool" {
		t.Errorf("%q, %v", names(tree), err)
	}
	if _, err := Open(context.Background(), LayoutPrefix+kept, Platform{"linux", "riscv64"}); err == nil ||
		!strings.Contains(err.Error(), "fit linux/riscv64") {
		t.Errorf("another architecture: %v", err)
	}
	if _, err := Open(context.Background(), LayoutPrefix+filepath.Join(kept, "none"), arm64); err == nil ||
		!strings.Contains(err.Error(), "OCI layout") {
		t.Errorf("no layout: %v", err)
	}
}

// TestChangedImages inverts bytes of every blob of a layout: an image with
// other contents is refused. What remains are bytes of a layer that say
// nothing, as gzip's header has.
func TestChangedImages(t *testing.T) {
	dir := layoutOf(t, layerOf(t, "etc/a", "etc/b"))
	blobs, _ := filepath.Glob(dir + "/blobs/sha256/*")
	file := storetest.File(t, 1<<30)
	read := func() (string, error) {
		img, err := Open(context.Background(), LayoutPrefix+dir, arm64)
		if err != nil {
			return "", err
		}
		tree, err := applyTo(layers.NewTree(file), file, img, "")
		return string(tree.Listing()), err
	}
	want, err := read()
	if err != nil {
		t.Fatal(err)
	}
	caught := 0
	for _, blob := range blobs {
		b, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte("amd64")) {
			continue // of the other image
		}
		isJSON := b[0] == '{'
		for at := 0; at < len(b); at += 1 + len(b)/40 {
			bad := append([]byte(nil), b...)
			bad[at] ^= 0x20
			os.WriteFile(blob, bad, 0o644)
			got, err := read()
			if err != nil {
				caught++
			} else if got != want || isJSON && bytes.Contains(b, []byte("arm64")) {
				t.Errorf("byte %d of %s changed, and it was read:\n%s", at, filepath.Base(blob), got)
			}
		}
		os.WriteFile(blob, b, 0o644)
	}
	if caught < 40 {
		t.Errorf("only %d changes were caught", caught)
	}
}

// altered is an image that says something else than it has.
type altered struct {
	v1.Image
	manifest, config []byte // in place of its own; nil for its own
	size             int64  // of the configuration, as the manifest says; 0 for its own
}

func (a altered) RawManifest() ([]byte, error) {
	if a.manifest != nil {
		return a.manifest, nil
	}
	return a.Image.RawManifest()
}

func (a altered) RawConfigFile() ([]byte, error) {
	if a.config != nil {
		return a.config, nil
	}
	return a.Image.RawConfigFile()
}

func (a altered) Manifest() (*v1.Manifest, error) {
	m, err := a.Image.Manifest()
	if err == nil && a.size != 0 {
		m = m.DeepCopy()
		m.Config.Size = a.size
	}
	return m, err
}

func TestImagesAreHashed(t *testing.T) {
	img := imageOf(t, "arm64", layerOf(t, "a"))
	raw, err := img.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	p := v1.Platform{OS: "linux", Architecture: "arm64"}
	for what, c := range map[string]struct {
		img  v1.Image
		want string
	}{
		"manifest":             {altered{Image: img, manifest: append(raw, ' ')}, "digest mismatch"},
		"configuration":        {altered{Image: img, config: append(config, ' ')}, "digest mismatch"},
		"a huge configuration": {altered{Image: img, size: 1 << 40}, "more than 4194304"},
		"another platform":     {imageOf(t, "riscv64", layerOf(t, "a")), "the image is for linux/riscv64"},
	} {
		if _, err := checked(c.img, p); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	if _, err := checked(altered{Image: img}, p); err != nil {
		t.Errorf("as it is: %v", err)
	}
	one := imageOf(t, "arm64", layerOf(t, "a"))
	c, err := one.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.RootFS.DiffIDs = nil
	if one, err = mutate.ConfigFile(one, c); err != nil {
		t.Fatal(err)
	}
	if _, err := checked(one, p); err == nil || !strings.Contains(err.Error(), "names 0 layers, the manifest 1") {
		t.Errorf("fewer layers than the manifest has: %v", err)
	}
}

// TestLayersAreHashed: what a layer unpacks to is what the configuration says.
func TestLayersAreHashed(t *testing.T) {
	l := layerOf(t, "a", "b")
	id, err := l.DiffID()
	if err != nil {
		t.Fatal(err)
	}
	file := storetest.File(t, 1<<20)
	if p, err := (Layer{l, id.String(), "oci x"}).Read(file); err != nil || len(p) != 2 {
		t.Errorf("as it is: %d entries, %v", len(p), err)
	}
	other := Layer{l, "sha256:" + strings.Repeat("0", 64), "oci x"}
	if _, err := other.Read(file); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("another DiffID: %v", err)
	}
	// RFC 8878, 3.1.1: a frame that wants a window of 256 MiB.
	wide := static.NewLayer(append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 18 << 3, 1 | 3<<3, 0, 0}, "abc"...), types.OCILayerZStd)
	if _, err := (Layer{wide, id.String(), "oci x"}).Read(file); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Errorf("a wide zstd window: %v", err)
	}
}

// TestNestedIndex: an index inside an index is what its digest says.
func TestNestedIndex(t *testing.T) {
	inner := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: imageOf(t, "arm64", layerOf(t, "a"))})
	dir := t.TempDir()
	if _, err := layout.Write(dir, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: inner})); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), LayoutPrefix+dir, arm64); err != nil {
		t.Fatal(err)
	}
	digest, err := inner.Digest()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "blobs/sha256", digest.Hex)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = Open(context.Background(), LayoutPrefix+dir, arm64)
	if err == nil || !strings.Contains(err.Error(), "digest mismatch: an index") {
		t.Errorf("changed: %v", err)
	}
}

func TestHostileLayers(t *testing.T) {
	for what, c := range map[string][2]string{
		"climbs":                {"../x", "climbs out of the root"},
		"a whiteout climbs":     {"../.wh.x", "climbs out of the root"},
		"a whiteout of ..":      {".wh...", `invalid whiteout ".wh..."`},
		"a whiteout of .":       {"d/.wh..", `invalid whiteout "d/.wh.."`},
		"a whiteout of nothing": {"d/.wh.", `invalid whiteout "d/.wh."`},
		"more than a tree has":  {strings.Repeat("x/", 9) + "big", "more than 0 MiB"},
	} {
		img, err := checked(imageOf(t, "arm64", layerOf(t, c[0])), v1.Platform{OS: "linux", Architecture: "arm64"})
		if err != nil {
			t.Fatal(err)
		}
		file := storetest.File(t, 12)
		if _, err := applyTo(layers.NewTree(file), file, img, ""); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: %v, want %q", what, err, c[1])
		}
	}
}

// TestWhiteoutsStayInside: a whiteout takes nothing away outside of the directory
// that an image is laid into, wherever a link of the image leads.
func TestWhiteoutsStayInside(t *testing.T) {
	for _, second := range []string{"up/.wh.mine", "up/.wh..wh..opq"} {
		img, err := checked(imageOf(t, "arm64", layerOf(t, "up->/opt"), layerOf(t, second)), v1.Platform{OS: "linux", Architecture: "arm64"})
		if err != nil {
			t.Fatal(err)
		}
		file := storetest.File(t, 1<<20)
		tree := layers.NewTree(file)
		if err := tree.AddFile(tar.Header{Name: "opt/mine"}, "below", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := applyTo(tree, file, img, "opt/inner"); err == nil || !strings.Contains(err.Error(), "outside of \"opt/inner\"") {
			t.Errorf("%s: %v", second, err)
		}
		if tree.Lookup("opt/mine") == nil {
			t.Errorf("%s: a file outside is gone", second)
		}
	}
}

// FuzzLayer applies arbitrary tars as a second layer: nothing lands outside,
// nothing hangs.
// TestManyWhiteouts: each whiteout, opaque or not, costs what it removes: the
// work for a layer of them grows with their number alone.
func TestManyWhiteouts(t *testing.T) {
	kinds := map[string]func(i int) string{
		"whiteouts":                func(i int) string { return fmt.Sprintf("d%d/.wh.f%d", i%50, i) },
		"whiteouts of nothing":     func(i int) string { return fmt.Sprintf("d%d/.wh.g%d", i%50, i) },
		"opaque directories":       func(i int) string { return fmt.Sprintf("e%d/%s", i, opaque) },
		"one directory many times": func(int) string { return "d1/" + opaque },
	}
	work := func(n int, name func(int) string) int64 {
		file := storetest.File(t, 1<<20)
		tree := layers.NewTree(file)
		var p layers.Part
		for i := range n {
			h := tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i%50, i)}
			if err := tree.Place(&layers.Entry{Header: h}); err != nil {
				t.Fatal(err)
			}
			p = append(p, &layers.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name(i)}})
		}
		before := tree.Lookups()
		if err := Apply(tree, p, "oci", ""); err != nil {
			t.Fatal(err)
		}
		return tree.Lookups() - before
	}
	for what, name := range kinds {
		if few, many := work(400, name), work(40_000, name); many > 110*few {
			t.Errorf("%s: 400 looked at %d entries, 40,000 at %d: more than 110 times as many", what, few, many)
		}
	}
}

func FuzzLayer(f *testing.F) {
	for _, n := range [][]string{{"d/.wh..wh..opq", "d/b"}, {".wh.d", "d->/etc"}, {"a/../b"}} {
		r, err := layerOf(f, n...).Uncompressed()
		if err != nil {
			f.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
		if err != nil {
			return
		}
		img, err := checked(imageOf(t, "arm64", layerOf(t, "d/a", "e->d"), l), v1.Platform{OS: "linux", Architecture: "arm64"})
		if err != nil {
			return
		}
		if tree, err := apply(t, img, "x"); err == nil {
			for _, e := range tree.Entries() {
				if e.Name != "x" && !strings.HasPrefix(e.Name, "x/") {
					t.Fatalf("%q landed outside", e.Name)
				}
			}
		}
	})
}
