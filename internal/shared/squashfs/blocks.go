package squashfs

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/sparse"
)

// BlockReader reads a file block by block. Blocks that lie in a hole of a file
// on disk are not read.
type BlockReader struct {
	r         io.Reader
	f         *os.File // r, if it is a file that may have holes; nil otherwise
	blockSize int
	size, at  int64
	data, end int64 // of f: the next extent with data, from data to end
}

// NewBlockReader returns a reader of the size bytes of r.
func NewBlockReader(r io.Reader, size int64, blockSize int) *BlockReader {
	b := &BlockReader{r: r, blockSize: blockSize, size: size}
	if f, ok := r.(*os.File); ok && size >= int64(blockSize) {
		b.f = f
	}
	return b
}

// Next fills buf, which has room for a block, with the next whole block or with
// the rest of the file. It returns the number of bytes, and whether they are zeros
// in a hole that was not read: buf is then unchanged. At the end, and only there,
// n is 0.
func (b *BlockReader) Next(buf []byte) (n int, hole bool, err error) {
	n = int(min(int64(b.blockSize), b.size-b.at))
	if n == 0 {
		return 0, false, b.ended()
	}
	if b.f == nil {
		_, err = io.ReadFull(b.r, buf[:n])
	} else {
		if b.at >= b.end {
			b.data, b.end = sparse.Next(b.f, b.at, b.size)
		}
		if hole = b.data >= b.at+int64(n); !hole {
			_, err = b.f.ReadAt(buf[:n], b.at)
		}
	}
	if err != nil {
		return 0, false, fmt.Errorf("reading %d bytes: %w", b.size, noEOF(err))
	}
	b.at += int64(n)
	return n, hole, nil
}

// noEOF turns io.EOF into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ended returns an error unless r is at its end.
func (b *BlockReader) ended() error {
	var one [1]byte
	var n int
	if b.f != nil {
		n, _ = b.f.ReadAt(one[:], b.size)
	} else {
		n, _ = io.ReadFull(b.r, one[:])
	}
	if n > 0 {
		return fmt.Errorf("got more than the %d bytes announced", b.size)
	}
	return nil
}

// zeros are the contents of holes; the slice is never written to.
var zeros [64 << 10]byte

func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// WriteZeros writes n zeros, such as the contents of a hole to a hash.
func WriteZeros(w io.Writer, n int) {
	for n > 0 {
		part := min(n, len(zeros))
		w.Write(zeros[:part])
		n -= part
	}
}
