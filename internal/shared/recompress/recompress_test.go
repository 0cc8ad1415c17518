package recompress

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// contents is what compresses as programs do, the same each time.
func contents(n int) []byte {
	r := rand.New(rand.NewPCG(7, 7))
	var b []byte
	for len(b) < n {
		b = append(b, byte(r.IntN(40)), byte(r.IntN(4)), 0xf9, 0x52)
		if r.IntN(5) == 0 {
			at := r.IntN(len(b))
			b = append(b, b[at:min(at+9, len(b))]...)
		}
	}
	return b[:n]
}

func packed(t *testing.T, f Form, b []byte, step int) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, f)
	if err != nil {
		t.Fatal(err)
	}
	for len(b) > 0 {
		n := min(step, len(b))
		if _, err := w.Write(b[:n]); err != nil {
			t.Fatal(err)
		}
		b = b[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestGolden: an encoder that writes other bytes takes another Generation, or
// nodes make what is not signed.
func TestGolden(t *testing.T) {
	golden := map[int]string{
		1: "gzip a0cec3c9c6c094d469c4f7ebfc196a09, gzip-small 51911786f5edafc0a67ae0e40777ec3a, zstd 9927034504d29285205e7e1404c64d7d, ",
	}
	b := contents(4 << 20)
	got := ""
	for _, f := range Forms {
		got += fmt.Sprintf("%s %.16x, ", f, sha256.Sum256(packed(t, f, b, 1<<20)))
	}
	if got != golden[Generation] {
		t.Errorf("generation %d makes\n%s, and made\n%s: raise Generation, and add a line", Generation, got, golden[Generation])
	}
}

// TestPiecesDoNotMatter packs the same contents, written in different pieces.
func TestPiecesDoNotMatter(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	b := contents(3 << 20)
	for _, f := range Forms {
		want := packed(t, f, b, len(b))
		for _, step := range []int{1 << 10, 4097, 65536, 65537, 1 << 20} {
			if !bytes.Equal(packed(t, f, b, step), want) {
				t.Errorf("%s: in pieces of %d bytes it is something else", f, step)
			}
		}
		r, err := NewReader(bytes.NewReader(want), f, int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: it does not come back: %v", f, err)
		}
		r, _ = NewReader(bytes.NewReader(want), f, int64(len(b)-1))
		if _, err := io.ReadAll(r); err == nil {
			t.Errorf("%s: more than it may be, and no error", f)
		}
	}
}

// TestOtherToolsUnpackIt decompresses with the reference tools.
func TestOtherToolsUnpackIt(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs gzip and zstd")
	}
	b := contents(1 << 20)
	for f, tool := range map[Form]string{Gzip: "gzip", GzipSmall: "gzip", Zstd: "zstd"} {
		name := filepath.Join(t.TempDir(), "packed")
		if err := os.WriteFile(name, packed(t, f, b, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		cmd := exec.Command(tool, "-dc")
		cmd.Stdin = in
		if out, err := cmd.Output(); err != nil || !bytes.Equal(out, b) {
			t.Errorf("%s: %v", tool, err)
		}
	}
}
