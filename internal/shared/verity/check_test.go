package verity

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
)

// TestChecker: what a Hasher made is read back, and each bit that flips is
// found, in data and tree alike.
func TestChecker(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, blocks := range []int{1, 2, 128, 129, 300} {
		data := make([]byte, blocks*BlockSize)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		h := NewHasher(Salt())
		h.Write(data)
		p, tree, err := h.Tree()
		if err != nil {
			t.Fatal(err)
		}
		all := append(bytes.Clone(data), tree...)
		c, err := NewChecker(bytes.NewReader(all), p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d blocks: %v", blocks, err)
		}
		for range 50 {
			at := r.IntN(len(data))
			part := make([]byte, 1+r.IntN(len(data)-at))
			if n, err := c.ReadAt(part, int64(at)); err != nil || n != len(part) || !bytes.Equal(part, data[at:at+n]) {
				t.Fatalf("%d bytes at %d: %d, %v", len(part), at, n, err)
			}
			flip := r.IntN(len(all))
			all[flip] ^= 1 << r.IntN(8)
			bad, err := NewChecker(bytes.NewReader(all), p)
			if err == nil && flip < len(data) {
				_, err = bad.ReadAt(make([]byte, 1), int64(flip))
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("%d blocks: byte %d flipped: got %v, want ErrCorrupt", blocks, flip, err)
			}
			copy(all, data)
			copy(all[len(data):], tree)
		}
	}
}
