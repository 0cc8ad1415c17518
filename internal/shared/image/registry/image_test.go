package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// shelf is a place in memory that holds whatever it was given, and may lie.
type shelf struct {
	sync.Mutex
	tags  map[string]string  // tag to digest
	blobs map[string][]byte  // by what they are asked for
	list  []image.Descriptor // of what it says refers to any image
	asked []string           // blobs that were asked for
}

func newShelf() *shelf { return &shelf{tags: map[string]string{}, blobs: map[string][]byte{}} }

func (s *shelf) String() string { return "shelf" }

func (s *shelf) put(b []byte) string {
	s.Lock()
	defer s.Unlock()
	d := image.DigestOf(b)
	s.blobs[d] = b
	return d
}

func (s *shelf) Manifest(_ context.Context, ref string) (image.Descriptor, []byte, error) {
	s.Lock()
	defer s.Unlock()
	if d, ok := s.tags[ref]; ok {
		ref = d
	}
	b, ok := s.blobs[ref]
	if !ok {
		return image.Descriptor{}, nil, fmt.Errorf("no %s: %w", ref, fs.ErrNotExist)
	}
	return image.Describe(b), b, nil
}

func (s *shelf) Blob(_ context.Context, digest string, _, from int64) (io.ReadCloser, error) {
	s.Lock()
	defer s.Unlock()
	s.asked = append(s.asked, digest)
	b, ok := s.blobs[digest]
	if !ok {
		return nil, fmt.Errorf("no %s: %w", digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b[min(from, int64(len(b))):])), nil
}

func (s *shelf) Remote() bool { return false }

func (s *shelf) Backoff() time.Duration { return 0 }

func (s *shelf) Edit() error { return nil }

func (s *shelf) Finish() error { return nil }

func (s *shelf) Reference(string) string { return "shelf" }

func (s *shelf) Part(ctx context.Context, digest string, at, n int64) (io.ReadCloser, error) {
	r, err := s.Blob(ctx, digest, at+n, at)
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, n), r}, err
}

func (s *shelf) OpenAt(string, int64) (image.ReaderAt, error) { return nil, errors.ErrUnsupported }

func (s *shelf) Referrers(context.Context, string) ([]image.Descriptor, error) { return s.list, nil }

func (s *shelf) PutBlob(_ context.Context, _ image.Descriptor, open func() (io.ReadCloser, error)) error {
	r, err := open()
	if err != nil {
		return err
	}
	b, err := readAll(r)
	s.put(b)
	return err
}

func (s *shelf) PutManifest(_ context.Context, tag string, _ image.Descriptor, b []byte) error {
	d := s.put(b)
	s.Lock()
	defer s.Unlock()
	if tag != "" {
		s.tags[tag] = d
	}
	return nil
}

// making is an image that is being put onto a shelf; a test changes what it
// wants in between.
type making struct {
	key      *ecdsa.PrivateKey
	manifest *image.Manifest
	files    map[string][]byte
	text     []byte // the manifest's bytes, where they are not its encoding
	oci      *image.OCIManifest
	index    *image.OCIIndex
	unsigned map[string]bool // oci, index
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newMaking(t testing.TB, release string) *making {
	m := &making{key: newKey(t), files: map[string][]byte{
		"cmdline-a.txt": []byte("a"), "vmlinuz": []byte("kernel " + release), "initramfs": []byte("init"), "overlays/x.dtbo": []byte("x"),
		image.RootFile: bytes.Repeat([]byte("r"), int(verity.BlockSize+verity.TreeSize(1))),
	}, unsigned: map[string]bool{}}
	m.manifest = &image.Manifest{Format: image.Format, Stream: "lab", Release: release, BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000,
		Arch: "arm64", Boards: []string{"vm"}, SlotSize: 64 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{DataBlocks: 1, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, Compression: "fast", BlockSize: 131072}}
	for name, b := range m.files {
		m.manifest.Files = append(m.manifest.Files, image.File{Name: name, Size: int64(len(b)), Digest: image.DigestOf(b)})
	}
	var err error
	if m.text, err = m.manifest.Encode(); err != nil {
		t.Fatal(err)
	}
	b, err := image.EncodeOCI(m.manifest, m.text)
	if err != nil {
		t.Fatal(err)
	}
	if m.oci, err = image.DecodeOCI(b); err != nil {
		t.Fatal(err)
	}
	return m
}

// onto puts the image onto a shelf under a tag, and returns the digest of its
// OCI manifest.
func (m *making) onto(t testing.TB, s *shelf, tag string) string {
	t.Helper()
	for _, b := range m.files {
		s.put(b)
	}
	s.put(m.text)
	oci := encode(t, m.oci)
	digest := s.put(oci)
	if m.index == nil {
		m.index = &image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex, ArtifactType: image.ArtifactType, Manifests: []image.Descriptor{
			{MediaType: image.MediaOCIManifest, Digest: digest, Size: int64(len(oci)), Platform: &image.Platform{Architecture: "arm64", OS: "linux"}}}}
	}
	s.tags[tag] = s.put(encode(t, m.index))
	for what, d := range map[string]string{"oci": digest, "index": s.tags[tag]} {
		if !m.unsigned[what] {
			sign(t, s, d, m.key)
		}
	}
	return digest
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sign(t testing.TB, s *shelf, digest string, key *ecdsa.PrivateKey) {
	t.Helper()
	one, err := image.SignDigest(digest, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := addSignatures(context.Background(), s, digest, []image.Signed{one}); err != nil {
		t.Fatal(err)
	}
}

// again returns the manifest's text after a change, and has the OCI manifest
// follow.
func (m *making) again(t testing.TB, text []byte) {
	m.text = text
	m.oci.Config.Digest, m.oci.Config.Size = image.DigestOf(text), int64(len(text))
}

// TestTampering changes what a registry holds in every way a hostile one
// might, and asks for the image: each is refused with the reason, and nothing
// is written.
func TestTampering(t *testing.T) {
	other := newKey(t)
	json := func(m *making, from, to string) { m.again(t, bytes.Replace(m.text, []byte(from), []byte(to), 1)) }
	cases := map[string]struct {
		make  func(m *making)                          // before it is signed
		after func(s *shelf, m *making, digest string) // and behind everybody's back
		want  string
	}{
		"no signatures":                {make: func(m *making) { m.unsigned["oci"], m.unsigned["index"] = true, true }, want: "it has none"},
		"no signature of the manifest": {make: func(m *making) { m.unsigned["oci"] = true }, want: "its OCI manifest: its signature does not count: it has none"},
		"no signature of the index":    {make: func(m *making) { m.unsigned["index"] = true }, want: "the index that led to it"},
		"another key": {after: func(s *shelf, m *making, d string) {
			delete(s.tags, image.CosignTag(d))
			sign(t, s, d, other)
		}, want: "none of the 1 keys that are trusted made it"},
		"another key signed the index": {after: func(s *shelf, m *making, _ string) {
			delete(s.tags, image.CosignTag(s.tags["1.0"]))
			sign(t, s, s.tags["1.0"], other)
		}, want: "none of the 1 keys that are trusted made it"},
		"a signature of something else": {after: func(s *shelf, m *making, d string) {
			sign(t, s, image.DigestOf([]byte("else")), m.key)
			s.tags[image.CosignTag(d)] = s.tags[image.CosignTag(image.DigestOf([]byte("else")))]
		}, want: "was signed"},
		"a flipped signature": {after: func(s *shelf, m *making, d string) {
			changeSignature(t, s, d, func(sig image.Signed) image.Signed {
				sig.Signature[len(sig.Signature)-1] ^= 1
				return sig
			})
		}, want: "none of the 1 keys that are trusted made it"},
		"a changed payload": {after: func(s *shelf, m *making, d string) {
			changeSignature(t, s, d, func(sig image.Signed) image.Signed {
				sig.Payload = bytes.Replace(sig.Payload, []byte("cosign container"), []byte("cosign kontainer"), 1)
				return sig
			})
		}, want: "none of the 1 keys that are trusted made it"},
		"a payload that is not the one named": {after: func(s *shelf, m *making, d string) {
			list, _ := image.DecodeCosign(s.blobs[s.tags[image.CosignTag(d)]])
			s.blobs[list[0].Digest] = bytes.Replace(s.blobs[list[0].Digest], []byte("null"), []byte("1234"), 1)
		}, want: "digest mismatch"},
		"a payload without end": {after: func(s *shelf, m *making, d string) {
			o, _ := image.DecodeOCI(s.blobs[s.tags[image.CosignTag(d)]])
			o.Layers[0].Size = 1 << 40
			s.tags[image.CosignTag(d)] = s.put(encode(t, o))
		}, want: "what was signed has 1099511627776 bytes"},
		"a thousand signatures": {after: func(s *shelf, m *making, d string) {
			o, _ := image.DecodeOCI(s.blobs[s.tags[image.CosignTag(d)]])
			for range 1000 {
				o.Layers = append(o.Layers, o.Layers[0])
			}
			s.tags[image.CosignTag(d)] = s.put(encode(t, o))
		}, want: "there are more than 64"},
		"signatures that are no manifest": {after: func(s *shelf, m *making, d string) {
			s.tags[image.CosignTag(d)] = s.put([]byte("<html>"))
		}, want: "reading an OCI manifest"},

		"a flipped byte in a file":   {after: func(s *shelf, m *making, _ string) { flip(s, image.DigestOf(m.files["vmlinuz"])) }, want: "digest mismatch"},
		"a flipped byte in the root": {after: func(s *shelf, m *making, _ string) { flip(s, image.DigestOf(m.files[image.RootFile])) }, want: "digest mismatch"},
		"a swapped file": {after: func(s *shelf, m *making, _ string) {
			s.blobs[image.DigestOf(m.files["vmlinuz"])] = []byte("KERNEL 1.0")
		}, want: "digest mismatch"},
		"a file cut short":               {after: func(s *shelf, m *making, _ string) { s.blobs[image.DigestOf(m.files["vmlinuz"])] = []byte("kern") }, want: "truncated after 4 of 10 bytes"},
		"a file that is gone":            {after: func(s *shelf, m *making, _ string) { delete(s.blobs, image.DigestOf(m.files["vmlinuz"])) }, want: "no sha256:"},
		"a flipped byte in the config":   {after: func(s *shelf, m *making, _ string) { flip(s, image.DigestOf(m.text)) }, want: "digest mismatch"},
		"a config cut short":             {after: func(s *shelf, m *making, _ string) { s.blobs[image.DigestOf(m.text)] = m.text[:100] }, want: "truncated after 100 of"},
		"a flipped byte in the manifest": {after: func(s *shelf, m *making, d string) { flip(s, d) }, want: "was asked for"},
		"another manifest for its digest": {after: func(s *shelf, m *making, d string) {
			m.oci.Annotations["x"] = "y"
			s.blobs[d] = encode(t, m.oci)
		}, want: "was asked for"},
		"another manifest in an index of theirs": {after: func(s *shelf, m *making, d string) {
			m.oci.Annotations["x"] = "y"
			m.index.Manifests[0].Digest = s.put(encode(t, m.oci))
			s.tags["1.0"] = s.put(encode(t, m.index))
		}, want: "it has none"},
		"an index for another machine": {make: func(m *making) {
			m.index = &image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex, Manifests: []image.Descriptor{{Digest: image.DigestOf(nil), Platform: &image.Platform{Architecture: "riscv64", OS: "linux"}}}}
		}, want: `it has no image for linux/arm64, only for ["linux/riscv64"]`},
		"an index of nothing": {make: func(m *making) {
			m.index = &image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex}
		}, want: "it has no image for linux/arm64"},
		"an index that names no digest": {after: func(s *shelf, m *making, _ string) {
			m.index.Manifests[0].Digest = "sha256:../../../etc/passwd"
			s.tags["1.0"] = s.put(encode(t, m.index))
		}, want: "it names a blob"},
		"a tag that is no manifest": {after: func(s *shelf, m *making, _ string) { s.tags["1.0"] = s.put([]byte("hello")) }, want: "reading an OCI manifest"},
		"an old index under the new tag": {after: func(s *shelf, m *making, _ string) {
			old := newMaking(t, "0.9")
			old.key = m.key
			old.onto(t, s, "1.0")
		}, want: "the tag 1.0 names release 0.9"},
		"another artifact":  {make: func(m *making) { m.oci.ArtifactType = "application/vnd.example" }, want: `is a "application/vnd.example", no Pikelet image`},
		"a container image": {make: func(m *making) { m.oci.ArtifactType = "" }, want: "no Pikelet image"},
		"another stream":    {make: func(m *making) { renamed(t, m, "cabin") }, want: `is of stream "cabin"; want "lab"`},
		"a manifest too large": {make: func(m *making) {
			m.again(t, append(m.text, bytes.Repeat([]byte(" "), image.MaxManifest)...))
		}, want: "want at most 1048576"},
		"a manifest that says it is huge": {make: func(m *making) { m.oci.Config.Size = 1 << 50 }, want: "want at most 1048576"},
		"an OCI manifest too large": {make: func(m *making) {
			m.oci.Annotations["padding"] = strings.Repeat("x", image.MaxOCI)
		}, want: "more than 4194304"},
		"negative sizes":               {make: func(m *making) { m.oci.Layers[0].Size = -5 }, want: "it names a blob"},
		"a title that climbs":          {make: func(m *making) { json(m, `"vmlinuz"`, `"../vmlinuz"`); retitle(m, "vmlinuz", "../vmlinuz") }, want: `names a file "../vmlinuz"`},
		"an absolute title":            {make: func(m *making) { json(m, `"vmlinuz"`, `"/etc/vmlinuz"`); retitle(m, "vmlinuz", "/etc/vmlinuz") }, want: `names a file "/etc/vmlinuz"`},
		"a title of Windows":           {make: func(m *making) { json(m, `"vmlinuz"`, `"..\\vmlinuz"`); retitle(m, "vmlinuz", `..\vmlinuz`) }, want: "names a file"},
		"a title that climbs in OCI":   {make: func(m *making) { retitle(m, "vmlinuz", "../vmlinuz") }, want: `differ about "vmlinuz"`},
		"two files of one title":       {make: func(m *making) { json(m, `"vmlinuz"`, `"root.squashfs"`); retitle(m, "vmlinuz", image.RootFile) }, want: "out of order"},
		"an extra file":                {make: func(m *making) { m.oci.Layers = append(m.oci.Layers, m.oci.Layers[0]) }, want: "lists 6 files, manifest.json 5"},
		"a file less":                  {make: func(m *making) { m.oci.Layers = m.oci.Layers[1:] }, want: "lists 4 files, manifest.json 5"},
		"files that change places":     {make: func(m *making) { m.oci.Layers[0], m.oci.Layers[1] = m.oci.Layers[1], m.oci.Layers[0] }, want: "differ about"},
		"a layer that is another file": {make: func(m *making) { m.oci.Layers[0].Digest = m.oci.Layers[1].Digest }, want: "differ about"},
		"a manifest of a later format": {make: func(m *making) { json(m, `"format": 1`, `"format": 2`) }, want: "is of format 2"},
		"a manifest with more fields":  {make: func(m *making) { json(m, `"format": 1`, `"format": 1, "run": "rm"`) }, want: `unknown field "run"`},
		"a manifest without a root": {make: func(m *making) {
			json(m, `"root.squashfs"`, `"root.squashfz"`)
			retitle(m, image.RootFile, "root.squashfz")
		}, want: "has no root.squashfs"},
	}
	if len(cases) < 30 {
		t.Fatalf("only %d ways", len(cases))
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, m := newShelf(), newMaking(t, "1.0")
			if c.make != nil {
				c.make(m)
			}
			digest := m.onto(t, s, "1.0")
			if c.after != nil {
				c.after(s, m, digest)
			}
			dir := t.TempDir()
			for form, save := range map[string]func(context.Context, *Published, string, Progress) error{"files": SaveFiles, "layout": SaveLayout, "archive": SaveArchive} {
				out := filepath.Join(dir, form)
				img, err := Open(context.Background(), s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64", Stream: "lab"})
				if err == nil {
					err = save(context.Background(), img, out, nil)
				}
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v; want %q", form, err, c.want)
				}
				left, _ := filepath.Glob(out + "*")
				if len(left) > 0 && !errors.Is(err, io.ErrUnexpectedEOF) || len(left) > 0 && left[0] == out {
					t.Errorf("%s: %v was written all the same", form, left)
				}
			}
		})
	}
}

func flip(s *shelf, digest string) {
	b := bytes.Clone(s.blobs[digest])
	b[len(b)/2] ^= 1
	s.blobs[digest] = b
}

func retitle(m *making, from, to string) {
	for i := range m.oci.Layers {
		if m.oci.Layers[i].Annotations[image.AnnotationTitle] == from {
			m.oci.Layers[i].Annotations[image.AnnotationTitle] = to
		}
	}
}

// renamed makes it an image of another stream, whole in itself.
func renamed(t testing.TB, m *making, stream string) {
	m.manifest.Stream = stream
	text, err := m.manifest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.again(t, text)
}

func changeSignature(t testing.TB, s *shelf, digest string, change func(image.Signed) image.Signed) {
	t.Helper()
	list, err := Signatures(context.Background(), s, digest)
	if err != nil {
		t.Fatal(err)
	}
	delete(s.tags, image.CosignTag(digest))
	if err := addSignatures(context.Background(), s, digest, []image.Signed{change(list[0])}); err != nil {
		t.Fatal(err)
	}
}

// TestGoodImage: what is whole is taken, from a place of any name, by tag and
// by digest, with one of several keys; and comes out as it went in.
func TestGoodImage(t *testing.T) {
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
		if err := SaveFiles(ctx, img, out, nil); err == nil || !strings.Contains(err.Error(), "is there already") {
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

// TestGoesFromPlaceToPlace: shelf, layout, archive, another shelf: the digests
// stay, the signatures come along, and a second copy changes nothing.
func TestGoesFromPlaceToPlace(t *testing.T) {
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
	if err := Move(ctx, open("1.9"), s, "stable", nil); err == nil || !strings.Contains(err.Error(), "channel stable is at release 1.10, and this is 1.9") {
		t.Fatalf("down: %v", err)
	}
	if got := open("stable").Release; got != "1.10" {
		t.Errorf("a move that was refused moved it to %s", got)
	}
	if err := Move(ctx, open("1.9"), s, "stable", old.key); err != nil {
		t.Fatal(err)
	}
	img := open("stable")
	if got := image.Downgrades(img.Digest, img.Signature.Signatures, keys); img.Release != "1.9" || len(got) != 1 || got[0] != (image.Downgrade{Channel: "stable", From: "1.10"}) {
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
