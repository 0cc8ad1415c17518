package medium

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"
	"testing/iotest"
)

// TestPieces: whatever a reader's length, its bytes come in order, in whole
// pieces but for the last.
func TestPieces(t *testing.T) {
	for _, size := range []int{0, 1, firstRead - 1, firstRead, firstRead + 1, CopySize - 1, CopySize, CopySize + 1, 3*CopySize + 5} {
		want := make([]byte, size)
		for i := range want {
			want[i] = byte(i ^ i>>11)
		}
		var got []byte
		n, err := Pieces(bytes.NewReader(want), func(b []byte, done int64) error {
			if done != int64(len(got)) || len(b) != min(CopySize, size-len(got)) {
				t.Errorf("%d bytes: a piece of %d at %d, want it at %d", size, len(b), done, len(got))
			}
			got = append(got, b...)
			return nil
		})
		if err != nil || n != int64(size) || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d came: %v", size, n, err)
		}
	}
}

func TestPiecesPassErrorsOn(t *testing.T) {
	broken := errors.New("broken")
	for _, before := range []int{0, 10, firstRead, firstRead + 10, CopySize, CopySize + 10} {
		r := io.MultiReader(bytes.NewReader(make([]byte, before)), iotest.ErrReader(broken))
		if _, err := Pieces(r, func([]byte, int64) error { return nil }); !errors.Is(err, broken) {
			t.Errorf("broken after %d bytes: %v", before, err)
		}
		full := errors.New("full")
		if n, err := Pieces(bytes.NewReader(make([]byte, before+1)), func([]byte, int64) error { return full }); !errors.Is(err, full) || n != 0 {
			t.Errorf("nothing taken of %d bytes: %d, %v", before+1, n, err)
		}
	}
}

// TestPiecesOfSmallFiles: a slot is made of many small files; clearing whole
// buffers for each took more time than writing them.
func TestPiecesOfSmallFiles(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Pieces(bytes.NewReader(make([]byte, 100)), func([]byte, int64) error { return nil }); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > CopySize/2 {
		t.Errorf("100 bytes took %d bytes of memory", took)
	}
}

// TestPiecesOfCutInput: a reader that says its input is cut off, as decompressors
// do, is not taken for one that ended.
func TestPiecesOfCutInput(t *testing.T) {
	for _, n := range []int{0, 1, firstRead, CopySize, CopySize + 1} {
		r := io.MultiReader(bytes.NewReader(make([]byte, n)), iotest.ErrReader(io.ErrUnexpectedEOF))
		if _, err := Pieces(r, func([]byte, int64) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: got %v, want %v", n, err, io.ErrUnexpectedEOF)
		}
	}
}
