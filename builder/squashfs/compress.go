package squashfs

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Compression is how the blocks of an image are compressed.
type Compression struct {
	Name      string // as specs say it
	BlockSize int    // bytes of a block, a power of two from 4 KiB to 1 MiB
	level     zstd.EncoderLevel
	fourth    zstd.EncoderLevel // of every fourth whole block of a file
}

// Fast is what images get when nobody asks for less: about as small as
// mksquashfs makes them at zstd's level 3, in less time. The encoder has no
// level between one that is as slow as mksquashfs and one whose output is 5 %
// larger; taking them in turns is that level (docs/decisions/0006-fast.md).
// 256 KiB: larger blocks save space and cost read amplification on nodes with
// 1 GiB of memory (measured in docs/decisions/0002-own-writers.md).
func Fast() Compression {
	return Compression{"fast", 256 << 10, zstd.SpeedDefault, zstd.SpeedFastest}
}

// Small takes ten times as long and saves about an eighth
// (docs/decisions/0006-fast.md has the figures, and what nodes pay).
func Small() Compression {
	return Compression{"small", 1 << 20, zstd.SpeedBestCompression, zstd.SpeedBestCompression}
}

// FindCompression returns the compression of a name.
func FindCompression(name string) (Compression, error) {
	for _, c := range []Compression{Fast(), Small()} {
		if c.Name == name {
			return c, nil
		}
	}
	return Compression{}, fmt.Errorf("there is no compression %q, only fast and small", name)
}

// KernelOption is what a kernel must be built with to read such an image,
// without CONFIG_.
func (c Compression) KernelOption() string { return "SQUASHFS_ZSTD" }

func (c Compression) check() error {
	if bs := c.BlockSize; bs&(bs-1) != 0 || bs < 4<<10 || bs > 1<<20 {
		return fmt.Errorf("block size %d is no power of two from 4 KiB to 1 MiB", bs)
	}
	return nil
}

// Encoder compresses one block after another. It is for one goroutine.
type Encoder struct{ most, fourth *zstd.Encoder }

// NewEncoder returns an encoder whose every frame stands alone, in a window
// the kernel can afford: one block.
func (c Compression) NewEncoder() (*Encoder, error) { return c.encoder(c.BlockSize) }

func (c Compression) encoder(window int) (*Encoder, error) {
	var e Encoder
	for z, level := range map[**zstd.Encoder]zstd.EncoderLevel{&e.most: c.level, &e.fourth: c.fourth} {
		var err error
		*z, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
			zstd.WithWindowSize(window), zstd.WithEncoderLevel(level))
		if err != nil {
			return nil, err
		}
	}
	return &e, nil
}

// Close frees what the encoder holds.
func (e *Encoder) Close() {
	e.most.Close()
	e.fourth.Close()
}

// Encode compresses whole block i of a file and returns it with its size word,
// as block lists hold it: 0 for a hole, and a mark where the block is no
// smaller compressed, and is in itself. out is used where it has room.
func (e *Encoder) Encode(i int, in, out []byte) ([]byte, uint32) {
	if isZero(in) {
		return nil, 0
	}
	if i%4 == 3 {
		return encode(e.fourth, in, out)
	}
	return encode(e.most, in, out)
}

// encode is Encode for what is no whole block of a file: fragments, metadata.
func (e *Encoder) encode(in, out []byte) ([]byte, uint32) { return encode(e.most, in, out) }

func encode(z *zstd.Encoder, in, out []byte) ([]byte, uint32) {
	out = z.EncodeAll(in, out[:0])
	if len(out) >= len(in) {
		return in, uint32(len(in)) | storedData
	}
	return out, uint32(len(out))
}

// Length returns the bytes that a size word stands for, and whether they are
// compressed.
func Length(size uint32) (n int, compressed bool) {
	return int(size &^ storedData), size&storedData == 0
}
