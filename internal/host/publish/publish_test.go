package publish

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/initrd"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// trusting returns an image whose initramfs holds the public half of a key.
func trusting(t *testing.T, key *ecdsa.PrivateKey) *registry.Published {
	t.Helper()
	text, err := image.EncodePublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	info, err := cmdline.EncodeInfo(cmdline.Info{Stream: "lab", Release: "1.0", BuildID: "ab", Keys: []string{string(text)}})
	if err != nil {
		t.Fatal(err)
	}
	file := initrd.File{Name: strings.TrimPrefix(cmdline.InfoFile, "/"), Mode: 0o644, Data: info}
	initramfs, err := initrd.Pack([]initrd.File{file}, time.Unix(0, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	m := &image.Manifest{Stream: "lab", Release: "1.0", Files: []image.File{
		{Name: image.InitramfsFile, Size: int64(len(initramfs)), Digest: image.DigestOf(initramfs)},
	}}
	files := image.Memory(map[string][]byte{image.InitramfsFile: initramfs})
	img := image.Image{Manifest: m, Digest: image.DigestOf([]byte("the image")), Source: files}
	return &registry.Published{Image: img, From: registry.OpenLayout(t.TempDir())}
}

// TestBootable accepts an image that a key of its initramfs signed, or is about to
// sign, and refuses any other.
func TestBootable(t *testing.T) {
	own, other := newKey(t), newKey(t)
	for name, c := range map[string]struct {
		signed, more *ecdsa.PrivateKey
		want         error
	}{
		"signed by its key":                     {signed: own},
		"to be signed by its key":               {more: own},
		"signed by another key, and by its own": {signed: other, more: own},
		"unsigned":                              {want: ErrNotBootable},
		"signed by another key":                 {signed: other, want: ErrNotBootable},
		"to be signed by another key":           {more: other, want: ErrNotBootable},
	} {
		t.Run(name, func(t *testing.T) {
			img := trusting(t, own)
			if c.signed != nil {
				s, err := image.SignDigest(img.Digest, c.signed)
				if err != nil {
					t.Fatal(err)
				}
				img.Signature.Signatures = []image.Signed{s}
			}
			if err := bootable(t.Context(), img, c.more); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Errorf("bootable: got %v, want %v", err, c.want)
			}
			if c.signed == nil && len(img.Signature.Signatures) > 0 {
				t.Error("bootable changed the signatures of the image")
			}
		})
	}
}

// TestStrategies: a node with all files downloads nothing, and one that can use
// neither a patch nor parts of the root downloads the files it lacks.
func TestStrategies(t *testing.T) {
	slot := func(root string) *inspect.Slot {
		b := []byte(root)
		m := &image.Manifest{Stream: "lab", Release: "1.0", Files: []image.File{
			{Name: image.RootFile, Size: int64(len(b)), Digest: image.DigestOf(b)},
		}}
		return &inspect.Slot{Image: image.Image{Manifest: m, Source: image.Memory(map[string][]byte{image.RootFile: b})}}
	}
	const whole = 50 << 20
	byImage := []Strategy{{Name: patch.ByImage, Bytes: whole, Seconds: float64(whole) / patch.LinkRate}}
	for name, c := range map[string]struct {
		from, to string
		whole    int64
		want     []Strategy
	}{
		"the same files":          {"a root", "a root", 0, []Strategy{{Name: "nothing: it has all of it"}}},
		"other files, same root":  {"a root", "a root", whole, byImage},
		"a root without patching": {"a root", "another root", whole, byImage}, // neither is a squashfs
	} {
		t.Run(name, func(t *testing.T) {
			got := Strategies(t.Context(), slot(c.from), slot(c.to), c.whole, t.TempDir()+"/disk.img", registry.Options{})
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("Strategies (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOutputFormat chooses the form of an output by its name.
func TestOutputFormat(t *testing.T) {
	for name, want := range map[string]Form{"out": Files, "x.tar": Archive, "card.img": Disk, "a.tar.gz": Files} {
		if got := FormOf(name); got != want {
			t.Errorf("FormOf(%q) = %q, want %q", name, got, want)
		}
	}
}

// TestOnlyFilesOfBothSlotsArePatched: only files that both slots have under the same name are patched.
func TestOnlyFilesOfBothSlotsArePatched(t *testing.T) {
	for name, want := range map[string]bool{"vmlinuz": true, image.RootFile: true, "cmdline-a.txt": false, "cmdline-net.txt": false} {
		if got := onEverySlot(name); got != want {
			t.Errorf("onEverySlot(%q) = %t, want %t", name, got, want)
		}
	}
}
