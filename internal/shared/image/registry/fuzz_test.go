package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"os"
	"path/filepath"
	"testing"
)

// FuzzArchive: an archive somebody was handed leads to an error or to the image
// that was signed.
func FuzzArchive(f *testing.F) {
	ctx := context.Background()
	s, m := newShelf(), newMaking(f, "1.0")
	digest := m.onto(f, s, "1.0")
	want := Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64"}
	img, err := Open(ctx, s, "1.0", want)
	if err != nil {
		f.Fatal(err)
	}
	whole := filepath.Join(f.TempDir(), "a.tar")
	if err := SaveArchive(ctx, img, whole, nil); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(whole)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add(bytes.Replace(b, []byte(layoutFile), []byte("../../etc/"), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		name := filepath.Join(t.TempDir(), "f.tar")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := OpenArchive(name)
		if err != nil {
			return
		}
		img, err := Open(ctx, l, "", want)
		if err == nil && img.Digest != digest {
			t.Fatalf("another image is taken: %s", img.Digest)
		}
	})
}
