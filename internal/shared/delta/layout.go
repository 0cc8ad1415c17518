package delta

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
)

// segment is a part of a program as the kernel loads it.
type segment struct {
	off, size int64  // in the file, bytes
	addr      uint64 // of its first byte
	memory    int64  // what it takes when loaded, at least size: behind is what begins as zeros
	code      bool
}

// layout says where the parts of a program are loaded. A patch carries those of
// both files, so that who applies it reads no ELF.
type layout []segment

// maxSegments bounds a layout: linkers make four or five that are loaded.
const maxSegments = 16

// layoutOf reads the layout of a program for arm64; false for any other file.
func layoutOf(b []byte) (layout, bool) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil || f.Machine != elf.EM_AARCH64 || f.Class != elf.ELFCLASS64 || f.Data != elf.ELFDATA2LSB {
		return nil, false
	}
	var l layout
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			l = append(l, segment{int64(p.Off), int64(p.Filesz), p.Vaddr, int64(p.Memsz), p.Flags&elf.PF_X != 0})
		}
	}
	return l, l.valid(int64(len(b))) && len(l) > 0
}

// valid reports whether all of it is in a file of so many bytes, and no sum of its
// numbers overflows.
func (l layout) valid(size int64) bool {
	if len(l) > maxSegments {
		return false
	}
	for _, s := range l {
		if s.off < 0 || s.size < 0 || s.memory < s.size || s.off > size || s.size > size-s.off || s.addr > 1<<62 || s.memory > 1<<40 {
			return false
		}
	}
	return true
}

// address returns where a byte of the file is loaded, and by which segment.
func (l layout) address(off int64) (addr uint64, s segment, ok bool) {
	for _, s := range l {
		if off >= s.off && off-s.off < s.size {
			return s.addr + uint64(off-s.off), s, true
		}
	}
	return 0, segment{}, false
}

// place returns the byte of the file that is loaded at an address. Behind the
// file's part of a segment there is none, but beyond says how far.
func (l layout) place(addr uint64) (off int64, index int, beyond int64, ok bool) {
	for i, s := range l {
		if addr < s.addr || addr-s.addr >= uint64(s.memory) {
			continue
		}
		at := int64(addr - s.addr)
		if at < s.size {
			return s.off + at, i, -1, true
		}
		return 0, i, at - s.size, true
	}
	return 0, 0, 0, false
}

func (l layout) encode(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(l)))
	for _, s := range l {
		code := uint64(0)
		if s.code {
			code = 1
		}
		for _, v := range []uint64{uint64(s.off), uint64(s.size), s.addr, uint64(s.memory), code} {
			b = binary.AppendUvarint(b, v)
		}
	}
	return b
}

// decodeLayout reads a layout of a file of so many bytes.
func decodeLayout(r io.ByteReader, size int64) (layout, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n > maxSegments {
		return nil, damaged("a layout of %d segments", n)
	}
	var l layout
	for range n {
		var v [5]uint64
		for i := range v {
			if v[i], err = binary.ReadUvarint(r); err != nil || v[i] > 1<<62 {
				return nil, damaged("invalid layout")
			}
		}
		l = append(l, segment{int64(v[0]), int64(v[1]), v[2], int64(v[3]), v[4] == 1})
	}
	if !l.valid(size) {
		return nil, damaged("a layout outside of the file")
	}
	return l, nil
}

// programOf reads what a transform wants to know of a program for arm64; false
// for any other file.
func programOf(b []byte) (program, bool) {
	l, ok := layoutOf(b)
	if !ok {
		return program{}, false
	}
	p := program{layout: l}
	if t, ok := tablesOf(b, l); ok {
		p.tables = &t
	}
	return p, true
}

// encodePrograms returns what a transform wants to know of both files: their
// layouts, and, where both have them, Go's tables.
func encodePrograms(was, is program) []byte {
	b := is.layout.encode(was.layout.encode(nil))
	if was.tables == nil || is.tables == nil {
		return append(b, 0)
	}
	return is.tables.encode(was.tables.encode(append(b, 1)))
}

// decodePrograms is the other way round, for files of so many bytes.
func decodePrograms(r io.ByteReader, old, new int64) (was, is program, err error) {
	if was.layout, err = decodeLayout(r, old); err != nil {
		return was, is, err
	}
	if is.layout, err = decodeLayout(r, new); err != nil {
		return was, is, err
	}
	switch known, err := r.ReadByte(); {
	case err != nil || known > 1:
		return was, is, damaged("invalid layout")
	case known == 0:
		return was, is, nil
	}
	a, err1 := decodeTables(r)
	b, err2 := decodeTables(r)
	was.tables, is.tables = &a, &b
	return was, is, errors.Join(err1, err2)
}
