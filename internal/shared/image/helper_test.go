package image

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

func sample() *Manifest {
	blocks := uint64(1000)
	m := &Manifest{
		Format: Format, Stream: "homelab", Release: "1.2", BuildID: strings.Repeat("0123456789abcdef", 2), Epoch: 1_790_000_000,
		Arch: "arm64", Boards: []string{"rpi4"}, SlotSize: 1 << 30, Packages: DigestOf([]byte("packages")),
		Root: Root{DataBlocks: blocks, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, Compression: "fast", BlockSize: 262144},
		Files: []File{
			{Name: "vmlinuz", Size: 3, Digest: DigestOf([]byte("abc"))},
			{Name: "cmdline-a.txt", Size: 1, Digest: DigestOf([]byte("x"))},
			{Name: RootFile, Size: int64(blocks)*4096 + verity.TreeSize(blocks), Digest: DigestOf([]byte("root"))},
		},
	}
	return m
}

// testKey is a fixed key, so that what it signs can be golden.
func testKey(n int64) *ecdsa.PrivateKey {
	raw := make([]byte, 32)
	binary.BigEndian.PutUint64(raw[24:], uint64(n))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), raw)
	if err != nil {
		panic(err)
	}
	return k
}

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Errorf("%s was written", file)
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// encoded returns the two manifests of the sample.
func encoded(t *testing.T) (manifest, oci []byte) {
	t.Helper()
	m := sample()
	manifest, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	oci, err = EncodeOCI(m, manifest)
	if err != nil {
		t.Fatal(err)
	}
	return manifest, oci
}

func signed(t *testing.T, key *ecdsa.PrivateKey) (signature, manifest []byte) {
	t.Helper()
	manifest, oci := encoded(t)
	s, err := Sign(oci, key)
	if err != nil {
		t.Fatal(err)
	}
	signature, err = Signature{Manifest: oci, Signatures: []Signed{s}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return signature, manifest
}

func mustDecode(t *testing.T, m *Manifest) *Manifest {
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	d, err := DecodeManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustEncode(t *testing.T) []byte {
	b, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}
