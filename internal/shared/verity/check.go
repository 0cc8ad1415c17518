package verity

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Checker reads a root and checks every block that it reads, as the kernel does.
// It is for several goroutines, and keeps the hash tree: 8 MiB for each GiB of
// root.
type Checker struct {
	r      io.ReaderAt
	salt   []byte
	leaves []byte
}

// MaxDataBlocks bounds the root that a Checker is made for: 4 GiB, what one
// file on a FAT may have.
const MaxDataBlocks = 1 << 20

// ErrCorrupt is returned for a block whose hash is not the signed one.
var ErrCorrupt = errors.New("block does not match its signed hash")

// NewChecker reads the hash tree of a root and checks it.
func NewChecker(r io.ReaderAt, p Params) (*Checker, error) {
	if p.DataBlocks == 0 || p.DataBlocks > MaxDataBlocks {
		return nil, fmt.Errorf("checking a root of %d blocks; want at most %d", p.DataBlocks, MaxDataBlocks)
	}
	tree := make([]byte, TreeSize(p.DataBlocks))
	at := int64(p.DataBlocks) * BlockSize
	if n, err := r.ReadAt(tree, at); n < len(tree) {
		return nil, fmt.Errorf("reading a hash tree: %w", err)
	}
	var levels []int // bytes of each level, the leaves' first
	for n := p.DataBlocks; n > 1; {
		n = (n + hashesPerBlock - 1) / hashesPerBlock
		levels = append(levels, int(n)*BlockSize)
	}
	sums := p.RootHash
	for i := len(levels) - 1; i >= 0; i-- {
		level := tree[:levels[i]]
		tree = tree[levels[i]:]
		for k := 0; k < len(level); k += BlockSize {
			if want := sums[k/BlockSize*sha256.Size:][:sha256.Size]; !bytes.Equal(appendSum(nil, p.Salt, level[k:k+BlockSize]), want) {
				return nil, fmt.Errorf("reading a hash tree: %w", ErrCorrupt)
			}
		}
		sums = level
	}
	return &Checker{r, p.Salt, bytes.Clone(sums[:int(p.DataBlocks)*sha256.Size])}, nil
}

// Size returns the bytes of data.
func (c *Checker) Size() int64 { return int64(len(c.leaves)/sha256.Size) * BlockSize }

// Good reports whether b, whole blocks that lie at a place, is what was signed.
func (c *Checker) Good(b []byte, at int64) bool {
	for ; len(b) >= BlockSize; b, at = b[BlockSize:], at+BlockSize {
		i := at / BlockSize * sha256.Size
		if i < 0 || int(i) >= len(c.leaves) || !bytes.Equal(appendSum(nil, c.salt, b[:BlockSize]), c.leaves[i:i+sha256.Size]) {
			return false
		}
	}
	return true
}

// ReadAt implements io.ReaderAt. A block that is not what was signed is
// ErrCorrupt.
func (c *Checker) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	end := min(off+int64(len(p)), c.Size())
	if off >= end {
		return 0, io.EOF
	}
	from, to := off&^(BlockSize-1), (end+BlockSize-1)&^(BlockSize-1)
	buf := p
	if from != off || to != off+int64(len(p)) {
		buf = make([]byte, to-from)
	}
	if n, err := c.r.ReadAt(buf, from); n < len(buf) {
		return 0, err
	}
	if !c.Good(buf, from) {
		return 0, fmt.Errorf("reading a root at byte %d: %w", off, ErrCorrupt)
	}
	n := len(p)
	if &buf[0] != &p[0] {
		n = copy(p, buf[off-from:end-from])
	}
	if int64(n) < int64(len(p)) {
		return n, io.EOF
	}
	return n, nil
}
