// Package adb reads the container of apk's format 3 (docs/platform.md 5.9): a
// compressed stream of blocks, and in the first of them values that refer to one
// another by offset. What the values mean, and whether a signature is good, is for the
// reader to judge.
package adb

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// Schema says what the root of the values is: four letters, as they stand in
// the file.
type Schema [4]byte

func (s Schema) String() string { return fmt.Sprintf("%q", s[:]) }

// The schemas of files that are handed round.
var (
	Index   = Schema{'i', 'n', 'd', 'x'}
	Package = Schema{'p', 'c', 'k', 'g'}
)

// Kind is what a block holds.
type Kind uint32

// The kinds in the order in which they may come: one block of values,
// signatures, data.
const (
	Values Kind = iota
	Signature
	Data
	extended // a header of 16 bytes, whose low bits are the kind
)

func (k Kind) String() string {
	switch k {
	case Values:
		return "values"
	case Signature:
		return "signature"
	case Data:
		return "data"
	}
	return fmt.Sprintf("kind %d", uint32(k))
}

const (
	magic     = "ADB"
	alignment = 8

	shortHeader = 4  // kind and size
	longHeader  = 16 // kind, reserved, size
	sizeBits    = 1<<30 - 1

	// zstdWindow is what zstd's highest level takes of memory, and apk has no
	// option for more.
	zstdWindow = 128 << 20
)

// Is reports whether a file that begins like this is of format 3.
func Is(head []byte) bool { return bytes.HasPrefix(head, []byte(magic)) }

// Stream is an open file of format 3. Read reads the contents of the block that
// Next went to.
type Stream struct {
	Schema Schema
	Kind   Kind
	Size   int64 // bytes of the block's contents

	packed *bufio.Reader
	plain  *bufio.Reader
	zstd   *zstd.Decoder
	at     int64 // bytes of the plain stream before the block's contents
	left   int64 // of the contents
}

// Open reads the head of a file and finds out how it is compressed.
func Open(r io.Reader) (*Stream, error) {
	s := &Stream{packed: bufio.NewReaderSize(r, 64<<10)}
	head, err := s.packed.Peek(4)
	if err != nil || !Is(head) {
		return nil, fmt.Errorf("the file begins with %q, want %s", head, magic)
	}
	if err := s.decompress(head[3]); err != nil {
		return nil, err
	}
	var b [8]byte
	if _, err := io.ReadFull(s.plain, b[:]); err != nil {
		s.Close()
		return nil, fmt.Errorf("reading the header: %w", whole(err))
	}
	if string(b[:4]) != magic+"." {
		s.Close()
		return nil, fmt.Errorf("the unpacked file begins with %q, want %s", b[:4], magic+".")
	}
	s.at, s.Schema = int64(len(b)), Schema(b[4:])
	return s, nil
}

// decompress sets the reader of plain bytes for the fourth byte of the file.
func (s *Stream) decompress(fourth byte) error {
	const none, deflate, zstandard = 0, 1, 2
	algorithm := byte(none)
	switch fourth {
	case '.':
	case 'd':
		algorithm = deflate
		s.packed.Discard(4)
	case 'c': // algorithm and level
		var b [6]byte
		if _, err := io.ReadFull(s.packed, b[:]); err != nil {
			return fmt.Errorf("reading the compression: %w", whole(err))
		}
		algorithm = b[4]
	default:
		return fmt.Errorf("unsupported compression: the file begins with %q", magic+string(fourth))
	}
	switch algorithm {
	case none:
		s.plain = s.packed
	case deflate:
		s.plain = bufio.NewReaderSize(flate.NewReader(s.packed), 64<<10)
	case zstandard:
		d, err := zstd.NewReader(s.packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return err
		}
		s.zstd = d
		s.plain = bufio.NewReaderSize(d, 64<<10)
	default:
		return fmt.Errorf("unsupported compression: algorithm %d", algorithm)
	}
	return nil
}

// Close frees what the stream holds; it does not close what Open was given.
func (s *Stream) Close() {
	if s.zstd != nil {
		s.zstd.Close()
	}
}

// Next goes to the next block, past what is left of this one. Behind the last it
// returns io.EOF.
func (s *Stream) Next() error {
	if err := s.skip(); err != nil {
		return err
	}
	head, err := s.plain.Peek(longHeader)
	if len(head) == 0 {
		if err == io.EOF {
			return s.end()
		}
		return fmt.Errorf("reading the block at offset %d: %w", s.at, err)
	}
	if len(head) < shortHeader {
		return fmt.Errorf("reading the block at offset %d: %w", s.at, whole(err))
	}
	word := binary.LittleEndian.Uint32(head)
	kind, header, size := Kind(word>>30), uint64(shortHeader), uint64(word&sizeBits)
	if kind == extended {
		if len(head) < longHeader {
			return fmt.Errorf("reading the block at offset %d: %w", s.at, whole(err))
		}
		kind, header, size = Kind(word&sizeBits), longHeader, binary.LittleEndian.Uint64(head[8:])
	}
	if kind > Data {
		return fmt.Errorf("the block at offset %d is of unknown kind %d", s.at, uint32(kind))
	}
	if size < header || size > math.MaxInt64/2 {
		return fmt.Errorf("the block at offset %d: invalid size %d", s.at, size)
	}
	s.plain.Discard(int(header))
	s.at += int64(header)
	s.Kind, s.Size, s.left = kind, int64(size-header), int64(size-header)
	return nil
}

// skip passes over the rest of a block and its padding.
func (s *Stream) skip() error {
	rest := s.left
	end := s.at + s.Size
	rest += -end & (alignment - 1)
	if n, err := io.CopyN(io.Discard, s.plain, rest); err != nil {
		return fmt.Errorf("%d bytes are missing at the end of the block at offset %d: %w", rest-n, s.at, whole(err))
	}
	s.at = end + -end&(alignment-1)
	s.Size, s.left = 0, 0
	return nil
}

// end checks that nothing lies behind the compressed stream.
func (s *Stream) end() error {
	if _, err := s.packed.ReadByte(); err != io.EOF {
		if err == nil {
			err = errors.New("there is more behind the end of the compressed stream")
		}
		return err
	}
	return io.EOF
}

// Read reads contents of the block.
func (s *Stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.plain.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if err == io.EOF && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err == io.EOF {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("reading the block at offset %d: %w", s.at, err)
	}
	return n, err
}

// ReadAll returns the contents of the block, which may have limit bytes. Memory
// is taken for what came, not for what was announced.
func (s *Stream) ReadAll(limit int64) ([]byte, error) {
	if s.Size > limit {
		return nil, fmt.Errorf("the %s block at offset %d has %d bytes, more than %d", s.Kind, s.at, s.Size, limit)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(s); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// whole makes the end of a file in the middle of something an error of its own.
func whole(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
