package builder

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
	"github.com/pikelet-os/pikelet/layers"
)

// rootPlan is a root whose size is known, and whose bytes are not written yet.
type rootPlan struct {
	img         *squashfs.Image
	compression squashfs.Compression
}

// planRoot lays out the tree as a root. What lies below /boot stays out: it
// goes into the slot beside the root.
func planRoot(t *layers.Tree, epoch int64, workers int, c *contents) (*rootPlan, error) {
	o := squashfs.Options{Compression: c.pool.Compression, Time: time.Unix(epoch, 0), Workers: workers}
	img, err := squashfs.Plan(rootEntries(t), c, o)
	return &rootPlan{img, c.pool.Compression}, err
}

// size returns how many bytes the root has: the squashfs and, right behind it, its
// hash tree.
func (r *rootPlan) size() int64 { return r.img.Size + verity.TreeSize(r.blocks()) }

func (r *rootPlan) blocks() uint64 { return uint64(r.img.Size / verity.BlockSize) }

// meta describes the root but for its verity hash.
func (r *rootPlan) meta() image.Root {
	return image.Root{DataBlocks: r.blocks(), Salt: hex.EncodeToString(verity.Salt()),
		Generation: squashfs.Generation, Compression: r.compression.Name, BlockSize: r.compression.BlockSize}
}

// sealed are the hashes of a root: what its manifest lacked.
type sealed struct {
	digest string // of all of it, sha256:…
	verity string // in hexadecimal digits
}

// addTo completes the description of an image with those of its root.
func (s sealed) addTo(m *image.Manifest) {
	m.Root.Hash = s.verity
	for i := range m.Files {
		if m.Files[i].Name == image.RootFile {
			m.Files[i].Digest = s.digest
		}
	}
}

// seal writes a root into a new file and to all other places it belongs, in one
// pass over blocks that were compressed as the tree came together. Both hashes
// ride on that pass.
func seal(ctx context.Context, p *rootPlan, file string, places []*rootPlace, in Inputs) (sealed, error) {
	m := in.step("writing the root", p.img.Size)
	f, err := os.Create(file)
	if err != nil {
		return sealed{}, err
	}
	defer f.Close()
	places = append([]*rootPlace{{f: f, uncached: true}}, places...)
	h, sum := verity.NewHasher(verity.Salt()), sha256.New()
	takers := []io.Writer{sum, h}
	for _, to := range places {
		takers = append(takers, to)
	}
	s := newStream(ctx, append(takers, meteredWriter{m})...)
	_, err = p.img.WriteTo(s)
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return sealed{}, fmt.Errorf("writing the root: %w", err)
	}
	m.end()
	params, tree, err := h.Tree()
	if err != nil {
		return sealed{}, err
	}
	sum.Write(tree)
	for _, to := range places {
		if _, err := to.Write(tree); err != nil {
			return sealed{}, fmt.Errorf("writing the hash tree: %w", err)
		}
	}
	return sealed{image.DigestOfSum(sum.Sum(nil)), hex.EncodeToString(params.RootHash)}, f.Close()
}

// rootPlace is where a root is written to: a file, or a part of one.
type rootPlace struct {
	f        *os.File
	at       int64
	uncached bool // not read back soon
}

func (p *rootPlace) Write(b []byte) (int, error) {
	at := p.at
	p.at += int64(len(b))
	if p.uncached {
		return len(b), writeUncached(p.f, b, at)
	}
	return p.f.WriteAt(b, at)
}

// rootEntries lists the tree as the root has it. Of the names a file has, the
// first in the root is the file, and the others are hard links to it. Names
// below /boot are not in the root.
func rootEntries(t *layers.Tree) []squashfs.Entry {
	list := slices.DeleteFunc(t.Entries(), func(e *layers.Entry) bool { return strings.HasPrefix(e.Name, "boot/") })
	links := layers.HardLinks(list)
	entries := make([]squashfs.Entry, 0, len(list))
	for _, e := range list {
		entry := squashfs.Entry{Header: &e.Header}
		if to := links[e]; to != nil {
			h := e.Header
			h.Typeflag, h.Linkname = tar.TypeLink, to.Name
			entry.Header = &h
		} else if e.Content != nil {
			entry.Packed = e.Content
		}
		entries = append(entries, entry)
	}
	return entries
}
