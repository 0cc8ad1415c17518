package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Compression is a way to compress the blocks of an image.
type Compression struct {
	Name      string // as in specs
	BlockSize int    // bytes of a block, a power of two from 4 KiB to 1 MiB
	level     zstd.EncoderLevel
	fourth    zstd.EncoderLevel // of every fourth whole block of a file
	xz        bool              // instead of zstd
}

// Fast is the default: its images are about as small as mksquashfs makes them at
// zstd's level 3, in less time. The encoder has no level between one that is as
// slow as mksquashfs and one whose output is 5 % larger; alternating between the
// two stands in for one (docs/decisions/0006-fast.md).
// 256 KiB: larger blocks save space and cost read amplification on nodes with
// 1 GiB of memory (measured in docs/decisions/0002-own-writers.md).
func Fast() Compression {
	return Compression{Name: "fast", BlockSize: 256 << 10, level: zstd.SpeedDefault, fourth: zstd.SpeedFastest}
}

// Small is the best ratio that encoders in Go reach, LZMA2 over blocks of 1 MiB
// (docs/decisions/0006-fast.md has the figures, and what nodes pay).
func Small() Compression { return Compression{Name: "small", BlockSize: 1 << 20, xz: true} }

// FindCompression returns the compression with a name.
func FindCompression(name string) (Compression, error) {
	for _, c := range []Compression{Fast(), Small()} {
		if c.Name == name {
			return c, nil
		}
	}
	return Compression{}, fmt.Errorf("unknown compression %q, want fast or small", name)
}

// KernelOption returns the option, without CONFIG_, that a kernel needs to read
// such an image.
func (c Compression) KernelOption() string {
	if c.xz {
		return "SQUASHFS_XZ"
	}
	return "SQUASHFS_ZSTD"
}

// id is the compressor's number in squashfs_fs.h.
func (c Compression) id() uint16 {
	if c.xz {
		return 4
	}
	return 6
}

func (c Compression) check() error {
	if bs := c.BlockSize; bs&(bs-1) != 0 || bs < 4<<10 || bs > 1<<20 {
		return fmt.Errorf("block size %d is not a power of two from 4 KiB to 1 MiB", bs)
	}
	return nil
}

// Encoder compresses one block after another. It is for one goroutine.
type Encoder struct {
	most, fourth *zstd.Encoder
	dict         int // of xz, bytes
}

// NewEncoder returns an encoder of independent frames, with a window of one block,
// which the kernel can afford.
func (c Compression) NewEncoder() (*Encoder, error) { return c.encoder(c.BlockSize) }

func (c Compression) encoder(window int) (*Encoder, error) {
	if c.xz {
		return &Encoder{dict: window}, nil
	}
	level := func(l zstd.EncoderLevel) (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(window),
			zstd.WithEncoderLevel(l))
	}
	most, err := level(c.level)
	if err != nil {
		return nil, err
	}
	fourth, err := level(c.fourth)
	return &Encoder{most: most, fourth: fourth}, err
}

// Close frees the encoder.
func (e *Encoder) Close() {
	if e.most != nil {
		e.most.Close()
		e.fourth.Close()
	}
}

// Encode compresses whole block i of a file and returns it with its size word,
// as in block lists: 0 for a hole, and with a flag where the block is stored
// uncompressed because compression saves nothing. out is used if it has room.
func (e *Encoder) Encode(i int, in, out []byte) ([]byte, uint32, error) {
	if isZero(in) {
		return nil, 0, nil
	}
	if i%4 == 3 {
		return e.with(e.fourth, in, out)
	}
	return e.with(e.most, in, out)
}

// encode is Encode for everything but whole blocks of files: fragments, metadata.
func (e *Encoder) encode(in, out []byte) ([]byte, uint32, error) { return e.with(e.most, in, out) }

func (e *Encoder) with(z *zstd.Encoder, in, out []byte) ([]byte, uint32, error) {
	if z != nil {
		out = z.EncodeAll(in, out[:0])
	} else {
		var err error
		if out, err = encodeXZ(in, out[:0], e.dict); err != nil {
			return nil, 0, err
		}
	}
	if len(out) >= len(in) {
		return in, uint32(len(in)) | storedData, nil
	}
	return out, uint32(len(out)), nil
}

// encodeXZ writes one xz stream that the kernel's decoder accepts: LZMA2 with a
// dictionary of one block, and CRC-32.
func encodeXZ(in, out []byte, dict int) ([]byte, error) {
	b := bytes.NewBuffer(out)
	w, err := xz.WriterConfig{DictCap: dict, CheckSum: xz.CRC32}.NewWriter(b)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(in); err != nil {
		return nil, err
	}
	err = w.Close()
	return b.Bytes(), err
}

// Decoder decompresses blocks. It is for one goroutine.
type Decoder struct {
	c Compression
	z *zstd.Decoder
}

// NewDecoder returns a decoder of blocks of this compression.
func (c Compression) NewDecoder() (*Decoder, error) {
	if c.xz {
		return &Decoder{c: c}, nil
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(c.BlockSize, metadataSize))))
	return &Decoder{c, z}, err
}

// Decode returns the contents of a compressed block.
func (d *Decoder) Decode(in []byte) ([]byte, error) {
	return d.decodeTo(make([]byte, 0, d.c.BlockSize), in)
}

// decodeTo is Decode into room, which has space for a block.
func (d *Decoder) decodeTo(room, in []byte) ([]byte, error) {
	if !d.c.xz {
		return d.z.DecodeAll(in, room[:0])
	}
	r, err := xz.NewReader(bytes.NewReader(in))
	if err != nil {
		return nil, err
	}
	n, err := io.ReadFull(r, room[:cap(room)])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && n < cap(room) {
		err = nil
	}
	return room[:n], err
}

// Close frees the decoder.
func (d *Decoder) Close() {
	if d.z != nil {
		d.z.Close()
	}
}

// Length returns the number of bytes of a block with a size word, and whether they
// are compressed.
func Length(size uint32) (n int, compressed bool) {
	return int(size &^ storedData), size&storedData == 0
}
