package publish

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"log"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// shipped returns a whole image in a layout, whose initramfs holds the public half
// of the key that signed it.
func shipped(t *testing.T, key *ecdsa.PrivateKey) *registry.Published {
	t.Helper()
	ctx := context.Background()
	initramfs, err := io.ReadAll(mustOpen(t, trusting(t, key)))
	if err != nil {
		t.Fatal(err)
	}
	root := bytes.Repeat([]byte("r"), int(verity.BlockSize+verity.TreeSize(1)))
	m := &image.Manifest{
		Format: image.Format, Stream: "lab", Release: "1.0", BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000,
		Arch: Arch, Boards: []string{"vm"}, SlotSize: 64 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{DataBlocks: 1, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, Compression: "fast", BlockSize: 131072},
		Files: []image.File{
			{Name: image.InitramfsFile, Size: int64(len(initramfs)), Digest: image.DigestOf(initramfs)},
			{Name: image.RootFile, Size: int64(len(root)), Digest: image.DigestOf(root)},
		},
	}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	oci, err := image.EncodeOCI(m, text)
	if err != nil {
		t.Fatal(err)
	}
	d := image.Describe(oci)
	l, err := registry.CreateLayout(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{initramfs, root, text} {
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
		if err := l.PutBlob(ctx, image.Descriptor{Digest: image.DigestOf(b), Size: int64(len(b))}, open); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(l.PutManifest(ctx, "1.0", d, oci), l.Finish()); err != nil {
		t.Fatal(err)
	}
	if _, err := registry.Sign(ctx, l, "1.0", Arch, key); err != nil {
		t.Fatal(err)
	}
	img, err := registry.Open(ctx, l, "1.0", registry.Want{OwnKeys: inspect.Keys, Arch: Arch})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func mustOpen(t *testing.T, img *registry.Published) io.ReadCloser {
	t.Helper()
	r, err := img.Open(context.Background(), image.InitramfsFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestPublishToRegistriesPeopleHave: a publish ends with what is there, or with the
// registry's reason, and tells of signatures that are there in one form alone.
func TestPublishToRegistriesPeopleHave(t *testing.T) {
	key := newKey(t)
	img := shipped(t, key)
	for _, h := range registrytest.Habits() {
		t.Run(h.Name, func(t *testing.T) {
			behind := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
			elsewhere := httptest.NewServer(behind)
			defer elsewhere.Close()
			s := httptest.NewServer(h.Wrap(behind, strings.TrimPrefix(elsewhere.URL, "http://")))
			defer s.Close()
			to, _, err := registry.Repository(strings.TrimPrefix(s.URL, "http://")+"/lab",
				registry.Options{PlainHTTP: true, Backoff: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			var told bytes.Buffer
			r, err := Publish(context.Background(), img, to, Options{Channel: "stable", Log: slog.New(slog.NewTextHandler(&told, nil)),
				Meter: func(string, int64) (registry.Progress, func()) { return nil, func() {} }})
			switch {
			case h.TypeRefused:
				if !errors.Is(err, registry.ErrTypeRefused) {
					t.Errorf("got %v, want ErrTypeRefused", err)
				}
				return
			case h.OneTag:
				if !errors.Is(err, registry.ErrTagRefused) {
					t.Errorf("got %v, want ErrTagRefused", err)
				}
				return
			case err != nil:
				t.Fatal(err)
			}
			if r.ClassicOnly != h.NoBundles || strings.Contains(told.String(), "refuses cosign 3's bundles") != h.NoBundles {
				t.Errorf("ClassicOnly is %v, and what is told: %s", r.ClassicOnly, told.String())
			}
			there, err := registry.Open(context.Background(), to, "stable", registry.Want{Keys: []*ecdsa.PublicKey{&key.PublicKey}, Arch: Arch})
			if err != nil || there.Digest != img.Digest {
				t.Errorf("the channel: %v", err)
			}
		})
	}
}
