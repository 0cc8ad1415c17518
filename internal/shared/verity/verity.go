// Package verity makes the dm-verity hash tree that lets the kernel check
// every block of a root, and words the table line that opens one.
//
// The format is the one of the kernel's dm-verity target, version 1, without
// a superblock: SHA-256, 4096-byte data and hash blocks, the salt hashed
// before the block (Documentation/admin-guide/device-mapper/verity.rst).
// veritysetup is the judge in the tests.
package verity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// BlockSize is the size in bytes of data and hash blocks alike. 4096 is what
// the kernel's page cache and veritysetup use by default.
const BlockSize = 4096

// hashesPerBlock is how many SHA-256 sums fill one hash block.
const hashesPerBlock = BlockSize / sha256.Size

// Salt is hashed before every block. It is one constant, not a random number
// and not the build's: a root is a pure function of its tree, and a salt that
// changed with each release would change every hash block with it, which an
// upgrade then had to carry.
func Salt() []byte {
	sum := sha256.Sum256([]byte("pikelet root, verity format 1"))
	return sum[:]
}

// Params is what is needed to open a root: how much data, where the hashes
// begin and what the hashes must come to.
type Params struct {
	DataBlocks uint64 // 4096-byte blocks of data; the hash tree follows them
	Salt       []byte // at most 256 bytes
	RootHash   []byte // 32 bytes
}

// Table returns the parameters of the kernel's verity target for a device
// that holds data and, right behind it, the hash tree. A corrupt block is
// answered with EIO: no option asks the kernel to restart or panic, because a
// committed node with one bad block in an unused file should go on working.
func (p Params) Table(device string) string {
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %s", device, device,
		BlockSize, BlockSize, p.DataBlocks, p.DataBlocks,
		hex.EncodeToString(p.RootHash), hex.EncodeToString(p.Salt))
}

// TreeSize returns the bytes of the hash tree over so many data blocks.
func TreeSize(dataBlocks uint64) int64 {
	var blocks uint64
	for n := dataBlocks; n > 1; {
		n = (n + hashesPerBlock - 1) / hashesPerBlock
		blocks += n
	}
	return int64(blocks) * BlockSize
}

// Hasher takes the data of a root as it streams by and keeps one hash per
// block: 8 MiB of memory for each GiB of root.
type Hasher struct {
	salt   []byte
	part   []byte // the block not yet full
	leaves []byte // one sum per full block
}

// NewHasher returns a Hasher that salts with salt.
func NewHasher(salt []byte) *Hasher {
	return &Hasher{salt: salt, part: make([]byte, 0, BlockSize)}
}

// Write takes the next bytes of data. It returns no error.
func (h *Hasher) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(h.part) == 0 && len(p) >= BlockSize {
			h.leaves = appendSum(h.leaves, h.salt, p[:BlockSize])
			p = p[BlockSize:]
			continue
		}
		take := min(BlockSize-len(h.part), len(p))
		h.part = append(h.part, p[:take]...)
		p = p[take:]
		if len(h.part) == BlockSize {
			h.leaves = appendSum(h.leaves, h.salt, h.part)
			h.part = h.part[:0]
		}
	}
	return n, nil
}

// Tree returns the parameters and the hash tree, topmost level first. It
// fails when the data was empty or no multiple of BlockSize.
func (h *Hasher) Tree() (Params, []byte, error) {
	if len(h.part) != 0 || len(h.leaves) == 0 {
		return Params{}, nil, fmt.Errorf("hashing a root: %d bytes, want a positive multiple of %d",
			len(h.leaves)/sha256.Size*BlockSize+len(h.part), BlockSize)
	}
	p := Params{DataBlocks: uint64(len(h.leaves) / sha256.Size), Salt: h.salt}
	var levels [][]byte
	sums := h.leaves
	for len(sums) > sha256.Size {
		level := make([]byte, (len(sums)+BlockSize-1)/BlockSize*BlockSize)
		copy(level, sums)
		levels = append(levels, level)
		sums = nil
		for at := 0; at < len(level); at += BlockSize {
			sums = appendSum(sums, h.salt, level[at:at+BlockSize])
		}
	}
	p.RootHash = sums
	var tree []byte
	for i := len(levels) - 1; i >= 0; i-- {
		tree = append(tree, levels[i]...)
	}
	return p, tree, nil
}

func appendSum(to, salt, block []byte) []byte {
	d := sha256.New()
	d.Write(salt)
	d.Write(block)
	return d.Sum(to)
}
