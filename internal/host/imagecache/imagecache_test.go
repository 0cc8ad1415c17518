package imagecache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// memoryPlace is a place that holds blobs by their digests, and no signatures.
type memoryPlace struct {
	registry.Place
	blobs map[string][]byte
}

func (p memoryPlace) String() string                 { return "memory" }
func (p memoryPlace) Reference(digest string) string { return "memory@" + digest }
func (p memoryPlace) Remote() bool                   { return false }
func (p memoryPlace) Backoff() time.Duration         { return 0 }

func (p memoryPlace) Manifest(context.Context, string) (image.Descriptor, []byte, error) {
	return image.Descriptor{}, nil, fs.ErrNotExist
}

func (p memoryPlace) Referrers(context.Context, string) ([]image.Descriptor, error) { return nil, nil }

func (p memoryPlace) Blob(_ context.Context, digest string, _, from int64) (io.ReadCloser, error) {
	b, ok := p.blobs[digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(b[from:])), nil
}

// published is a small image in memory.
func published(t *testing.T) *registry.Published {
	t.Helper()
	files := map[string][]byte{
		"vmlinuz": []byte("kernel"), image.InitramfsFile: []byte("init"),
		image.RootFile: make([]byte, verity.BlockSize+verity.TreeSize(1)),
	}
	m := &image.Manifest{
		Format: image.Format, Stream: "lab", Release: "1.0", BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000,
		Arch: "arm64", Boards: []string{"vm"}, SlotSize: 64 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{DataBlocks: 1, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, BlockSize: 131072},
	}
	for name, b := range files {
		m.Files = append(m.Files, image.File{Name: name, Size: int64(len(b)), Digest: image.DigestOf(b)})
	}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	oci, err := image.EncodeOCI(m, text)
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string][]byte{image.DigestOf(text): text}
	for _, b := range files {
		blobs[image.DigestOf(b)] = b
	}
	return &registry.Published{From: memoryPlace{blobs: blobs}, Image: image.Image{
		Manifest: m, Text: text, Signature: image.Signature{Manifest: oci}, Digest: image.DigestOf(oci), Source: image.Memory(files),
	}}
}

// TestKeep copies an image into the cache once, and again only when the copy is
// damaged. The cache is not pruned while the image is held.
func TestKeep(t *testing.T) {
	c := &cache.Cache{Dir: t.TempDir(), Now: time.Now()}
	img := published(t)
	var copied int64
	progress := func(n int64) { copied += n }
	first, err := Keep(t.Context(), c, img, progress)
	if err != nil {
		t.Fatal(err)
	}
	if first.Layout != Path(c, img.Digest) || copied < img.Size() {
		t.Errorf("Keep copied %d bytes to %s, want at least %d in %s", copied, first.Layout, img.Size(), Path(c, img.Digest))
	}
	if _, err := c.Prune(0); !errors.Is(err, cache.ErrBusy) {
		t.Errorf("pruning a cache with a held image: got %v, want %v", err, cache.ErrBusy)
	}
	copied = 0
	second, err := Keep(t.Context(), c, img, progress)
	if err != nil || copied != 0 {
		t.Fatalf("keeping an image twice: copied %d bytes (%v), want none", copied, err)
	}
	f, _ := img.File(image.RootFile)
	blob := filepath.Join(first.Layout, "blobs", "sha256", strings.TrimPrefix(f.Digest, "sha256:"))
	if err := os.WriteFile(blob, make([]byte, f.Size-1), 0o644); err != nil {
		t.Fatal(err)
	}
	third, err := Keep(t.Context(), c, img, progress)
	if err != nil || copied == 0 {
		t.Fatalf("keeping an image with a damaged copy: copied %d bytes (%v), want the image", copied, err)
	}
	for _, k := range []*Kept{first, second, third} {
		k.Release()
	}
	if _, err := c.Prune(0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.Layout); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a released image was not pruned: %v", err)
	}
}

// TestKeepFails: without its files an image is not kept, and nothing is held.
func TestKeepFails(t *testing.T) {
	c := &cache.Cache{Dir: t.TempDir(), Now: time.Now()}
	img := published(t)
	img.Source, img.From = image.Memory(nil), memoryPlace{}
	if _, err := Keep(t.Context(), c, img, func(int64) {}); err == nil {
		t.Fatal("Keep of an image without files: got no error")
	}
	if _, err := c.Prune(0); err != nil {
		t.Errorf("pruning after an error: %v", err)
	}
}
