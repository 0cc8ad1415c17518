package delta

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestGoTables: what a program's tables say is found, and foreseen: nearly all
// entries of the table of functions become those of a program in which some
// were put in.
func TestGoTables(t *testing.T) {
	after := strings.Replace(before, "func main() {",
		"type set map[string]bool\n\n//go:noinline\nfunc (s set) Has(w string) bool { return s[w] }\n\nfunc main() {\n\tvar h "+
			"interface{ Has(string) bool } = set{os.Args[0]: true}\n\tfmt.Fprintln(os.Stderr, h.Has(\"x\"), fmt.Sprintf(\"%T\", h))\n", 1)
	old, new := built(t, before), built(t, after)
	was, ok1 := programOf(old)
	is, ok2 := programOf(new)
	if !ok1 || !ok2 || was.tables == nil || is.tables == nil {
		t.Fatalf("%v %v, %+v", ok1, ok2, was.tables)
	}
	a, ok1 := functionsOf(old, was)
	b, ok2 := functionsOf(new, is)
	if !ok1 || !ok2 {
		t.Fatal("there are no functions")
	}
	found, main := 0, -1
	for i := range b.d.funcs {
		if strings.HasPrefix(b.name(i), "runtime.") {
			found++
		}
		if b.name(i) == "main.set.Has" {
			main = i
		}
	}
	if found < 500 || main < 0 || twins(a, b)[main] >= 0 {
		t.Errorf("%d functions of the runtime, main.set.Has is number %d", found, main)
	}
	with, err := Make(old, new)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []*program{&was, &is} {
		p.tables = nil
	}
	bare := masked(old, was)
	order, err := suffixes(bare)
	if err != nil {
		t.Fatal(err)
	}
	pieces := matches(bare, masked(new, is), order)
	without, err := pack(Arm64, encodePrograms(was, is), old, new, pieces, newPredictor(was, is, bytes.NewReader(old), pieces).rewrite)
	if err != nil {
		t.Fatal(err)
	}
	if len(with) > len(without)/2 {
		t.Errorf("with its tables the patch has %d bytes, without %d", len(with), len(without))
	}
	t.Logf("with its tables the patch has %d bytes, without %d", len(with), len(without))
	for name, p := range map[string][]byte{"with": with, "without": without} {
		if got, err := applied(t, old, p); err != nil || !bytes.Equal(got, new) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A release of Go whose tables begin otherwise: they are not known, and the
	// patch is the other one.
	for _, p := range [][]byte{old, new} {
		i := bytes.Index(p, []byte{0xf1, 0xff, 0xff, 0xff, 0, 0, 4, 8})
		if i < 0 {
			t.Fatal("there is no pclntab")
		}
		p[i] = 0xf2
	}
	if q, ok := programOf(old); !ok || q.tables != nil {
		t.Errorf("%v, %+v", ok, q.tables)
	}
	p, err := Make(old, new)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := applied(t, old, p); err != nil || !bytes.Equal(got, new) {
		t.Error(err)
	}
}

// TestLongest: of moves that cover the same bytes the longest counts.
func TestLongest(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 300 {
		var moves []moved
		best := map[int64]moved{}
		for range r.IntN(20) {
			m := moved{r.Int64N(50), r.Int64N(1000), 1 + r.Int64N(30)}
			moves = append(moves, m)
			for i := range m.size {
				if b, ok := best[m.from+i]; !ok || m.size > b.size || m.size == b.size && (m.from < b.from || m.from == b.from && m.to < b.to) {
					best[m.from+i] = m
				}
			}
		}
		seen := map[int64]bool{}
		end := int64(-1)
		for _, m := range longest(moves) {
			if m.from < end || m.size <= 0 {
				t.Fatalf("%+v begins before %d", m, end)
			}
			end = m.from + m.size
			for i := range m.size {
				b, ok := best[m.from+i]
				if seen[m.from+i] = true; !ok || m.to+i != b.to+m.from+i-b.from {
					t.Fatalf("byte %d goes to %d, want that of %+v", m.from+i, m.to+i, b)
				}
			}
		}
		if len(seen) != len(best) {
			t.Fatalf("%d bytes of %d", len(seen), len(best))
		}
	}
}

// FuzzTables rewrites bytes by tables that lie: nothing outside of them is
// touched, whatever they say.
func FuzzTables(f *testing.F) {
	l := layout{{0, 4096, 0x10000, 4096, false}, {4096, 4096, 0x20000, 9000, false}}
	good := tables{0x10000, 0x10100, 0x10200, 0x10300, 0x10400, 0x10f00, 0x10400, 8, 0x20000, 0x20100, 0x20800, 0x10800, 0x20900,
		16, 0x20a00, 4}
	f.Add(good.encode(nil), []byte{1, 0, 0, 0, 8, 0, 2, 25}, 4096, 4000)
	f.Add(good.encode(nil), []byte{0x20, 1, 2, 0}, 0, 8192)
	f.Fuzz(func(t *testing.T, params, old []byte, from, n int) {
		a, err := decodeTables(bytes.NewReader(params))
		if len(old) > 0 { // what is long takes minutes to be made short
			old = bytes.Repeat(old, 8192/len(old)+1)
		}
		if err != nil || len(old) < 8192 || from < 0 || n < 0 || from+n > 8192 || from+n < from {
			return
		}
		if again := a.encode(nil); !bytes.HasPrefix(params, again) {
			if b, err := decodeTables(bytes.NewReader(again)); err != nil || b != a {
				t.Fatalf("%+v became %+v", a, b)
			}
		}
		p := program{l, &a}
		pieces := []piece{{4096, 4096, 0}, {0, 4096, 0}}
		b := bytes.Clone(old[:from+n])
		newPredictor(p, p, bytes.NewReader(old), pieces).rewrite(b[from:], int64(from), int64(from))
		if len(b) != from+n || !bytes.Equal(b[:from], old[:from]) {
			t.Fatal("what it was not given was changed")
		}
		masked(old[:8192], p)
		if x, ok := functionsOf(old[:8192], p); ok {
			byFunction(pieces, x, x)
		}
		byLists(pieces, old[:8192], old[:8192], p, p)
	})
}
