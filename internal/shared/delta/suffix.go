package delta

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"index/suffixarray"
	"io"
)

// suffixes returns where the suffixes of data begin, in their order.
//
// The array inside index/suffixarray is not exported, but Index.Write is its
// exchange format: a length, the data, and then the array in blocks of varints.
// Going through it costs a second for 100 MB, of half a minute that finding
// matches takes, and neither unsafe nor a sorting of our own.
func suffixes(data []byte) ([]int32, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("a file of %d bytes; a patch is for %d at most", len(data), MaxFile)
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(suffixarray.New(data).Write(w)) }()
	defer r.Close()
	array, err := decodeSuffixes(bufio.NewReaderSize(r, 1<<20), len(data))
	if err != nil {
		return nil, fmt.Errorf("the suffix array of the standard library is written in a way that is not known here: %w", err)
	}
	return array, nil
}

// intSize is what an integer takes there, bytes: a varint with room behind it.
const intSize = binary.MaxVarintLen64

var errOrder = errors.New("unexpected suffixarray encoding")

func decodeSuffixes(r *bufio.Reader, n int) ([]int32, error) {
	readInt := func() (int64, error) {
		var b [intSize]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return 0, err
		}
		v, _ := binary.Varint(b[:])
		return v, nil
	}
	if got, err := readInt(); err != nil || got != int64(n) {
		return nil, errors.Join(errOrder, err)
	}
	if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
		return nil, err
	}
	array := make([]int32, 0, n)
	var block bytes.Buffer
	for len(array) < n {
		size, err := readInt()
		if err != nil {
			return nil, err
		}
		if size <= intSize || size > 1<<20 {
			return nil, errOrder
		}
		block.Reset()
		if _, err := io.CopyN(&block, r, size-intSize); err != nil {
			return nil, err
		}
		for b := block.Bytes(); len(b) > 0; {
			v, used := binary.Uvarint(b)
			if used <= 0 || v >= uint64(n) || len(array) == n {
				return nil, errOrder
			}
			array = append(array, int32(v))
			b = b[used:]
		}
	}
	return array, nil
}
