package updater

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// ReadSlot checks all of a slot, as it lies on a card: the chain from one of
// the keys down to every byte of every file.
func ReadSlot(ctx context.Context, card io.ReaderAt, t disk.Table, l slots.Letter, keys []*ecdsa.PublicKey) (Candidate, error) {
	s, err := openSlot(card, t, l, keys)
	if err != nil {
		return Candidate{}, err
	}
	return s.Candidate, s.readFiles(ctx)
}

// readFiles compares every file of a slot with the manifest.
func (s slot) readFiles(ctx context.Context) error {
	for _, f := range s.Files {
		name, ok := s.letter.OnSlot(f.Name)
		if !ok {
			continue
		}
		r, size, err := s.volume.OpenFile(name, f.Size)
		if err != nil {
			return err
		}
		got, err := digestOf(withContext(ctx, r))
		if err != nil {
			return fmt.Errorf("reading %q: %w", name, err)
		}
		if size != f.Size || got != f.Digest {
			return errDigest(name, got, f.Digest)
		}
	}
	return nil
}

// openSlot opens a slot's volume and checks its chain from one of the keys down
// to its manifest. What its files hold is not read.
func openSlot(card io.ReaderAt, t disk.Table, l slots.Letter, keys []*ecdsa.PublicKey) (s slot, err error) {
	p, err := t.Partition(l.Partition())
	if err != nil {
		return s, err
	}
	s.letter = l
	if s.volume, err = fat.Open(io.NewSectionReader(card, p.Start, p.Size)); err != nil {
		return s, fmt.Errorf("opening slot %q: %w", l, err)
	}
	if s.signature, err = s.volume.ReadFile(image.SignatureFile, image.MaxSignature); err != nil {
		return s, err
	}
	if s.text, err = s.volume.ReadFile(image.ManifestFile, image.MaxManifest); err != nil {
		return s, err
	}
	if s.Manifest, s.Digest, err = image.Verify(s.signature, s.text, keys); err != nil {
		return s, err
	}
	signed, err := image.DecodeSignature(s.signature)
	s.Signatures = signed.Signatures
	return s, err
}

// digestOf returns the digest of all that a reader holds.
func digestOf(r io.Reader) (string, error) {
	sum := sha256.New()
	_, err := io.Copy(sum, r)
	return image.DigestOfSum(sum.Sum(nil)), err
}

// errDigest reports that a file on the card differs from the signed manifest.
func errDigest(name, got, want string) error {
	return fmt.Errorf("%s: digest mismatch: the card has %s, the signed manifest says %s", name, got, want)
}

// withContext returns a reader of what r reads, until ctx ends.
func withContext(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return r.Read(b)
	})
}

type readerFunc func([]byte) (int, error)

// Read implements io.Reader.
func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
