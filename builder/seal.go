package builder

import (
	"archive/tar"
	"context"
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
	File string // its path
	Size int64
	Meta artifact.Root
}

// Seal writes the tree as a root into the folder work. What lies below /boot
// stays out: it goes into the slot beside the root.
func Seal(ctx context.Context, t *layers.Tree, epoch int64, work string, in Inputs) (*Root, error) {
	entries := t.Entries()
	total := int64(0)
	for _, e := range entries {
		if e.Open != nil && !strings.HasPrefix(e.Name, "boot/") {
			total += e.Size
		}
	}
	m := in.step(ctx, "compressing the root", total)
	var plain, links []squashfs.Entry
	for _, e := range entries {
		if strings.HasPrefix(e.Name, "boot/") {
			continue
		}
		entry := squashfs.Entry{Header: &e.Header, Open: m.opener(e.Open)}
		if e.Typeflag == tar.TypeLink {
			links = append(links, entry)
		} else {
			plain = append(plain, entry)
		}
	}
	r := &Root{File: filepath.Join(work, artifact.RootFile)}
	f, err := os.Create(r.File)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := squashfs.Write(f, append(plain, links...), squashfs.Options{Time: time.Unix(epoch, 0), Workers: in.Workers})
	if err != nil {
		return nil, err
	}
	m.end()
	h := verity.NewHasher(verity.Salt())
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return nil, fmt.Errorf("hashing the root: %w", err)
	}
	p, tree, err := h.Tree()
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteAt(tree, size); err != nil {
		return nil, fmt.Errorf("writing the hash tree: %w", err)
	}
	r.Size = size + int64(len(tree))
	r.Meta = artifact.Root{DataBlocks: p.DataBlocks, Salt: hex.EncodeToString(p.Salt), Hash: hex.EncodeToString(p.RootHash),
		Generation: squashfs.Generation, BlockSize: squashfs.DefaultBlockSize}
	return r, f.Close()
}
