package delta

import (
	"bytes"
	"encoding/binary"
)

// The tables of functions are lists with an entry for each, and all entries look
// alike: what is like what cannot be found by comparing bytes. Functions have
// names.

// functions are the functions of a program, in the order of its table.
type functions struct {
	b       []byte
	d       *distances
	start   int64 // of their records, in the file
	entries int64 // of the table of them
	end     int64 // of the records
}

// functionsOf finds the functions of a program; false where they cannot be
// told.
func functionsOf(b []byte, p program) (*functions, bool) {
	if p.tables == nil {
		return nil, false
	}
	f := &functions{b: b, d: newDistances(p.layout, *p.tables, bytes.NewReader(b))}
	start, _, _, ok1 := p.place(p.tables.funcs)
	entries, _, _, ok2 := p.place(p.tables.ftab)
	end, _, _, ok3 := p.place(p.tables.recordsEnd() - 1)
	f.start, f.entries, f.end = start, entries, end+1
	// The records come right behind the table.
	return f, ok1 && ok2 && ok3 && len(f.d.funcs) > 0 && f.first() < f.end && f.first() >= entries+8*int64(len(f.d.funcs))
}

// first returns where the first record is.
func (f *functions) first() int64 { return f.start + int64(f.d.funcs[0]) }

// record returns where the record of a function is, and where it ends.
func (f *functions) record(i int) (at, end int64) {
	at, end = f.start+int64(f.d.funcs[i]), f.end
	if i+1 < len(f.d.funcs) {
		end = f.start + int64(f.d.funcs[i+1])
	}
	return at, max(at, end)
}

// name returns the name of a function.
func (f *functions) name(i int) string {
	at, end := f.record(i)
	names, _, _, ok := f.d.place(f.d.names)
	if !ok || at < 0 || at+8 > end || end > int64(len(f.b)) {
		return ""
	}
	off := names + int64(binary.LittleEndian.Uint32(f.b[at+4:]))
	if off >= int64(len(f.b)) {
		return ""
	}
	n := bytes.IndexByte(f.b[off:min(off+4096, int64(len(f.b)))], 0)
	return string(f.b[off : off+int64(max(n, 0))])
}

// twins returns for each function of new the number of the old one of its name,
// or -1. Of several of one name, the n-th is the n-th.
func twins(old, new *functions) []int {
	byName := map[string][]int{}
	for i := range old.d.funcs {
		n := old.name(i)
		byName[n] = append(byName[n], i)
	}
	list := make([]int, len(new.d.funcs))
	for k := range list {
		list[k] = -1
		n := new.name(k)
		if have := byName[n]; len(have) > 0 {
			list[k] = have[0]
			if len(have) > 1 {
				byName[n] = have[1:]
			}
		}
	}
	return list
}

// byFunction replaces the pieces that make a program's tables of functions by
// ones that make each entry of its twin's.
func byFunction(pieces []piece, old, new *functions) []piece {
	list := twins(old, new)
	var in []piece
	at := new.entries
	add := func(from, to, n int64) { // n bytes of the new file at to are the old one's at from
		if to > at { // bytes that lie in no entry
			if len(in) == 0 {
				in = append(in, piece{from: from})
			}
			in[len(in)-1].extra += to - at
		}
		if k := len(in) - 1; k >= 0 && in[k].extra == 0 && in[k].from+in[k].add == from {
			in[k].add += n
		} else {
			in = append(in, piece{from: from, add: n})
		}
		at = to + n
	}
	for k, i := range list {
		if i >= 0 {
			add(old.entries+8*int64(i), new.entries+8*int64(k), 8)
		}
	}
	for k, i := range list {
		to, toEnd := new.record(k)
		if i < 0 || toEnd > new.end || to < at {
			continue
		}
		if from, fromEnd := old.record(i); min(toEnd-to, fromEnd-from) > 0 {
			add(from, to, min(toEnd-to, fromEnd-from))
		}
	}
	if at < new.end {
		if len(in) == 0 {
			return pieces
		}
		in[len(in)-1].extra += new.end - at
	}
	return splice(pieces, in, new.entries, new.end)
}

// splice puts pieces in the place of those that make the bytes of the new file
// between from and to.
func splice(pieces, in []piece, from, to int64) []piece {
	var out []piece
	at := int64(0)
	for _, p := range pieces {
		end := at + p.add + p.extra
		if at < from { // what of it is before
			n := min(end, from) - at
			out = append(out, piece{p.from, min(p.add, n), n - min(p.add, n)})
		}
		if at <= from && end > from || at == from && len(in) > 0 {
			out = append(out, in...)
			in = nil
		}
		if end > to { // and behind
			skip := max(to-at, 0)
			q := piece{p.from + min(skip, p.add), max(p.add-skip, 0), p.extra - max(skip-p.add, 0)}
			out = append(out, q)
		}
		at = end
	}
	return out
}

// byValue replaces the pieces that make a list of addresses or distances, each
// of so many bytes, by ones that make each of the old one that is foreseen to
// be it. Such lists are sorted by what is not in them.
func byValue(pieces []piece, old, new []byte, from, fromEnd, to, toEnd int64, size int64, foresee func(b []byte, from, to int64)) []piece {
	if fromEnd > int64(len(old)) || toEnd > int64(len(new)) || from < 0 || to < 0 || fromEnd-from < size || toEnd-to < size {
		return pieces
	}
	was := bytes.Clone(old[from:fromEnd])
	for at := int64(0); at < int64(len(was)); at += chunk {
		foresee(was[at:min(at+chunk, int64(len(was)))], from+at, to+at)
	}
	where := map[string]int64{}
	for at := int64(0); at+size <= int64(len(was)); at += size {
		where[string(was[at:at+size])] = from + at
	}
	var in []piece
	at := to
	for ; at+size <= toEnd; at += size {
		next, ok := where[string(new[at:at+size])]
		k := len(in) - 1
		switch {
		case !ok && k >= 0 && in[k].from+in[k].add+size <= fromEnd:
			in[k].add += size // perhaps only the guess is wrong
		case !ok:
			in = append(in, piece{from: from, add: size})
		case k >= 0 && in[k].from+in[k].add == next:
			in[k].add += size
		default:
			in = append(in, piece{from: next, add: size})
		}
	}
	return splice(pieces, in, to, at)
}

// byLists is byValue for the lists of a program that are known.
func byLists(pieces []piece, old, new []byte, was, is program) []piece {
	p := newPredictor(was, is, bytes.NewReader(old), pieces)
	for _, l := range [][3]uint64{{was.tables.links, is.tables.links, 4}, {was.tables.itabs, is.tables.itabs, 8}} {
		a, b := was.tables.nlinks, is.tables.nlinks
		if l[2] == 8 {
			a, b = was.tables.nitabs, is.tables.nitabs
		}
		from, _, beyond1, ok1 := was.place(l[0])
		to, _, beyond2, ok2 := is.place(l[1])
		if ok1 && ok2 && beyond1 < 0 && beyond2 < 0 {
			pieces = byValue(pieces, old, new, from, from+int64(a*l[2]), to, to+int64(b*l[2]), int64(l[2]), p.rewrite)
		}
	}
	return pieces
}
