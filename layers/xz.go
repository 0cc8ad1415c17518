package layers

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// maxDictionary is the largest LZMA2 dictionary xz presets use (-9); the
// format allows 4 GiB, which the reader would allocate on a file's word.
const maxDictionary = 64 << 20

// Of the .xz file format, version 1.2.1 (https://tukaani.org/xz/xz-file-format.txt).
const (
	xzMagic        = "\xfd7zXZ\x00"
	xzStreamHeader = 12 // and as long a footer
	xzFilterLZMA2  = 0x21
)

var errXZ = errors.New("reading an xz archive: damaged")

// xzChecker passes an xz file on, and refuses the header of any of its blocks
// that wants too large a dictionary before the reader behind sees it: a file
// holds any number of streams, and a stream any number of blocks.
type xzChecker struct {
	in    *bufio.Reader
	next  func() error // reads what comes next, into ready and pass
	ready []byte       // read and checked
	pass  int64        // bytes of in that need no look
	check int          // bytes of the check behind each block
	block int64        // bytes of the block so far, for its padding
}

// Read implements io.Reader.
func (x *xzChecker) Read(p []byte) (int, error) {
	for len(x.ready) == 0 && x.pass == 0 {
		if x.next == nil {
			x.next = x.stream
		}
		if err := x.next(); err != nil {
			return 0, err
		}
	}
	if len(x.ready) > 0 {
		n := copy(p, x.ready)
		x.ready = x.ready[n:]
		return n, nil
	}
	n, err := x.in.Read(p[:min(int64(len(p)), x.pass)])
	x.pass -= int64(n)
	if err == io.EOF && x.pass > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// take reads n more bytes into ready and returns all of it.
func (x *xzChecker) take(n int) ([]byte, error) {
	was := len(x.ready)
	x.ready = append(x.ready, make([]byte, n)...)
	if _, err := io.ReadFull(x.in, x.ready[was:]); err != nil {
		return nil, noEOF(err)
	}
	return x.ready, nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// stream reads a stream's header, or four zeros between two streams.
func (x *xzChecker) stream() error {
	if _, err := x.in.Peek(1); err != nil {
		return err // the end
	}
	b, err := x.take(4)
	if err != nil || binary.LittleEndian.Uint32(b) == 0 {
		return err
	}
	if b, err = x.take(xzStreamHeader - 4); err != nil {
		return err
	}
	if string(b[:len(xzMagic)]) != xzMagic {
		return errXZ
	}
	// Check ids 1 to 3 have 4 bytes, 4 to 6 have 8, and so on up to 64.
	if x.check = 0; b[7]&15 > 0 {
		x.check = 4 << ((b[7]&15 - 1) / 3)
	}
	x.next = x.header
	return nil
}

// header reads a block's header, or the index behind the last block.
func (x *xzChecker) header() error {
	b, err := x.take(1)
	if err != nil {
		return err
	}
	if b[0] == 0 {
		return x.index()
	}
	if b, err = x.take((int(b[0])+1)*4 - 1); err != nil {
		return err
	}
	fields := b[2 : len(b)-4] // behind size and flags, before the CRC
	for flags := b[1] & 0xc0; flags != 0; flags <<= 1 {
		if flags&0x80 == 0 {
			continue
		}
		n, size := binary.Uvarint(fields) // of its data, packed or unpacked
		if fields = fields[max(size, 0):]; size <= 0 || n > 1<<62 {
			return errXZ
		}
	}
	if b[1]&3 != 0 || len(fields) < 3 || fields[0] != xzFilterLZMA2 || fields[1] != 1 {
		return hint.With(errors.New("reading an xz archive: unsupported filters, want LZMA2"), "compress the archive with xz -6")
	}
	bits := fields[2]
	if bits > 40 {
		return errXZ
	}
	if size := int64(2|bits&1) << (bits/2 + 11); size > maxDictionary || bits == 40 {
		return fmt.Errorf("reading an xz archive: dictionary of %d MiB, want at most %d", size>>20, maxDictionary>>20)
	}
	x.block, x.next = 0, x.chunk
	return nil
}

// chunk reads the header of an LZMA2 chunk. Its data needs no look.
func (x *xzChecker) chunk() error {
	b, err := x.take(1)
	if err != nil {
		return err
	}
	control := b[0]
	var head int
	switch {
	case control == 0: // the block's end: padding to 4 bytes, and its check
		x.pass = -(x.block+1)&3 + int64(x.check)
		x.next = x.header
		return nil
	case control <= 2: // stored
		if b, err = x.take(2); err != nil {
			return err
		}
		head, x.pass = 3, int64(binary.BigEndian.Uint16(b[1:]))+1
	case control >= 0x80:
		head = 5
		if control >= 0xc0 {
			head = 6 // with new properties
		}
		if b, err = x.take(head - 1); err != nil {
			return err
		}
		x.pass = int64(binary.BigEndian.Uint16(b[3:])) + 1
	default:
		return errXZ
	}
	x.block += int64(head) + x.pass
	return nil
}

// index reads the index, whose first byte is ready. The footer is passed on.
func (x *xzChecker) index() error {
	size := int64(1)
	varint := func() (uint64, error) {
		for i, v := 0, uint64(0); i < 9; i++ {
			b, err := x.in.ReadByte()
			if err != nil {
				return 0, noEOF(err)
			}
			size++
			x.ready = append(x.ready, b)
			if v |= uint64(b&0x7f) << (7 * i); b < 0x80 {
				return v, nil
			}
		}
		return 0, errXZ
	}
	records, err := varint()
	if err != nil || records > maxEntries {
		return errors.Join(err, errXZ)
	}
	for range 2 * records {
		if _, err := varint(); err != nil {
			return err
		}
	}
	x.pass = -size&3 + 4 + xzStreamHeader
	x.next = x.stream
	return nil
}
