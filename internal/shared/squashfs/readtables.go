package squashfs

import (
	"archive/tar"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"time"
)

// loader reads the tables of an image.
type loader struct {
	img      *Reader
	inodes   table
	dirs     table
	ids      []uint32
	xattrs   table
	xattrIDs []byte
	seen     map[uint32]string // inode numbers of everything but directories, and its first name
	folders  map[uint64]bool
	sets     map[uint32]map[string]string // attributes that were read

	// Budgets, in bytes of memory. In a valid image inodes and sets of attributes
	// lie behind one another in a table; in a hostile one they may overlap. All
	// together may have no more bytes than their tables.
	inodeBytes, xattrBytes, nameBytes int
}

// table is a run of metadata blocks, decompressed, and where each begins.
type table struct {
	b  []byte
	at map[uint64]int // where a block begins in the image, from the table's start: where in b
}

// load reads all tables, which lie behind one another in the order of writeTables.
func (l *loader) load() error {
	s, le := l.img.Super, binary.LittleEndian
	inodes, dirs, frags, ids, xattrs := le.Uint64(s[64:]), le.Uint64(s[72:]), le.Uint64(s[80:]), le.Uint64(s[48:]), le.Uint64(s[56:])
	idList, err := l.index(ids, int(le.Uint16(s[26:]))*4)
	if err != nil {
		return err
	}
	for i := 0; i+4 <= len(idList); i += 4 {
		l.ids = append(l.ids, le.Uint32(idList[i:]))
	}
	behindDirs, err := l.first(ids)
	if err != nil {
		return err
	}
	if n := le.Uint32(s[16:]); n > 0 {
		b, err := l.index(frags, int(min(n, maxFiles))*16)
		if err != nil {
			return err
		}
		for i := 0; i+16 <= len(b); i += 16 {
			l.img.fragments = append(l.img.fragments, fragment{le.Uint64(b[i:]), le.Uint32(b[i+8:])})
		}
		if behindDirs, err = l.first(frags); err != nil {
			return err
		}
	}
	if xattrs != invalidBlock {
		if err := l.loadXattrs(xattrs); err != nil {
			return err
		}
	}
	if l.inodes, err = l.metadata(inodes, dirs); err != nil {
		return err
	}
	if l.dirs, err = l.metadata(dirs, behindDirs); err != nil {
		return err
	}
	l.seen, l.folders, l.sets = map[uint32]string{}, map[uint64]bool{}, map[uint32]map[string]string{}
	l.inodeBytes, l.xattrBytes, l.nameBytes = len(l.inodes.b), len(l.xattrs.b), maxNames
	return l.walk("", le.Uint64(s[32:]))
}

// first returns where the first metadata block of an indexed table begins.
func (l *loader) first(at uint64) (uint64, error) {
	b := make([]byte, 8)
	if at > 1<<62 {
		return 0, bad("a table at byte %d", at)
	}
	if _, err := l.img.r.ReadAt(b, int64(at)); err != nil {
		return 0, fmt.Errorf("reading a squashfs at byte %d: %w", at, err)
	}
	return binary.LittleEndian.Uint64(b), nil
}

// index reads a table of size bytes through the list of its blocks.
func (l *loader) index(at uint64, size int) ([]byte, error) {
	if size > maxTable || at > 1<<62 {
		return nil, bad("a table of %d bytes", size)
	}
	list := make([]byte, 8*((size+metadataSize-1)/metadataSize))
	if _, err := l.img.r.ReadAt(list, int64(at)); err != nil {
		return nil, fmt.Errorf("reading a squashfs at byte %d: %w", at, err)
	}
	var out []byte
	for ; len(list) > 0; list = list[8:] {
		b, _, err := l.block(binary.LittleEndian.Uint64(list))
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	if len(out) != size {
		return nil, bad("a table of %d bytes has %d", size, len(out))
	}
	return out, nil
}

// block reads one metadata block and returns where the next one begins.
func (l *loader) block(at uint64) (b []byte, next uint64, err error) {
	if at > 1<<62 {
		return nil, 0, bad("a block at byte %d", at)
	}
	head := make([]byte, 2)
	if _, err := l.img.r.ReadAt(head, int64(at)); err != nil {
		return nil, 0, fmt.Errorf("reading a squashfs at byte %d: %w", at, err)
	}
	size := binary.LittleEndian.Uint16(head)
	in := make([]byte, size&^storedMeta)
	if _, err := l.img.r.ReadAt(in, int64(at)+2); err != nil || len(in) > metadataSize {
		return nil, 0, bad("a metadata block of %d bytes: %v", len(in), err)
	}
	next = at + 2 + uint64(len(in))
	if size&storedMeta != 0 {
		return in, next, nil
	}
	b, err = l.img.dec.decodeTo(make([]byte, 0, metadataSize), in)
	if err != nil || len(b) > metadataSize {
		return nil, 0, bad("a metadata block of %d bytes: %v", len(b), err)
	}
	return b, next, nil
}

// metadata reads all metadata blocks between two places.
func (l *loader) metadata(from, to uint64) (table, error) {
	t := table{at: map[uint64]int{}}
	for at := from; at < to; {
		b, next, err := l.block(at)
		if err != nil {
			return t, err
		}
		t.at[at-from] = len(t.b)
		if t.b = append(t.b, b...); len(t.b) > maxTable {
			return t, bad("a table of more than %d bytes", maxTable)
		}
		at = next
	}
	return t, nil
}

// from returns the bytes from a reference on.
func (t table) from(ref uint64) (*cursor, error) {
	at, ok := t.at[ref>>16]
	if !ok || ref&0xffff >= metadataSize || at+int(ref&0xffff) > len(t.b) {
		return nil, bad("reference to metadata outside the table")
	}
	return &cursor{b: t.b[at+int(ref&0xffff):]}, nil
}

// cursor reads numbers from bytes; missing bytes read as zeros, and set an error.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.short = true
		return make([]byte, min(max(n, 0), metadataSize))
	}
	b := c.b[:n]
	c.b = c.b[n:]
	return b
}

func (c *cursor) u16() uint16 { return binary.LittleEndian.Uint16(c.take(2)) }
func (c *cursor) u32() uint32 { return binary.LittleEndian.Uint32(c.take(4)) }
func (c *cursor) u64() uint64 { return binary.LittleEndian.Uint64(c.take(8)) }

func (c *cursor) err() error {
	if c.short {
		return bad("a table ends too early")
	}
	return nil
}

func (l *loader) loadXattrs(at uint64) error {
	head := make([]byte, 16)
	if at > 1<<62 {
		return bad("a table at byte %d", at)
	}
	if _, err := l.img.r.ReadAt(head, int64(at)); err != nil {
		return fmt.Errorf("reading a squashfs at byte %d: %w", at, err)
	}
	start, n := binary.LittleEndian.Uint64(head), binary.LittleEndian.Uint32(head[8:])
	var err error
	if l.xattrIDs, err = l.index(at+16, int(min(n, maxFiles))*16); err != nil {
		return err
	}
	end, err := l.first(at + 16)
	if err != nil {
		return err
	}
	l.xattrs, err = l.metadata(start, end)
	return err
}

// walk reads an inode and all below it, names in order.
func (l *loader) walk(name string, ref uint64) error {
	c, err := l.inodes.from(ref)
	if err != nil {
		return err
	}
	if len(l.img.Entries) == maxFiles {
		return bad("more than %d files", maxFiles)
	}
	if len(name) > maxPath {
		return bad("a path of more than %d bytes: %q...", maxPath, name[:60])
	}
	if !spend(&l.nameBytes, len(name)) {
		return bad("the names take more than %d MiB", maxNames>>20)
	}
	kind := c.u16()
	h := &tar.Header{Name: name, Mode: int64(c.u16())}
	uid, gid := c.u16(), c.u16()
	h.ModTime = time.Unix(int64(c.u32()), 0)
	number := c.u32()
	if int(max(uid, gid)) >= len(l.ids) {
		return bad("%q has an owner outside the id table", name)
	}
	h.Uid, h.Gid = int(l.ids[uid]), int(l.ids[gid])
	e := Entry{Header: h}
	if kind == typeDir || kind == typeDir+extended {
		return l.folder(e, kind, c, ref)
	}
	if first, ok := l.seen[number]; ok {
		l.img.Entries = append(l.img.Entries, Entry{Header: &tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: first,
			ModTime: l.img.Options.Time}})
		return nil
	}
	l.seen[number] = name
	left := len(c.b)
	xattr, err := l.inode(&e, kind, c)
	if err := errors.Join(err, c.err(), l.setXattrs(h, xattr)); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	if !spend(&l.inodeBytes, left-len(c.b)) {
		return bad("%q: overlapping inodes", name)
	}
	l.img.Entries = append(l.img.Entries, e)
	return nil
}

// inode reads an inode, not a directory's, behind its header, and returns the number
// of its set of attributes.
func (l *loader) inode(e *Entry, kind uint16, c *cursor) (xattr uint32, err error) {
	h := e.Header
	if kind == typeFile || kind == typeFile+extended {
		f := &File{image: l.img}
		xattr = noXattr
		if kind == typeFile {
			f.start, f.fragment, f.offset, f.size = uint64(c.u32()), c.u32(), c.u32(), int64(c.u32())
		} else {
			f.start, f.size = c.u64(), int64(c.u64())
			c.u64() // holes
			c.u32() // names
			f.fragment, f.offset, xattr = c.u32(), c.u32(), c.u32()
		}
		h.Typeflag, h.Size, e.From = tar.TypeReg, f.size, f
		e.Open = func() (io.ReadCloser, error) { return io.NopCloser(f.Reader()), nil }
		return xattr, f.blocks(c)
	}
	c.u32() // names
	basic := kind
	if kind > extended {
		basic -= extended
	}
	switch basic {
	case typeSymlink:
		h.Typeflag = tar.TypeSymlink
		h.Linkname = string(c.take(int(min(c.u32(), metadataSize))))
	case typeBlock, typeChar:
		h.Typeflag = tar.TypeBlock
		if basic == typeChar {
			h.Typeflag = tar.TypeChar
		}
		dev := c.u32()
		h.Devmajor, h.Devminor = int64(dev>>8&0xfff), int64(dev&0xff|dev>>12&^0xff)
	case typeFIFO:
		h.Typeflag = tar.TypeFifo
	default:
		return noXattr, bad("unknown inode type %d", kind)
	}
	if kind > extended {
		return c.u32(), nil
	}
	return noXattr, nil
}

// spend takes n from a budget and reports whether it was sufficient.
func spend(left *int, n int) bool {
	*left -= n
	return *left >= 0
}

// blocks reads a file's list of blocks.
func (f *File) blocks(c *cursor) error {
	bs := int64(f.image.Options.Compression.BlockSize)
	if f.size < 0 || f.start > 1<<62 {
		return bad("invalid size")
	}
	n := f.size / bs
	if f.fragment == noFragment && f.size%bs > 0 {
		n++
	}
	if n*4 > int64(len(c.b)) {
		return bad("more blocks than the table has")
	}
	for range n {
		s := c.u32()
		if size, _ := Length(s); int64(size) > bs {
			return bad("a block of %d bytes", size)
		}
		f.sizes = append(f.sizes, s)
	}
	if f.fragment != noFragment && int(f.fragment) >= len(f.image.fragments) {
		return bad("a fragment that is not there")
	}
	return nil
}

func (l *loader) folder(e Entry, kind uint16, c *cursor, ref uint64) error {
	if l.folders[ref] {
		return bad("the directory %q contains itself", e.Name)
	}
	l.folders[ref] = true
	var block uint32
	var offset uint16
	var size int
	xattr := uint32(noXattr)
	if kind == typeDir {
		block = c.u32()
		c.u32()
		size = int(c.u16())
		offset = c.u16()
	} else {
		c.u32()
		size = int(c.u32())
		block = c.u32()
		c.u32()
		c.u16()
		offset = c.u16()
		xattr = c.u32()
	}
	e.Typeflag = tar.TypeDir
	if err := errors.Join(c.err(), l.setXattrs(e.Header, xattr)); err != nil {
		return fmt.Errorf("%q: %w", e.Name, err)
	}
	if e.Name == "" {
		e.Header.Name = "."
	}
	l.img.Entries = append(l.img.Entries, e)
	if size <= 3 {
		return nil
	}
	names, err := l.dirs.from(uint64(block)<<16 | uint64(offset))
	if err != nil {
		return err
	}
	names = &cursor{b: names.take(size - 3)}
	for len(names.b) > 0 {
		count, start := names.u32(), names.u32()
		names.u32()
		if count >= 256 {
			return bad("a directory header for %d names", count)
		}
		for range count + 1 {
			at := names.u16()
			names.u16()
			names.u16()
			name := string(names.take(int(names.u16()) + 1))
			if names.short || name == "" || name == "." || name == ".." || path.Base(name) != name {
				return bad("invalid name in %q", e.Name)
			}
			if err := l.walk(path.Join(e.Name, name), uint64(start)<<16|uint64(at)); err != nil {
				return err
			}
		}
	}
	return names.err()
}

// setXattrs puts a set of extended attributes into a header. Headers with the same
// set share it.
func (l *loader) setXattrs(h *tar.Header, set uint32) error {
	if set == noXattr {
		return nil
	}
	records, known := l.sets[set]
	if !known {
		var err error
		if records, err = l.readXattrs(set); err != nil {
			return err
		}
		l.sets[set] = records
	}
	h.PAXRecords = records
	return nil
}

// readXattrs reads a set of extended attributes.
func (l *loader) readXattrs(set uint32) (map[string]string, error) {
	if int64(set)*16+16 > int64(len(l.xattrIDs)) {
		return nil, bad("attributes that are not there")
	}
	id := cursor{b: l.xattrIDs[set*16:]}
	ref, count := id.u64(), id.u32()
	c, err := l.xattrs.from(ref)
	if err != nil {
		return nil, err
	}
	records, left := map[string]string{}, len(c.b)
	for range min(count, maxFiles) {
		kind, n := c.u16(), int(c.u16())
		name := string(c.take(n))
		value := string(c.take(int(min(c.u32(), maxTable))))
		i := sort.Search(len(xattrTypes), func(i int) bool { return xattrTypes[i].kind >= kind })
		if c.short || i == len(xattrTypes) {
			return nil, bad("invalid extended attributes")
		}
		records[XattrPrefix+xattrTypes[i].prefix+name] = value
	}
	if !spend(&l.xattrBytes, left-len(c.b)) {
		return nil, bad("overlapping extended attributes")
	}
	return records, nil
}
