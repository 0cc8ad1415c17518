package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// words is bytes that compress as a program's do: words of a small vocabulary,
// with addresses between.
func words(r *rand.Rand, n int) []byte {
	var b []byte
	for len(b) < n {
		b = append(b, byte(r.IntN(40)), byte(r.IntN(4)), 0xf9, 0x52)
		if r.IntN(5) == 0 {
			b = binary.LittleEndian.AppendUint32(b, 0x94000000|uint32(len(b)/8)&0xffff)
		}
	}
	return b[:n]
}

// edited changes a program as a release does: some bytes in place, some put in,
// some taken out, a part moved.
func edited(r *rand.Rand, b []byte) []byte {
	out := slices.Clone(b)
	for range 1 + len(b)/5000 {
		out[r.IntN(len(out))]++
	}
	at := r.IntN(len(out))
	out = slices.Insert(out, at, words(r, r.IntN(200))...)
	at = r.IntN(len(out) - 100)
	out = slices.Delete(out, at, at+r.IntN(100))
	half := len(out) / 2
	return append(slices.Clone(out[half:]), out[:half]...)
}

func applied(t testing.TB, old, patch []byte) ([]byte, error) {
	t.Helper()
	var out bytes.Buffer
	err := Apply(&out, bytes.NewReader(old), int64(len(old)), bytes.NewReader(patch), int64(len(patch)))
	return out.Bytes(), err
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	big := words(r, 300_000)
	for name, c := range map[string]struct {
		old, new []byte
		most     int // bytes of the patch
	}{
		"nothing of nothing":   {nil, nil, 100},
		"something of nothing": {nil, []byte("new"), 100},
		"nothing of something": {[]byte("old"), nil, 100},
		"one byte":             {[]byte("x"), []byte("y"), 100},
		"the same":             {big, big, 120},
		"the other way round":  {[]byte("abcdefghijklmnop"), []byte("ponmlkjihgfedcba"), 150},
		"twice":                {big, append(slices.Clone(big), big...), 150},
		"a release":            {big, edited(r, big), 3000},
		"a beginning":          {big, big[:1000], 120},
		"an end":               {big, big[len(big)-1000:], 120},
	} {
		patch, err := Make(c.old, c.new)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := applied(t, c.old, patch)
		if err != nil || !bytes.Equal(got, c.new) {
			t.Errorf("%s: %d bytes came, %v", name, len(got), err)
		}
		if len(patch) > c.most {
			t.Errorf("%s: the patch has %d bytes, more than %d", name, len(patch), c.most)
		}
	}
	for i := range 60 {
		old := words(r, 200+r.IntN(5000))
		new := edited(r, old)
		patch, err := Make(old, new)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := applied(t, old, patch); err != nil || !bytes.Equal(got, new) {
			t.Fatalf("pair %d: %v", i, err)
		}
	}
}

// TestAddressesMoved: where all addresses of a program moved by the same
// number, its patch is far smaller than what changed.
func TestAddressesMoved(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	old := words(r, 400_000)
	new, changed := slices.Clone(old), 0
	for i := 4; i+4 <= len(new); i += 4 {
		if new[i+3] == 0x94 {
			binary.LittleEndian.PutUint32(new[i:], binary.LittleEndian.Uint32(new[i:])+7)
			changed++
		}
	}
	patch, err := Make(old, new)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := applied(t, old, patch); err != nil || !bytes.Equal(got, new) {
		t.Fatal(err)
	}
	if changed < 10_000 || len(patch) > 2*changed {
		t.Errorf("%d addresses changed, and the patch has %d bytes", changed, len(patch))
	}
}

// TestSuffixes: the standard library's array is read as it is.
func TestSuffixes(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, data := range [][]byte{nil, []byte("a"), []byte("banana"), bytes.Repeat([]byte{0}, 1000), words(r, 20_000)} {
		order, err := suffixes(data)
		if err != nil || len(order) != len(data) {
			t.Fatalf("%d of %d suffixes, %v", len(order), len(data), err)
		}
		for i := 1; i < len(order); i++ {
			if bytes.Compare(data[order[i-1]:], data[order[i]:]) >= 0 {
				t.Fatalf("suffix %d is not in its order", i)
			}
		}
	}
}

// hostile is a patch with streams of its own.
func hostile(t testing.TB, old, new uint64, parts ...[]byte) []byte {
	t.Helper()
	out := append([]byte(magic), version, 0)
	out = append(binary.AppendUvarint(binary.AppendUvarint(out, old), new), 0)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var packed [][]byte
	for _, p := range parts {
		packed = append(packed, w.EncodeAll(p, nil))
		out = binary.AppendUvarint(out, uint64(len(packed[len(packed)-1])))
	}
	return append(out, bytes.Join(packed, nil)...)
}

// numbers are varints: the first of three signed.
func pieceOf(moved int64, add, extra uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(binary.AppendVarint(nil, moved), add), extra)
}

func runOf(zeros, others uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, zeros), others)
}

// TestInvalidPatchesAreRefused: false claims of a patch are found, and cost no
// memory.
func TestInvalidPatchesAreRefused(t *testing.T) {
	old := []byte("0123456789")
	const huge = 1 << 62
	good := hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xy"))
	if got, err := applied(t, old, good); err != nil || string(got) != "234xy" {
		t.Fatalf("%q, %v", got, err)
	}
	for name, patch := range map[string][]byte{
		"nothing":                    nil,
		"a head that is cut":         good[:10],
		"another magic":              append([]byte("x"), good[1:]...),
		"a cut end":                  good[:len(good)-1],
		"more behind it":             append(slices.Clone(good), 0),
		"another old file":           hostile(t, 11, 5, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"a huge old file":            hostile(t, huge, 5, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"a huge new file":            hostile(t, 10, huge, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"a new file that is longer":  hostile(t, 10, 6, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"a new file that is shorter": hostile(t, 10, 4, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"before the old file":        hostile(t, 10, 5, pieceOf(-1, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"behind the old file":        hostile(t, 10, 5, pieceOf(8, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"far before it":              hostile(t, 10, 5, pieceOf(-huge, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"far behind it":              hostile(t, 10, 5, pieceOf(huge, 3, 2), runOf(3, 0), nil, []byte("xy")),
		"a huge piece":               hostile(t, 10, 5, pieceOf(2, huge, 2), runOf(3, 0), nil, []byte("xy")),
		"a huge extra":               hostile(t, 10, 5, pieceOf(2, 3, huge), runOf(3, 0), nil, []byte("xy")),
		"a sum that overflows":       hostile(t, 10, 5, pieceOf(2, 1<<63, 1<<63), runOf(3, 0), nil, []byte("xy")),
		"a piece of nothing":         hostile(t, 10, 5, bytes.Repeat(pieceOf(0, 0, 0), 1000), runOf(3, 0), nil, []byte("xy")),
		"no pieces":                  hostile(t, 10, 5, nil, runOf(3, 0), nil, []byte("xy")),
		"pieces that are cut":        hostile(t, 10, 5, pieceOf(2, 3, 2)[:1], runOf(3, 0), nil, []byte("xy")),
		"more pieces":                hostile(t, 10, 5, append(pieceOf(2, 3, 2), 0), runOf(3, 0), nil, []byte("xy")),
		"no runs":                    hostile(t, 10, 5, pieceOf(2, 3, 2), nil, nil, []byte("xy")),
		"runs of nothing":            hostile(t, 10, 5, pieceOf(2, 3, 2), bytes.Repeat(runOf(0, 0), 1000), nil, []byte("xy")),
		"a run too long":             hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(4, 0), nil, []byte("xy")),
		"a huge run":                 hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(huge, 0), nil, []byte("xy")),
		"a run that overflows":       hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(1<<63, 1<<63), nil, []byte("xy")),
		"a varint without an end":    hostile(t, 10, 5, pieceOf(2, 3, 2), bytes.Repeat([]byte{255}, 20), nil, []byte("xy")),
		"no values":                  hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(0, 3), nil, []byte("xy")),
		"more values":                hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(0, 3), []byte("abcd"), []byte("xy")),
		"too little extra":           hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("x")),
		"too much extra":             hostile(t, 10, 5, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xyz")),
		"a bomb":                     hostile(t, 10, 5, pieceOf(2, 3, 2), make([]byte, 64<<20), nil, []byte("xy")),
		"a stream that is no zstd":   append(hostile(t, 10, 5)[:len(magic)+5], "\x01\x01\x01\x01abcd"...),
	} {
		got, err := applied(t, old, patch)
		var own *Error
		if !errors.As(err, &own) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if len(got) > 10 {
			t.Errorf("%s: %d bytes were written", name, len(got))
		}
	}
	for want, head := range map[string][]byte{"version 99": {99, 0}, "transform 7": {version, 7}} {
		if _, err := applied(t, old, append([]byte(magic), head...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func FuzzApply(f *testing.F) {
	old := []byte("0123456789")
	f.Add(hostile(f, 10, 5, pieceOf(2, 3, 2), runOf(3, 0), nil, []byte("xy")))
	f.Fuzz(func(t *testing.T, patch []byte) {
		var out bytes.Buffer
		err := Apply(&limited{&out}, bytes.NewReader(old), 10, bytes.NewReader(patch), int64(len(patch)))
		if err == nil {
			if h, err := ReadHead(bytes.NewReader(patch), int64(len(patch))); err != nil || h.New != int64(out.Len()) {
				t.Errorf("%d bytes, %+v %v", out.Len(), h, err)
			}
		}
	})
}

// limited ends what would be written for ever.
type limited struct{ *bytes.Buffer }

func (l limited) Write(b []byte) (int, error) {
	if l.Len() > 1<<20 {
		return 0, errors.New("that is enough")
	}
	return l.Buffer.Write(b)
}

// FuzzMatches: the pieces cover the new file, and lie in the old one. What they
// are packed with is not fuzzed: its tables take a second to clear here.
func FuzzMatches(f *testing.F) {
	f.Add([]byte("the old file"), []byte("the new file, which is longer than the old file"))
	f.Add(bytes.Repeat([]byte("ab"), 50), bytes.Repeat([]byte("ba"), 60))
	f.Fuzz(func(t *testing.T, old, new []byte) {
		order, err := suffixes(old)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(0)
		for _, p := range matches(old, new, order) {
			if p.from < 0 || p.add < 0 || p.extra < 0 || p.add+p.extra == 0 || p.from+p.add > int64(len(old)) {
				t.Fatalf("%+v of %d bytes", p, len(old))
			}
			at += p.add + p.extra
		}
		if at != int64(len(new)) {
			t.Fatalf("the pieces have %d bytes, the file has %d", at, len(new))
		}
	})
}
