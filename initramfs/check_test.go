package initramfs

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

const slotWords = "pikelet.slot=a ro panic=10\n"

// signedSlot is a boot from slot a of a card, whose image is signed.
type signedSlot struct {
	*testing.T
	*boot
	key       *ecdsa.PrivateKey
	img       image.Image
	signature []byte // signature.json
	files     map[string][]byte
}

func newSignedSlot(t *testing.T) *signedSlot {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := image.EncodePublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	s := &signedSlot{T: t, key: key, files: map[string][]byte{
		"cmdline-a.txt": []byte(slotWords), "cmdline-b.txt": []byte("pikelet.slot=b\n"), "cmdline-net.txt": []byte("pikelet.slot=net\n"),
		"vmlinuz": []byte("the kernel"), "initramfs": []byte("the initramfs"), "config.txt": []byte("[all]\n"), "start4.elf": []byte("firmware"),
		"fixup4.dat": []byte("more firmware"), "bcm2711-rpi-4-b.dtb": []byte("a device tree"), "overlays/disable-bt.dtbo": []byte("an overlay"),
		"kernel.config.gz": []byte("options"), image.RootFile: bytes.Repeat([]byte("r"), int(verity.BlockSize+verity.TreeSize(1))),
	}}
	m := &image.Manifest{Format: image.Format, Stream: "lab", Release: "1.0", BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000,
		Arch: "arm64", Boards: []string{"rpi4"}, SlotSize: 34 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{DataBlocks: 1, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, Compression: "fast", BlockSize: 131072}}
	for name, b := range s.files {
		m.Files = append(m.Files, image.File{Name: name, Size: int64(len(b)), Digest: image.DigestOf(b)})
	}
	s.img = image.Image{Manifest: m, Source: image.Memory(s.files)}
	if s.img.Text, err = m.Encode(); err != nil {
		t.Fatal(err)
	}
	s.signature = s.sign(key)
	line, err := cmdline.Parse([]byte(slotWords))
	if err != nil {
		t.Fatal(err)
	}
	info := cmdline.Info{Stream: "lab", Release: "1.0", BuildID: m.BuildID, Keys: []string{string(public)}}
	s.boot = &boot{card: newCard(t), line: line, info: info}
	return s
}

// sign returns signature.json as a key makes it.
func (s *signedSlot) sign(key *ecdsa.PrivateKey) []byte {
	s.Helper()
	oci, err := image.EncodeOCI(s.img.Manifest, s.img.Text)
	if err != nil {
		s.Fatal(err)
	}
	one, err := image.Sign(oci, key)
	if err != nil {
		s.Fatal(err)
	}
	b, err := image.Signature{Manifest: oci, Signatures: []image.Signed{one}}.Encode()
	if err != nil {
		s.Fatal(err)
	}
	return b
}

// write puts the image onto slot a, and opens that.
func (s *signedSlot) write() {
	s.Helper()
	p, err := s.card.table.Partition(slots.A.Partition())
	if err != nil {
		s.Fatal(err)
	}
	sizes, err := slots.SizesOf(s.img)
	if err != nil {
		s.Fatal(err)
	}
	sizes.Signature = int64(len(s.signature))
	layout, err := sizes.Slot(slots.A, p)
	if err != nil {
		s.Fatal(err)
	}
	files := slots.Contents(s.img, slots.A, func(name string) (io.ReadCloser, error) {
		return s.img.OpenUnchecked(context.Background(), name)
	})
	contents := func(name string) (io.ReadCloser, error) {
		if name == image.SignatureFile {
			return io.NopCloser(bytes.NewReader(s.signature)), nil
		}
		return files(name)
	}
	if err := layout.Write(io.NewOffsetWriter(s.card.f, p.Start), contents); err != nil {
		s.Fatal(err)
	}
	if s.card.slot, err = s.card.volume(slots.A); err != nil {
		s.Fatal(err)
	}
}

// spoil changes a file of the slot behind the signature's back.
func (s *signedSlot) spoil(name string) {
	s.Helper()
	_, runs, err := s.card.slot.Extents(name, 1<<20)
	if err != nil {
		s.Fatal(err)
	}
	p, err := s.card.table.Partition(slots.A.Partition())
	if err != nil {
		s.Fatal(err)
	}
	b := make([]byte, 1)
	at := p.Start + runs[0].Offset + 1
	if _, err := s.card.f.ReadAt(b, at); err != nil {
		s.Fatal(err)
	}
	if _, err := s.card.f.WriteAt([]byte{b[0] ^ 1}, at); err != nil {
		s.Fatal(err)
	}
}

// TestCheckSlot: a slot is taken whose every file but the root is what a key of
// the running initramfs signed, and whose kernel command line are what the kernel was
// told.
func TestCheckSlot(t *testing.T) {
	s := newSignedSlot(t)
	s.write()
	if err := s.checkSlot(); err != nil || s.boot.boot.Signed == "" || s.boot.img.Release != "1.0" {
		t.Fatalf("a good slot: %v", err)
	}
	for name := range s.files {
		on, ok := slots.A.OnSlot(name)
		if !ok || name == image.RootFile { // the kernel checks that
			continue
		}
		s.spoil(on)
		if err := s.checkSlot(); err == nil || !strings.Contains(err.Error(), "changed: digest mismatch") || !strings.Contains(err.Error(), on) {
			t.Errorf("a changed %s: %v", name, err)
		}
		s.spoil(on)
	}
	if err := s.checkSlot(); err != nil {
		t.Errorf("all as it was: %v", err)
	}
	for _, name := range []string{image.ManifestFile, image.SignatureFile} {
		s.spoil(name)
		if s.checkSlot() == nil {
			t.Errorf("a changed %s", name)
		}
		s.spoil(name)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := s.signature
	s.signature = s.sign(other)
	s.write()
	if err := s.checkSlot(); err == nil || !strings.Contains(err.Error(), "none of the 1 keys") {
		t.Errorf("another key: %v", err)
	}
	s.signature = good
	s.write()
	s.info.BuildID = strings.Repeat("cd", 16)
	if err := s.checkSlot(); err == nil || !strings.Contains(err.Error(), "the initramfs is build cdcd") {
		t.Errorf("another build: %v", err)
	}
}

// TestSignedCmdlineMustReachTheKernel: the boot fails where a signed parameter is
// missing from the kernel command line. Parameters that the firmware adds, and
// consoles, which it rewrites, are accepted.
func TestSignedCmdlineMustReachTheKernel(t *testing.T) {
	s := newSignedSlot(t)
	s.write()
	for told, want := range map[string]string{
		slotWords: "", "bcm2708_fb.fbwidth=656 " + slotWords: "", "pikelet.slot=a ro": `the kernel was not told "panic=10"`,
		"pikelet.slot=a ro panic=0": `the kernel was not told "panic=10"`,
	} {
		var err error
		if s.line, err = cmdline.Parse([]byte(told)); err != nil {
			t.Fatal(err)
		}
		if err := s.checkSlot(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("told %q: %v; want %q", told, err, want)
		}
	}
}

// TestFilesOfAnotherSize: a file that is missing, longer or shorter than was
// signed is not read to its end, and fails the boot; so does such a root.
func TestFilesOfAnotherSize(t *testing.T) {
	for _, name := range []string{"vmlinuz", image.RootFile} {
		for what, change := range map[string]func([]byte) []byte{
			"longer":  func(b []byte) []byte { return append(b[:len(b):len(b)], 0) },
			"shorter": func(b []byte) []byte { return b[:len(b)-1] },
		} {
			s := newSignedSlot(t)
			s.write()
			if err := s.checkSlot(); err != nil {
				t.Fatal(err)
			}
			volume := *s.img.Manifest
			b := change(s.files[name])
			s.files[name] = b
			for i, f := range volume.Files {
				if f.Name == name {
					files := append([]image.File(nil), volume.Files...)
					files[i].Size = int64(len(b))
					volume.Files = files
				}
			}
			s.img.Manifest = &volume // laid out so; what was signed stays
			s.write()
			err := s.checkSlot()
			if name == image.RootFile && err == nil {
				_, err = s.rootExtents()
			}
			if err == nil {
				t.Errorf("%s, %s than was signed, is taken", name, what)
			}
		}
	}
	s := newSignedSlot(t)
	s.write()
	if err := s.checkSlot(); err != nil {
		t.Fatal(err)
	}
	if runs, err := s.rootExtents(); err != nil || len(runs) != 1 {
		t.Errorf("a good root: %v, %v", runs, err)
	}
	s.boot.img.Files = append(s.boot.img.Files, image.File{Name: "missing.dtb", Digest: image.DigestOf(nil)})
	missing := image.File{Name: "missing.dtb", Digest: image.DigestOf(nil)}
	if err := s.checkFile(missing); err == nil || !strings.Contains(err.Error(), "missing.dtb is missing from the slot") {
		t.Errorf("a missing file: %v", err)
	}
}

// TestReadModule: a module that was changed or is missing is not loaded.
func TestReadModule(t *testing.T) {
	name := filepath.Join(t.TempDir(), "squashfs.ko")
	if err := os.WriteFile(name, []byte("a module"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := cmdline.Module{Path: name, Digest: image.DigestOf([]byte("a module"))}
	if b, err := readModule(m); err != nil || string(b) != "a module" {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.WriteFile(name, []byte("A module"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := readModule(m); err == nil || b != nil || !strings.Contains(err.Error(), "module squashfs.ko was changed") {
		t.Errorf("a changed one: %q, %v", b, err)
	}
	m.Path += ".gone"
	if _, err := readModule(m); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("a missing one: %v", err)
	}
}

// TestBuildTellsCardsApart: a slot of another build is not taken for this one's.
func TestBuildTellsCardsApart(t *testing.T) {
	s := newSignedSlot(t)
	s.write()
	for id, want := range map[string]bool{s.info.BuildID: true, strings.Repeat("ef", 16): false} {
		s.info.BuildID = id
		if same, err := s.inspect(s.card); err != nil || same != want {
			t.Errorf("build %s: %v, %v", id, same, err)
		}
	}
	p, err := s.card.table.Partition(slots.A.Partition())
	if err != nil {
		t.Fatal(err)
	}
	layout, err := fat.Plan([]fat.File{{Name: "config.txt"}}, fat.Options{Size: p.Size})
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Write(io.NewOffsetWriter(s.card.f, p.Start), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.inspect(s.card); err == nil {
		t.Error("a slot without a manifest")
	}
}
