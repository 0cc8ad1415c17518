package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/squashfs"
	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/verity"
	"github.com/pikelet-os/pikelet/layers"
)

// Root is the sealed tree: a squashfs and, right behind it, its hash tree.
type Root struct {
	File   string // its path
	Size   int64
	Digest string // of all of it, sha256:…
	Meta   artifact.Root
}

// Seal writes the tree as a root into the folder work. What lies below /boot
// stays out: it goes into the slot beside the root. The blocks were compressed
// as the tree came together; what is left to do is done in one pass over them,
// which both hashes ride on.
func Seal(ctx context.Context, t *layers.Tree, epoch int64, work string, in Inputs, c *contents) (*Root, error) {
	o := squashfs.Options{Compression: c.pool.Compression, Time: time.Unix(epoch, 0), Workers: in.Workers}
	image, err := squashfs.Plan(rootEntries(t), c, o)
	if err != nil {
		return nil, err
	}
	m := in.step(ctx, "writing the root", image.Size)
	r := &Root{File: filepath.Join(work, artifact.RootFile)}
	f, err := os.Create(r.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, sum := verity.NewHasher(verity.Salt()), sha256.New()
	s := newStream(ctx, meteredWriter{f, m}, sum, h)
	_, err = image.WriteTo(s)
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("writing the root: %w", err)
	}
	m.end()
	p, tree, err := h.Tree()
	if err != nil {
		return nil, err
	}
	if _, err := io.MultiWriter(f, sum).Write(tree); err != nil {
		return nil, fmt.Errorf("writing the hash tree: %w", err)
	}
	r.Size = image.Size + int64(len(tree))
	r.Digest = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	r.Meta = artifact.Root{DataBlocks: p.DataBlocks, Salt: hex.EncodeToString(p.Salt), Hash: hex.EncodeToString(p.RootHash),
		Generation: squashfs.Generation, Compression: o.Compression.Name, BlockSize: o.Compression.BlockSize}
	return r, f.Close()
}

// rootEntries lists the tree as the root has it, hard links behind what they
// link to.
func rootEntries(t *layers.Tree) []squashfs.Entry {
	var plain, links []squashfs.Entry
	for _, e := range t.Entries() {
		if strings.HasPrefix(e.Name, "boot/") {
			continue
		}
		entry := squashfs.Entry{Header: &e.Header}
		if e.Content != nil {
			entry.Packed = e.Content
		}
		if e.Typeflag == tar.TypeLink {
			links = append(links, entry)
		} else {
			plain = append(plain, entry)
		}
	}
	return append(plain, links...)
}
