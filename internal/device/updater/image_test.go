package updater

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/initrd"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// testKey signs the images of these tests. It is always the same, so that a seed
// makes the same cards again.
var testKey = sync.OnceValues(func() (*ecdsa.PrivateKey, error) {
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
})

// smallRoot makes a root: a program that no compressor helps with, and in its
// midst what release it is of.
func smallRoot(t testing.TB, release string) []byte {
	t.Helper()
	program := make([]byte, 180_000)
	random := rand.New(rand.NewPCG(1, 1))
	for i := range program {
		program[i] = byte(random.Uint32())
	}
	copy(program[100_000:], "root of "+release)
	f := &memory{}
	at := time.Unix(1_790_000_000, 0)
	_, err := squashfs.Write(f, []squashfs.Entry{
		{Header: &tar.Header{Typeflag: tar.TypeDir, Name: "bin", Mode: 0o755, ModTime: at}},
		{
			Header: &tar.Header{Typeflag: tar.TypeReg, Name: "bin/program", Mode: 0o755, Size: int64(len(program)), ModTime: at},
			Open:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(program)), nil },
		},
	}, squashfs.Options{Time: at})
	if err != nil {
		t.Fatal(err)
	}
	return f.b
}

// memory is a file in memory.
type memory struct{ b []byte }

// WriteAt implements io.WriterAt.
func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if end := int(at) + len(b); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[at:], b), nil
}

// making is what a test's image is made of.
type making struct {
	release string
	change  func(*image.Manifest) // before it is signed; may be nil
	info    cmdline.Info          // what its initramfs says; none where it has no keys
	signers []*ecdsa.PrivateKey
	more    func(digest string) []image.Signed // further signatures; may be nil
}

// newMaking is that of an image which testKey signs and which trusts it.
func newMaking(t testing.TB, release string) making {
	t.Helper()
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	return making{release: release, info: infoWith(t, key), signers: []*ecdsa.PrivateKey{key}}
}

// infoWith returns what an initramfs says that trusts some keys.
func infoWith(t testing.TB, keys ...*ecdsa.PrivateKey) cmdline.Info {
	t.Helper()
	info := cmdline.Info{Stream: "lab", BuildID: strings.Repeat("ab", 16)}
	for _, k := range keys {
		text, err := image.EncodePublicKey(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		info.Keys = append(info.Keys, string(text))
	}
	return info
}

// newImage makes a small image, signed; what changes from release to release is
// its kernel, a block of its root and its command lines.
func newImage(t testing.TB, release string) image.Image {
	t.Helper()
	return newMaking(t, release).image(t)
}

func (k making) image(t testing.TB) image.Image {
	t.Helper()
	release := k.release
	text, err := cmdline.EncodeInfo(k.info)
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := initrd.Pack([]initrd.File{{Name: "etc/pikelet/boot.json", Mode: 0o644, Data: text}}, time.Unix(1_790_000_000, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	root := smallRoot(t, release)
	h := verity.NewHasher(verity.Salt())
	if _, err := h.Write(root); err != nil {
		t.Fatal(err)
	}
	params, tree, err := h.Tree()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"cmdline-a.txt":     []byte("slot=a " + release + "\n"),
		"cmdline-b.txt":     []byte("slot=b " + release + "\n"),
		"cmdline-net.txt":   []byte("slot=net\n"),
		"start.elf":         bytes.Repeat([]byte("firmware"), 4000),
		"vmlinuz":           bytes.Repeat([]byte("kernel "+release), 12_000),
		"config.txt":        []byte("[all]\n"),
		image.InitramfsFile: initramfs,
		image.RootFile:      append(root, tree...),
	}
	m := &image.Manifest{
		Format: image.Format, Stream: "lab", Release: release, BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000, Arch: "arm64",
		Boards: []string{"rpi3"}, SlotSize: 40 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{
			DataBlocks: params.DataBlocks, Salt: hex.EncodeToString(params.Salt), Hash: hex.EncodeToString(params.RootHash),
			Generation: squashfs.Generation, Compression: squashfs.Fast().Name, BlockSize: squashfs.Fast().BlockSize,
		},
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		m.Files = append(m.Files, image.File{Name: name, Size: int64(len(files[name])), Digest: image.DigestOf(files[name])})
	}
	if k.change != nil {
		k.change(m)
	}
	if text, err = m.Encode(); err != nil {
		t.Fatal(err)
	}
	oci, err := image.EncodeOCI(m, text)
	if err != nil {
		t.Fatal(err)
	}
	var list []image.Signed
	for _, key := range k.signers {
		signed, err := image.Sign(oci, key)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, signed)
	}
	if k.more != nil {
		list = append(list, k.more(image.DigestOf(oci))...)
	}
	return image.Image{
		Manifest: m, Text: text, Signature: image.Signature{Manifest: oci, Signatures: list},
		Digest: image.DigestOf(oci), Source: image.Memory(files),
	}
}

// hooked is the source of an image whose files are opened by a function.
type hooked struct {
	image.Source
	open func(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error)
}

// Open implements image.Source.
func (h hooked) Open(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	return h.open(ctx, f, at, n)
}

func sizesOf(t testing.TB, img image.Image) slots.Sizes {
	t.Helper()
	s, err := slots.SizesOf(img)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publics(k *ecdsa.PrivateKey) []*ecdsa.PublicKey { return []*ecdsa.PublicKey{&k.PublicKey} }
