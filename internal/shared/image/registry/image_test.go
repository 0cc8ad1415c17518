package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// TestOpenAcceptsValidImages opens a valid image from a place of any name, by tag
// and by digest, with one of several keys, and compares it with the original.
func TestOpenAcceptsValidImages(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	s.tags["stable"] = s.tags["1.0"]
	want := Want{Keys: []*ecdsa.PublicKey{&newKey(t).PublicKey, &m.key.PublicKey}, Arch: "arm64", AtLeast: "1.0"}
	for _, ref := range []string{"1.0", "stable", digest} {
		img, err := Open(ctx, s, ref, want)
		if err != nil || img.Digest != digest || img.Release != "1.0" || (img.Index == nil) != (ref == digest) {
			t.Fatalf("%s: %+v, %v", ref, img, err)
		}
		out := filepath.Join(t.TempDir(), "files")
		if err := SaveFiles(ctx, img, out, nil); err != nil {
			t.Fatal(err)
		}
		for name, b := range m.files {
			if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s: %v", name, err)
			}
		}
		text, _ := os.ReadFile(filepath.Join(out, image.ManifestFile))
		sig, _ := os.ReadFile(filepath.Join(out, image.SignatureFile))
		if _, got, err := image.Verify(sig, text, want.Keys); err != nil || got != digest {
			t.Errorf("what was pulled does not verify as a slot does: %v", err)
		}
		if err := SaveFiles(ctx, img, out, nil); !errors.Is(err, fs.ErrExist) {
			t.Errorf("over what is there: %v", err)
		}
	}
	want.AtLeast = "1.0.1"
	if _, err := Open(ctx, s, "stable", want); err == nil || !strings.Contains(err.Error(), "is release 1.0; want 1.0.1 at least") {
		t.Errorf("an old release: %v", err)
	}
	if _, err := Open(ctx, s, "1.0", Want{Arch: "arm64"}); err == nil || !strings.Contains(err.Error(), "no key") {
		t.Errorf("without keys: %v", err)
	}
}

// TestCopyKeepsDigests copies from a registry to a layout, an archive and another
// registry: digests and signatures stay, and a second copy changes nothing.
func TestCopyKeepsDigests(t *testing.T) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(t, "1.0")
	digest := m.onto(t, s, "1.0")
	want := Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"}
	dir := t.TempDir()
	img, err := Open(ctx, s, "1.0", want)
	if err != nil {
		t.Fatal(err)
	}
	if err := SaveLayout(ctx, img, dir+"/layout", nil); err != nil {
		t.Fatal(err)
	}
	if img, err = Open(ctx, OpenLayout(dir+"/layout"), "", want); err != nil {
		t.Fatal(err)
	}
	if err := SaveArchive(ctx, img, dir+"/a.tar", nil); err != nil {
		t.Fatal(err)
	}
	archive, _, err := Locate(dir+"/a.tar", Options{})
	if err != nil {
		t.Fatal(err)
	}
	if img, err = Open(ctx, archive, "", want); err != nil {
		t.Fatal(err)
	}
	there := newShelf()
	for range 2 {
		if err := Copy(ctx, img, there, []string{"1.0"}, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	if img, err = Open(ctx, there, "1.0", want); err != nil || img.Digest != digest || len(img.Signature.Signatures) != 1 {
		t.Fatalf("%+v %v", img, err)
	}
	if there.tags["1.0"] != s.tags["1.0"] {
		t.Error("the index is another one")
	}
	// Another key signs it where it is: both count.
	other := newKey(t)
	if _, err := Sign(ctx, there, "1.0", "arm64", other); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*ecdsa.PrivateKey{m.key, other} {
		if _, err := Open(ctx, there, "1.0", Want{Keys: []*ecdsa.PublicKey{&k.PublicKey}, Arch: "arm64"}); err != nil {
			t.Error(err)
		}
	}
}

// TestChannelsMove: up by themselves, down only with a statement that names
// the image, the channel and the release before.
func TestChannelsMove(t *testing.T) {
	ctx := context.Background()
	s, old, now := newShelf(), newMaking(t, "1.9"), newMaking(t, "1.10")
	now.key = old.key
	old.onto(t, s, "1.9")
	now.onto(t, s, "1.10")
	keys := []*ecdsa.PublicKey{&old.key.PublicKey}
	open := func(tag string) *Published {
		t.Helper()
		img, err := Open(ctx, s, tag, Want{Keys: keys, Arch: "arm64"})
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	for _, tag := range []string{"1.9", "1.10", "1.10"} {
		if err := Move(ctx, open(tag), s, "stable", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := Move(ctx, open("1.9"), s, "stable", nil); !errors.Is(err, ErrDowngrade) ||
		!strings.Contains(err.Error(), "channel stable is at release 1.10, and this is 1.9") {
		t.Fatalf("Move to a lower release: %v, want ErrDowngrade", err)
	}
	if got := open("stable").Release; got != "1.10" {
		t.Errorf("a move that was refused moved it to %s", got)
	}
	if err := Move(ctx, open("1.9"), s, "stable", old.key); err != nil {
		t.Fatal(err)
	}
	img := open("stable")
	want := image.Downgrade{Channel: "stable", From: "1.10"}
	if got := image.Downgrades(img.Digest, img.Signature.Signatures, keys); img.Release != "1.9" || len(got) != 1 || got[0] != want {
		t.Errorf("release %s, statements %+v", img.Release, got)
	}
	if got := image.Downgrades(img.Digest, img.Signature.Signatures, []*ecdsa.PublicKey{&newKey(t).PublicKey}); len(got) != 0 {
		t.Errorf("a statement no trusted key made: %+v", got)
	}
	if got := image.Downgrades(open("1.10").Digest, img.Signature.Signatures, keys); len(got) != 0 {
		t.Errorf("a statement about another image: %+v", got)
	}
	for _, name := range []string{"2.0", "7", "sha256-abc.sig"} {
		if err := Move(ctx, img, s, name, nil); err == nil {
			t.Errorf("a channel called %s", name)
		}
	}
	cabin := newMaking(t, "3.0")
	cabin.key = old.key
	renamed(t, cabin, "cabin")
	cabin.onto(t, s, "3.0")
	if err := Move(ctx, open("3.0"), s, "stable", nil); err == nil || !strings.Contains(err.Error(), `one of stream "lab"`) {
		t.Errorf("another stream: %v", err)
	}
}
