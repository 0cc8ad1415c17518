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
	"maps"
	"slices"
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

// Referrers lists what the shelf says of any image, and the bundles that are about
// this one.
func (s *shelf) Referrers(_ context.Context, digest string) ([]image.Descriptor, error) {
	s.Lock()
	defer s.Unlock()
	list := s.list
	for _, d := range slices.Sorted(maps.Keys(s.blobs)) {
		if _, err := image.AttestationIn(s.blobs[d], digest); err == nil {
			list = append(list[:len(list):len(list)], image.Describe(s.blobs[d]))
		}
	}
	return list, nil
}

func (s *shelf) PutReferrers(context.Context, string, []image.Descriptor) error { return nil }

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
	m.manifest = &image.Manifest{
		Format: image.Format, Stream: "lab", Release: release, BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000,
		Arch: "arm64", Boards: []string{"vm"}, SlotSize: 64 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{DataBlocks: 1, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, Compression: "fast", BlockSize: 131072},
	}
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
		arm64 := &image.Platform{Architecture: "arm64", OS: "linux"}
		m.index = &image.OCIIndex{
			SchemaVersion: 2, MediaType: image.MediaOCIIndex, ArtifactType: image.ArtifactType,
			Manifests: []image.Descriptor{
				{MediaType: image.MediaOCIManifest, Digest: digest, Size: int64(len(oci)), Platform: arm64},
			},
		}
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

// renamed makes it an image of another stream, whole in itself.
func renamed(t testing.TB, m *making, stream string) {
	m.manifest.Stream = stream
	text, err := m.manifest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	m.again(t, text)
}
