package delta

import (
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"io"
	"slices"
	"sort"
)

// When code grows somewhere, all that lies behind moves, and every address of
// it that stands in the program changes. The pieces of a patch say what moved
// where, so most of those changes can be foreseen: addresses in the old file's
// bytes are rewritten to where the things they name are in the new one, and
// only then the two are compared. A wrong guess costs bytes of the patch, and
// nothing else.

// Words of arm64 that hold addresses (Arm ARM, C4.1, C6.2).
const (
	branchMask, branch = 0x7c000000, 0x14000000 // B and BL: 26 bits of words
	adrpMask, adrp     = 0x9f000000, 0x90000000 // 21 bits of pages, in two parts
	addMask, add       = 0xffc00000, 0x91000000 // ADD, 64 bits, immediate not shifted
	loadMask, load     = 0x3b000000, 0x39000000 // LDR and STR, unsigned offset, scaled by size
)

const (
	imm26 = 1<<26 - 1
	imm12 = 0xfff << 10
	page  = 0xfff
	// pairWithin is how many words behind an ADRP its other half is looked for.
	pairWithin = 4
)

// chunk is what is rewritten at a time, bytes, counted from the beginning of a
// piece. It is part of the format: halves of a pair in two chunks are no pair.
const chunk = 64 << 10

// moved is a piece as what it moves.
type moved struct{ from, to, size int64 }

// program is where the parts of a program are loaded, and Go's tables in it.
type program struct {
	layout
	tables *tables // nil where there are none that are known
}

// predictor rewrites bytes of an old program.
type predictor struct {
	old, new  program
	moves     []moved    // by from
	distances *distances // of the old program; nil where not both have tables
}

// newPredictor takes pieces in the order of the new file. r is the old file.
func newPredictor(old, new program, r io.ReaderAt, pieces []piece) *predictor {
	p := &predictor{old: old, new: new}
	if old.tables != nil && new.tables != nil {
		p.distances = newDistances(old.layout, *old.tables, r)
	}
	at := int64(0)
	for _, one := range pieces {
		if one.add > 0 {
			p.moves = append(p.moves, moved{one.from, at, one.add})
		}
		at += one.add + one.extra
	}
	p.moves = longest(p.moves)
	return p
}

// longest returns moves of which no two cover the same byte: of those that do,
// the longest one counts, for what is like a short one is in many places. The
// moves are sorted by where they are from.
func longest(moves []moved) []moved {
	slices.SortStableFunc(moves, func(a, b moved) int { return cmp.Compare(a.from, b.from) })
	var out []moved
	var active moves64
	emit := func(m moved, from, to int64) {
		if from >= to {
			return
		}
		m.to, m.from, m.size = m.to+from-m.from, from, to-from
		if k := len(out) - 1; k >= 0 && out[k].from+out[k].size == m.from && out[k].to+out[k].size == m.to {
			out[k].size += m.size
			return
		}
		out = append(out, m)
	}
	at := int64(0)
	for i := 0; i < len(moves) || len(active) > 0; {
		next := int64(1) << 62
		if i < len(moves) {
			next = moves[i].from
		}
		for len(active) > 0 && at < next {
			m := active[0]
			end := min(m.from+m.size, next)
			emit(m, at, end)
			at = max(at, end)
			for len(active) > 0 && active[0].from+active[0].size <= at {
				heap.Pop(&active)
			}
		}
		if i < len(moves) {
			at = next
			heap.Push(&active, moves[i])
			i++
		}
	}
	return out
}

// moves64 is a heap with the longest move on top, and of those the first.
type moves64 []moved

// Len implements heap.Interface.
func (m moves64) Len() int { return len(m) }

// Less implements heap.Interface.
func (m moves64) Less(i, k int) bool {
	return cmp.Or(-cmp.Compare(m[i].size, m[k].size), cmp.Compare(m[i].from, m[k].from), cmp.Compare(m[i].to, m[k].to)) < 0
}

// Swap implements heap.Interface.
func (m moves64) Swap(i, k int) { m[i], m[k] = m[k], m[i] }

// Push implements heap.Interface.
func (m *moves64) Push(v any) { *m = append(*m, v.(moved)) }

// Pop implements heap.Interface.
func (m *moves64) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

// target returns where in the new program is what was at an address of the old.
func (p *predictor) target(addr uint64) (uint64, bool) {
	off, index, beyond, ok := p.old.place(addr)
	if !ok {
		return 0, false
	}
	if beyond >= 0 { // what begins as zeros keeps its distance from where it begins
		if index >= len(p.new.layout) || beyond >= p.new.layout[index].memory-p.new.layout[index].size {
			return 0, false
		}
		return p.new.layout[index].addr + uint64(p.new.layout[index].size+beyond), true
	}
	// What no piece has lies as far behind the piece before it as it did.
	i := sort.Search(len(p.moves), func(i int) bool { return p.moves[i].from > off }) - 1
	if i < 0 {
		return 0, false
	}
	to, _, ok := p.new.address(p.moves[i].to + off - p.moves[i].from)
	return to, ok
}

// rewrite changes bytes that were at from in the old file, and will be at to in the
// new one but for their differences.
func (p *predictor) rewrite(b []byte, from, to int64) {
	for len(b) > 0 {
		n := min(len(b), chunk)
		p.part(b[:n], from, to)
		b, from, to = b[n:], from+int64(n), to+int64(n)
	}
}

func (p *predictor) part(b []byte, from, to int64) {
	for len(b) > 0 {
		oldAddr, s, ok := p.old.address(from)
		newAddr, _, ok2 := p.new.address(to)
		n := len(b)
		if ok {
			n = int(min(int64(n), s.off+s.size-from))
		}
		switch {
		case !ok || !ok2:
		case s.code:
			for i := int(-from & 3); i+4 <= n; i += 4 {
				p.instruction(b[i:n], oldAddr+uint64(i), newAddr+uint64(i))
			}
		default:
			p.pointers(b[int(min(-from&7, int64(n))):n])
			if p.distances != nil && (from-to)&3 == 0 {
				p.far(b[:n], from)
			}
		}
		if !ok {
			return // behind the segments there is nothing that is loaded
		}
		b, from, to = b[n:], from+int64(n), to+int64(n)
	}
}

// pointers rewrites addresses of eight bytes.
func (p *predictor) pointers(b []byte) {
	for ; len(b) >= 8; b = b[8:] {
		v := binary.LittleEndian.Uint64(b)
		if v == 0 {
			continue
		}
		if t, ok := p.target(v); ok {
			binary.LittleEndian.PutUint64(b, t)
		}
	}
}

// far rewrites the distances in Go's tables.
func (p *predictor) far(b []byte, from int64) {
	p.distances.in(from, len(b), func(off int64, of base, v uint32) {
		if off < from || off+4 > from+int64(len(b)) {
			return
		}
		scale := uint64(1)
		if of == fromCUs {
			scale = 4
		}
		was, is := p.old.tables.base(of), p.new.tables.base(of)
		if t, ok := p.target(was + scale*uint64(v)); ok && (t-is)/scale <= 1<<32-1 {
			binary.LittleEndian.PutUint32(b[off-from:], uint32((t-is)/scale))
		}
	})
}

// instruction rewrites the address in an instruction, and in the other half of a
// pair behind it.
func (p *predictor) instruction(b []byte, oldPC, newPC uint64) {
	w := binary.LittleEndian.Uint32(b)
	switch {
	case w&branchMask == branch:
		t, ok := p.target(oldPC + uint64(int64(int32(w<<6)>>6)*4))
		if !ok {
			return
		}
		if d := int64(t-newPC) / 4; d >= -(1<<25) && d < 1<<25 {
			binary.LittleEndian.PutUint32(b, w&^imm26|uint32(d)&imm26)
		}
	case w&adrpMask == adrp:
		half, low, scale := pair(b, w&31)
		if half == 0 {
			return
		}
		t, ok := p.target(oldPC&^page + uint64(pages(w)<<12) + low)
		if !ok || t&(1<<scale-1) != 0 {
			return
		}
		d := int64(t&^page-newPC&^page) >> 12
		if d < -(1<<20) || d >= 1<<20 {
			return
		}
		binary.LittleEndian.PutUint32(b, w&^(3<<29|0x7ffff<<5)|uint32(d&3)<<29|uint32(d>>2)&0x7ffff<<5)
		other := binary.LittleEndian.Uint32(b[half:])
		binary.LittleEndian.PutUint32(b[half:], other&^imm12|uint32(t&page>>scale)<<10)
	}
}

// pages returns what an ADRP adds, in pages.
func pages(w uint32) int64 {
	v := w>>5&0x7ffff<<2 | w>>29&3
	return int64(int32(v<<11) >> 11)
}

// pair finds the instruction that adds the low bits to the page an ADRP has put
// into a register: where it is behind it, in bytes, 0 for nowhere; those bits;
// and how many of them it leaves out.
func pair(b []byte, register uint32) (at int, low uint64, scale uint) {
	for at := 4; at <= 4*pairWithin && at+4 <= len(b); at += 4 {
		w := binary.LittleEndian.Uint32(b[at:])
		if w>>5&31 != register {
			continue
		}
		switch {
		case w&addMask == add:
			return at, uint64(w >> 10 & 0xfff), 0
		case w&loadMask == load:
			scale := uint(w >> 30)
			if w&(1<<26|1<<23) == 1<<26|1<<23 && scale == 0 { // a register of 128 bits
				scale = 4
			}
			return at, uint64(w>>10&0xfff) << scale, scale
		}
	}
	return 0, 0, 0
}

// masked returns a program without its addresses, so that code that only moved
// is equal.
func masked(b []byte, l program) []byte {
	out := slices.Clone(b)
	if l.tables != nil {
		d := newDistances(l.layout, *l.tables, bytes.NewReader(b))
		for at := 0; at < len(b); at += chunk {
			n := min(chunk, len(b)-at)
			d.in(int64(at), n, func(off int64, of base, _ uint32) {
				if off >= int64(at) && off+4 <= int64(at+n) {
					binary.LittleEndian.PutUint32(out[off:], 0)
				}
			})
		}
	}
	for _, s := range l.layout {
		part := out[s.off : s.off+s.size]
		if !s.code {
			for i := int(-s.off & 7); i+8 <= len(part); i += 8 {
				if v := binary.LittleEndian.Uint64(part[i:]); v != 0 {
					if _, _, _, ok := l.place(v); ok {
						binary.LittleEndian.PutUint64(part[i:], 0)
					}
				}
			}
			continue
		}
		for i := int(-s.off & 3); i+4 <= len(part); i += 4 {
			w := binary.LittleEndian.Uint32(part[i:])
			switch {
			case w&branchMask == branch:
				binary.LittleEndian.PutUint32(part[i:], w&^imm26)
			case w&adrpMask == adrp:
				if half, _, _ := pair(part[i:], w&31); half > 0 {
					binary.LittleEndian.PutUint32(part[i+half:], binary.LittleEndian.Uint32(part[i+half:])&^imm12)
				}
				binary.LittleEndian.PutUint32(part[i:], w&^(3<<29|0x7ffff<<5))
			}
		}
	}
	return out
}
