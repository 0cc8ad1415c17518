package updater

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// ReadSlot checks all of a slot, as it lies on a card: the chain from one of
// the keys down to every byte of every file. It returns the slot's manifest
// and the digest that was signed.
func ReadSlot(ctx context.Context, card io.ReaderAt, t disk.Table, l slots.Letter, keys []*ecdsa.PublicKey) (*artifact.Manifest, string, error) {
	v, m, digest, err := openSlot(card, t, l, keys)
	if err != nil {
		return nil, "", err
	}
	for _, f := range m.Files {
		name, ok := l.OnSlot(f.Name)
		if !ok {
			continue
		}
		r, size, err := v.OpenFile(name)
		if err != nil {
			return nil, "", err
		}
		got, err := digestOf(withContext{ctx, r})
		if err != nil {
			return nil, "", fmt.Errorf("reading %s: %w", name, err)
		}
		if size != f.Size || got != f.Digest {
			return nil, "", fmt.Errorf("%s: its digest on the card is %s; the signed manifest says %s", name, got, f.Digest)
		}
	}
	return m, digest, nil
}

// openSlot opens a slot's volume and checks its chain from one of the keys down
// to its manifest. What its files hold is not read.
func openSlot(card io.ReaderAt, t disk.Table, l slots.Letter, keys []*ecdsa.PublicKey) (*fat.Volume, *artifact.Manifest, string, error) {
	p, err := t.Partition(l.Partition())
	if err != nil {
		return nil, nil, "", err
	}
	v, err := fat.Open(io.NewSectionReader(card, p.Start, p.Size))
	if err != nil {
		return nil, nil, "", fmt.Errorf("slot %s holds no image: %w", l, err)
	}
	signature, err := v.ReadFile(artifact.SignatureFile, artifact.MaxSignature)
	if err != nil {
		return nil, nil, "", err
	}
	text, err := v.ReadFile(artifact.ManifestFile, artifact.MaxManifest)
	if err != nil {
		return nil, nil, "", err
	}
	m, digest, err := artifact.Verify(signature, text, keys)
	return v, m, digest, err
}

// digestOf returns the digest of all that a reader holds.
func digestOf(r io.Reader) (string, error) {
	sum := sha256.New()
	_, err := io.Copy(sum, r)
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), err
}

// withContext reads until a context ends.
type withContext struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (c withContext) Read(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(b)
}
