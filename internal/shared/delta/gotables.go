package delta

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"slices"
	"sort"
)

// Programs made by Go hold tables of all their functions and types, in which
// things are named by their distance from where some table begins, in four
// bytes (runtime/symtab.go: pcHeader, moduledata, functab, _func;
// internal/abi/type.go; of Go 1.20 to 1.26). They are most of what changes when
// a few functions grew.

// tables says where Go's tables are when the program is loaded. A patch carries
// those of both files: who applies it knows no release of Go.
type tables struct {
	names, cus, files, pctab, funcs, ends uint64 // of pclntab; where it ends
	ftab, nfunc                           uint64
	text, types, etypes, gofunc           uint64
	links, nlinks                         uint64 // distances of types
	itabs, nitabs                         uint64 // addresses
}

// goMagic begins pclntab since Go 1.20 (internal/abi, Go120PCLnTabMagic).
const goMagic = 0xfffffff1

// maxFuncs bounds what is read of a program's functions: Kubernetes with all it
// has in one program has 160,000.
const maxFuncs = 1 << 20

// Words of moduledata, by number (runtime/symtab.go, Go 1.20 to 1.26). Where
// pclntab ends stands in it since 1.26: before, what follows is a word earlier.
const (
	wordNames, wordCUs, wordFiles, wordPctab, wordFuncs = 1, 4, 7, 10, 13
	wordFtab, wordText, wordTypes, wordGofunc, wordEnd  = 16, 22, 37, 40, 41
	wordLinks, wordItabs                                = 45, 48
	moduleWords                                         = 51
)

// tablesOf finds Go's tables in a program; false where there are none that are
// known.
func tablesOf(b []byte, l layout) (tables, bool) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return tables{}, false
	}
	s := f.Section(".gopclntab")
	if s == nil {
		return tables{}, false
	}
	if off, _, _, ok := l.place(s.Addr); !ok || off < 0 || off+4 > int64(len(b)) || binary.LittleEndian.Uint32(b[off:]) != goMagic {
		return tables{}, false
	}
	// moduledata begins with where pclntab is. In which section it is depends on
	// Go's release.
	for _, s2 := range l {
		if s2.code {
			continue
		}
		part := b[s2.off : s2.off+s2.size]
		for i := int(-s2.off & 7); i+8*moduleWords <= len(part); i += 8 {
			if binary.LittleEndian.Uint64(part[i:]) != s.Addr {
				continue
			}
			if t, ok := decodeModule(part[i:], l, s.Addr, s.Addr+s.Size); ok {
				return t, true
			}
		}
	}
	return tables{}, false
}

// decodeModule reads a moduledata, if it is one, of a program whose pclntab
// lies between two addresses.
func decodeModule(b []byte, l layout, header, end uint64) (tables, bool) {
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) }
	earlier := 0
	if e := word(wordEnd); e > header && e <= end {
		end = e
	} else {
		earlier = 1
	}
	links, itabs := wordLinks-earlier, wordItabs-earlier
	t := tables{names: word(wordNames), cus: word(wordCUs), files: word(wordFiles), pctab: word(wordPctab), funcs: word(wordFuncs), ends: end,
		ftab: word(wordFtab), nfunc: word(wordFtab + 1), text: word(wordText), types: word(wordTypes), etypes: word(wordTypes + 1),
		gofunc: word(wordGofunc),
		links:  word(links), nlinks: word(links + 1), itabs: word(itabs), nitabs: word(itabs + 1)}
	if t.nfunc == 0 {
		return tables{}, false
	}
	t.nfunc-- // the last one only says where the code ends
	for _, a := range []uint64{t.names, t.cus, t.files, t.pctab, t.funcs, t.ftab} {
		if a < header || a > t.ends {
			return tables{}, false
		}
	}
	_, _, _, ok := l.place(t.text)
	return t, ok && t.types < t.etypes && t.valid()
}

func (t tables) valid() bool {
	return t.nfunc <= maxFuncs && t.nlinks <= maxFuncs && t.nitabs <= maxFuncs &&
		!slices.ContainsFunc(t.all(), func(v uint64) bool { return v > 1<<62 })
}

func (t tables) all() []uint64 {
	return []uint64{t.names, t.cus, t.files, t.pctab, t.funcs, t.ends, t.ftab, t.nfunc, t.text, t.types, t.etypes, t.gofunc, t.links,
		t.nlinks, t.itabs, t.nitabs}
}

// tableFields is how many numbers a patch has of a program's tables.
const tableFields = 16

func (t tables) encode(b []byte) []byte {
	for _, v := range t.all() {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

func decodeTables(r io.ByteReader) (tables, error) {
	var v [tableFields]uint64
	for i := range v {
		var err error
		if v[i], err = binary.ReadUvarint(r); err != nil {
			return tables{}, damaged("invalid tables")
		}
	}
	t := tables{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13], v[14], v[15]}
	if !t.valid() {
		return tables{}, damaged("tables outside of their file")
	}
	return t, nil
}

// recordsEnd returns where the records of functions end: their data comes
// behind, since Go 1.26.
func (t *tables) recordsEnd() uint64 {
	if t.gofunc > t.funcs && t.gofunc < t.ends {
		return t.gofunc
	}
	return t.ends
}

// dataEnd returns where the data of functions ends: with pclntab, or before it.
func (t *tables) dataEnd() uint64 {
	if t.gofunc < t.names {
		return t.names
	}
	return t.ends
}

// base is what a distance is counted from. Those from the compilation units
// count words of four bytes.
type base byte

const (
	fromText base = iota
	fromFuncs
	fromNames
	fromCUs
	fromFiles
	fromPctab
	fromTypes
	fromGofunc
)

func (t *tables) base(b base) uint64 {
	switch b {
	case fromText:
		return t.text
	case fromFuncs:
		return t.funcs
	case fromNames:
		return t.names
	case fromCUs:
		return t.cus
	case fromFiles:
		return t.files
	case fromPctab:
		return t.pctab
	case fromTypes:
		return t.types
	}
	return t.gofunc
}

// distances finds the distances in a program's tables.
type distances struct {
	layout
	tables
	r     io.ReaderAt
	funcs []uint32 // where each function's record begins, from tables.funcs
	buf   []byte
}

// newDistances reads where the records of functions are.
func newDistances(l layout, t tables, r io.ReaderAt) *distances {
	d := &distances{layout: l, tables: t, r: r}
	off, _, beyond, ok := l.place(t.ftab)
	if !ok || beyond >= 0 {
		return d
	}
	buf := make([]byte, 8<<10)
	for len(d.funcs) < int(t.nfunc) {
		n := min(len(buf), 8*(int(t.nfunc)-len(d.funcs)))
		if got, _ := r.ReadAt(buf[:n], off); got < n {
			d.funcs = nil
			return d
		}
		for i := 0; i < n; i += 8 {
			d.funcs = append(d.funcs, binary.LittleEndian.Uint32(buf[i+4:]))
		}
		off += int64(n)
	}
	for i := 1; i < len(d.funcs); i++ {
		if d.funcs[i] < d.funcs[i-1]+recordSize || d.funcs[i] < d.funcs[i-1] { // so there are no more than have room
			d.funcs = nil
		}
	}
	return d
}

// around is how much is read before and behind what is rewritten, bytes: a
// type's methods are mostly near.
const around = 4 << 10

// found is a distance: where it is in the file.
type found func(off int64, b base, v uint32)

// in calls visit for each distance among the bytes of the file from off on.
// Those at the border may be visited though they are a little outside.
func (d *distances) in(off int64, n int, visit found) {
	lo := max(0, off-around)
	if want := int(off-lo) + n + around; cap(d.buf) < want {
		d.buf = make([]byte, want)
	}
	buf := d.buf[:int(off-lo)+n+around]
	got, _ := d.r.ReadAt(buf, lo)
	w := view{buf[:got], lo}
	end := off + int64(n)
	d.region(d.ftab, d.ftab+8*d.nfunc+4, off, end, func(from, to int64, start int64) {
		for p := from; p+4 <= to; p += 4 {
			if b := fromFuncs; (p-start)&4 == 0 {
				b = fromText
				visit(p, b, w.u32(p))
			} else {
				visit(p, b, w.u32(p))
			}
		}
	})
	d.region(d.cus, d.files, off, end, func(from, to, _ int64) {
		for p := from; p+4 <= to; p += 4 {
			if v := w.u32(p); v != ^uint32(0) {
				visit(p, fromFiles, v)
			}
		}
	})
	d.region(d.links, d.links+4*d.nlinks, off, end, func(from, to, _ int64) {
		for p := from; p+4 <= to; p += 4 {
			visit(p, fromTypes, w.u32(p))
		}
	})
	d.region(d.tables.funcs, d.recordsEnd(), off, end, func(from, to, start int64) { d.records(w, from, to, start, visit) })
	d.region(d.types, d.etypes, off-around, end, func(from, to, _ int64) { d.typesIn(w, from, to, visit) })
	d.region(d.gofunc, d.dataEnd(), off, end, func(from, to, _ int64) { d.inlined(w, from, to, visit) })
}

// region calls do with the part of a table that is among some bytes of the
// file, from a multiple of 4 on, and where the table begins.
func (d *distances) region(addr, endAddr uint64, off, end int64, do func(from, to, start int64)) {
	start, i, beyond, ok := d.place(addr)
	if !ok || beyond >= 0 || endAddr <= addr {
		return
	}
	stop := min(start+int64(min(endAddr-addr, 1<<40)), d.layout[i].off+d.layout[i].size)
	from, to := max(off, start), min(end, stop)
	if from += (start - from) & 3; from < to {
		do(from, to, start)
	}
}

// view is some bytes of a file; others are zeros.
type view struct {
	b  []byte
	at int64
}

func (v view) has(off int64, n int64) bool { return off >= v.at && off+n <= v.at+int64(len(v.b)) }

func (v view) u32(off int64) uint32 {
	if !v.has(off, 4) {
		return 0
	}
	return binary.LittleEndian.Uint32(v.b[off-v.at:])
}

func (v view) u64(off int64) uint64 {
	if !v.has(off, 8) {
		return 0
	}
	return binary.LittleEndian.Uint64(v.b[off-v.at:])
}

func (v view) u8(off int64) byte {
	if !v.has(off, 1) {
		return 0
	}
	return v.b[off-v.at]
}

// recordSize is what a _func has before its lists, bytes.
const recordSize = 44

// records visits the records of functions: _func, its list of tables in pctab,
// and that of data.
func (d *distances) records(w view, from, to, start int64, visit found) {
	i := sort.Search(len(d.funcs), func(i int) bool { return start+int64(d.funcs[i]) > from })
	for i = max(0, i-1); i < len(d.funcs); i++ {
		at := start + int64(d.funcs[i])
		if at >= to {
			return
		}
		if !w.has(at, recordSize) {
			continue
		}
		visit(at, fromText, w.u32(at))
		visit(at+4, fromNames, w.u32(at+4))
		for k := int64(16); k < 28; k += 4 {
			visit(at+k, fromPctab, w.u32(at+k))
		}
		tabs, data := int64(w.u32(at+28)), int64(w.u8(at+43))
		if cu := w.u32(at + 32); cu < 1<<30 {
			visit(at+32, fromCUs, cu)
		}
		if tabs > 64 {
			continue
		}
		for k := range tabs {
			if p := at + recordSize + 4*k; w.u32(p) != 0 {
				visit(p, fromPctab, w.u32(p))
			}
		}
		for k := range data {
			if p := at + recordSize + 4*(tabs+k); w.u32(p) != ^uint32(0) && w.has(p, 4) {
				visit(p, fromGofunc, w.u32(p))
			}
		}
	}
}

// kindSize is what the description of a type takes before what is said of its
// methods, by its kind, bytes (internal/abi/type.go); 0 for those that have
// none, or are not known.
var kindSize = [32]int64{17: 72, 18: 64, 19: 56, 20: 80, 22: 56, 23: 56, 25: 80}

const kindInterface = 20

// typesIn visits the descriptions of types that it finds: by what they look
// like, for nothing says where they are.
func (d *distances) typesIn(w view, from, to int64, visit found) {
	size := uint32(min(d.etypes-d.types, 1<<31))
	pointer := func(v uint64) bool {
		_, _, _, ok := d.place(v)
		return v == 0 || ok
	}
	for p := from + -from&7; p+48 <= to; p += 8 {
		if !w.has(p, 48) {
			continue
		}
		flags, align, field, kind := w.u8(p+20), w.u8(p+21), w.u8(p+22), w.u8(p+23)&31
		if kind == 0 || kind > 26 || align == 0 || align > 16 || align != field || flags > 127 {
			continue
		}
		name, ptr := w.u32(p+40), w.u32(p+44)
		if name == 0 || name >= size || ptr >= size || !pointer(w.u64(p+24)) || !pointer(w.u64(p+32)) || w.u64(p+8) > w.u64(p) {
			continue
		}
		visit(p+40, fromTypes, name)
		if ptr != 0 {
			visit(p+44, fromTypes, ptr)
		}
		own := max(kindSize[kind], 48)
		if kind == kindInterface {
			if off, _, _, ok := d.place(w.u64(p + 56)); ok {
				for k := range min(w.u64(p+64), 512) {
					visit(off+8*int64(k), fromTypes, w.u32(off+8*int64(k)))
					visit(off+8*int64(k)+4, fromTypes, w.u32(off+8*int64(k)+4))
				}
			}
		}
		if flags&1 != 0 { // it has methods
			u := p + own
			if pkg := w.u32(u); pkg != 0 {
				visit(u, fromTypes, pkg)
			}
			count, at := int64(w.u32(u+4)&0xffff), u+int64(w.u32(u+8))
			for k := range min(count, 512) {
				m := at + 16*k
				if !w.has(m, 16) {
					break
				}
				visit(m, fromTypes, w.u32(m))
				for i, b := range [3]base{fromTypes, fromText, fromText} {
					if v := w.u32(m + 4 + 4*int64(i)); v != 0 && v != ^uint32(0) {
						visit(m+4+4*int64(i), b, v)
					}
				}
			}
			p = u // the list's own words are no types
		}
	}
}

// inlined visits what looks like an entry of a tree of inlined calls
// (runtime/symtabinl.go): an id and three zeros, a name, a place in its
// function, a line.
func (d *distances) inlined(w view, from, to int64, visit found) {
	names := uint32(min(d.cus-min(d.names, d.cus), 1<<31))
	for p := from; p+16 <= to; p += 4 {
		first, name, pc, line := w.u32(p), w.u32(p+4), w.u32(p+8), w.u32(p+12)
		if first < 64 && name > 0 && name < names && pc < 1<<22 && line > 0 && line < 1<<17 {
			visit(p+4, fromNames, name)
			p += 12
		}
	}
}
