package squashfs

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"math"
	"sort"
	"strings"
	"time"
)

// metadata is a run of 8 KiB metadata blocks, compressed one by one.
type metadata struct {
	enc  *Encoder
	err  error  // of compressing
	done []byte // finished blocks with their headers
	part []byte // the block being filled
}

// ref returns where the next byte will be: block start << 16 | offset.
func (m *metadata) ref() uint64 { return uint64(len(m.done))<<16 | uint64(len(m.part)) }

func (m *metadata) write(p []byte) {
	for len(p) > 0 {
		n := min(metadataSize-len(m.part), len(p))
		m.part = append(m.part, p[:n]...)
		p = p[n:]
		if len(m.part) == metadataSize {
			m.close()
		}
	}
}

func (m *metadata) close() {
	if len(m.part) == 0 {
		return
	}
	block, size, err := m.enc.encode(m.part, nil)
	if err != nil && m.err == nil {
		m.err = err
	}
	head := uint16(len(block))
	if _, compressed := Length(size); !compressed {
		head |= storedMeta
	}
	m.done = binary.LittleEndian.AppendUint16(m.done, head)
	m.done = append(m.done, block...)
	m.part = m.part[:0]
}

func (m *metadata) flush(out *output) error {
	m.close()
	if m.err != nil {
		return m.err
	}
	_, err := out.Write(m.done)
	return err
}

// tables collects the metadata of files: inodes, directories, owners, xattrs.
type tables struct {
	enc       *Encoder
	blockSize int
	inodes    metadata
	dirs      metadata
	xattrs    metadata
	xattrIDs  []byte            // 16 bytes each
	xattrSets map[string]uint32 // encoded set to its number
	ids       []uint32
	idIndex   map[uint32]uint16
	count     uint32
}

func newTables(c Compression) (*tables, error) {
	enc, err := c.encoder(metadataSize)
	if err != nil {
		return nil, err
	}
	return &tables{
		enc: enc, blockSize: c.BlockSize,
		inodes: metadata{enc: enc}, dirs: metadata{enc: enc}, xattrs: metadata{enc: enc},
		xattrSets: map[string]uint32{}, idIndex: map[uint32]uint16{},
	}, nil
}

func (t *tables) close() { t.enc.Close() }

// indexed writes a table that is found through a list of its blocks: the
// blocks, then head, then the list. It returns where head begins.
func (t *tables) indexed(out *output, b, head []byte) (uint64, error) {
	list := head
	for len(b) > 0 {
		n := min(metadataSize, len(b))
		m := metadata{enc: t.enc}
		m.write(b[:n])
		list = binary.LittleEndian.AppendUint64(list, uint64(out.at))
		if err := m.flush(out); err != nil {
			return 0, err
		}
		b = b[n:]
	}
	at := uint64(out.at)
	_, err := out.Write(list)
	return at, err
}

// id returns the number of an owner in the table of ids. An owner above 32 bits is
// refused: truncated it would be another one, such as root.
func (t *tables) id(v int) (uint16, error) {
	if v < 0 || int64(v) > math.MaxUint32 {
		return 0, fmt.Errorf("squashfs has 32 bits for owners, and this is %d", v)
	}
	if i, ok := t.idIndex[uint32(v)]; ok {
		return i, nil
	}
	if len(t.ids) == 1<<16-1 {
		return 0, fmt.Errorf("more than 65535 different owners")
	}
	i := uint16(len(t.ids))
	t.ids = append(t.ids, uint32(v))
	t.idIndex[uint32(v)] = i
	return i, nil
}

// add writes the inodes of everything below n, and n's own last: a directory's
// listing needs to know where its children's inodes are. Inode numbers follow
// the order of writing.
func (t *tables) add(n *node) error {
	for _, c := range n.children {
		if c.Typeflag == tar.TypeDir {
			continue
		}
		if err := t.leaf(c); err != nil {
			return fmt.Errorf("packing %q: %w", c.path(), err)
		}
	}
	for _, c := range n.children {
		if c.Typeflag == tar.TypeDir {
			if err := t.add(c); err != nil {
				return err
			}
		}
	}
	if err := t.folder(n); err != nil {
		return fmt.Errorf("packing %q: %w", n.path(), err)
	}
	return nil
}

// header returns the 16 bytes all inodes begin with.
func (t *tables) header(n *node, kind uint16) ([]byte, error) {
	uid, err := t.id(n.Uid)
	if err != nil {
		return nil, err
	}
	gid, err := t.id(n.Gid)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	b := le.AppendUint16(nil, kind)
	b = le.AppendUint16(b, uint16(n.Mode&0o7777))
	b = le.AppendUint16(b, uid)
	b = le.AppendUint16(b, gid)
	b = le.AppendUint32(b, seconds(n.ModTime))
	return le.AppendUint32(b, n.number), nil
}

// seconds returns a time as squashfs stores it. Times before 1970 and after 2106 are
// clamped.
func seconds(t time.Time) uint32 { return uint32(min(max(t.Unix(), 0), math.MaxUint32)) }

// number gives n the next inode number.
func (t *tables) number(n *node) {
	t.count++
	n.number = t.count
}

// leaf writes the inode of a file that is not a directory.
func (t *tables) leaf(n *node) error {
	if in := n.inode(); in.number == 0 {
		return t.leafOnce(in)
	}
	return nil // a hard link, whose inode is written
}

func (t *tables) leafOnce(n *node) error {
	xattr, err := t.xattrSet(n)
	if err != nil {
		return err
	}
	t.number(n)
	n.ref = t.inodes.ref()
	le := binary.LittleEndian
	kind := kinds[n.Typeflag]
	if kind == 0 {
		return fmt.Errorf("squashfs has no files of tar type %q", n.Typeflag)
	}
	if kind == typeFile {
		return t.file(n, xattr)
	}
	if xattr != noXattr {
		kind += extended
	}
	b, err := t.header(n, kind)
	if err != nil {
		return err
	}
	b = le.AppendUint32(b, n.nlink)
	switch n.Typeflag {
	case tar.TypeSymlink:
		b = le.AppendUint32(b, uint32(len(n.Linkname)))
		b = append(b, n.Linkname...)
	case tar.TypeBlock, tar.TypeChar:
		if n.Devmajor < 0 || n.Devmajor >= 1<<12 || n.Devminor < 0 || n.Devminor >= 1<<20 {
			return fmt.Errorf("squashfs has 12 and 20 bits for device numbers, and this is %d,%d", n.Devmajor, n.Devminor)
		}
		major, minor := uint32(n.Devmajor), uint32(n.Devminor)
		b = le.AppendUint32(b, minor&0xff|major<<8|minor&^0xff<<12) // new_encode_dev of the kernel
	}
	if xattr != noXattr {
		b = le.AppendUint32(b, xattr)
	}
	t.inodes.write(b)
	return nil
}

var kinds = map[byte]uint16{
	tar.TypeReg: typeFile, tar.TypeSymlink: typeSymlink, tar.TypeBlock: typeBlock,
	tar.TypeChar: typeChar, tar.TypeFifo: typeFIFO,
}

func (t *tables) file(n *node, xattr uint32) error {
	d := n.data
	le := binary.LittleEndian
	var sparse uint64
	for _, size := range d.sizes {
		if size == 0 {
			sparse += uint64(t.blockSize)
		}
	}
	var b []byte
	var err error
	if xattr == noXattr && n.nlink == 1 && sparse == 0 && n.Size < 1<<32 && d.start < 1<<32 {
		if b, err = t.header(n, typeFile); err != nil {
			return err
		}
		b = le.AppendUint32(b, uint32(d.start))
		b = le.AppendUint32(b, d.fragment)
		b = le.AppendUint32(b, d.offset)
		b = le.AppendUint32(b, uint32(n.Size))
	} else {
		if b, err = t.header(n, typeFile+extended); err != nil {
			return err
		}
		b = le.AppendUint64(b, d.start)
		b = le.AppendUint64(b, uint64(n.Size))
		b = le.AppendUint64(b, sparse)
		b = le.AppendUint32(b, n.nlink)
		b = le.AppendUint32(b, d.fragment)
		b = le.AppendUint32(b, d.offset)
		b = le.AppendUint32(b, xattr)
	}
	for _, size := range d.sizes {
		b = le.AppendUint32(b, size)
	}
	t.inodes.write(b)
	return nil
}

// directory writes n's listing and its inode, whose children are all written.
func (t *tables) folder(n *node) error {
	xattr, err := t.xattrSet(n)
	if err != nil {
		return err
	}
	if n.number == 0 {
		t.number(n)
	}
	at := t.dirs.ref()
	size := t.listing(n) + 3 // the kernel counts . and .. as three bytes
	n.ref = t.inodes.ref()
	// A directory is written before its parent, whose number is therefore
	// reserved now; the root's parent is, by convention, one past all.
	var parent uint32
	if n.parent != nil {
		if n.parent.number == 0 {
			t.number(n.parent)
		}
		parent = n.parent.number
	} else {
		parent = t.count + 1
	}
	le := binary.LittleEndian
	var b []byte
	if size < 1<<16 && xattr == noXattr {
		if b, err = t.header(n, typeDir); err != nil {
			return err
		}
		b = le.AppendUint32(b, uint32(at>>16))
		b = le.AppendUint32(b, n.nlink)
		b = le.AppendUint16(b, uint16(size))
		b = le.AppendUint16(b, uint16(at))
		b = le.AppendUint32(b, parent)
	} else {
		if b, err = t.header(n, typeDir+extended); err != nil {
			return err
		}
		b = le.AppendUint32(b, n.nlink)
		b = le.AppendUint32(b, uint32(size))
		b = le.AppendUint32(b, uint32(at>>16))
		b = le.AppendUint32(b, parent)
		b = le.AppendUint16(b, 0) // no index
		b = le.AppendUint16(b, uint16(at))
		b = le.AppendUint32(b, xattr)
	}
	t.inodes.write(b)
	return nil
}

// listing writes the names of a directory and returns their size in bytes. One
// header serves at most 256 names whose inodes lie in one metadata block and whose
// numbers differ from the first by a signed 16-bit number.
func (t *tables) listing(n *node) int {
	le := binary.LittleEndian
	size := 0
	for i := 0; i < len(n.children); {
		first := n.children[i].inode()
		end := i
		var names []byte
		for end < len(n.children) && end-i < 256 {
			c := n.children[end]
			in := c.inode()
			diff := int64(in.number) - int64(first.number)
			if in.ref>>16 != first.ref>>16 || diff < -1<<15 || diff > 1<<15-1 {
				break
			}
			kind := kinds[in.Typeflag]
			if in.Typeflag == tar.TypeDir {
				kind = typeDir
			}
			names = le.AppendUint16(names, uint16(in.ref))
			names = le.AppendUint16(names, uint16(diff))
			names = le.AppendUint16(names, kind)
			names = le.AppendUint16(names, uint16(len(c.name)-1))
			names = append(names, c.name...)
			end++
		}
		head := le.AppendUint32(nil, uint32(end-i-1))
		head = le.AppendUint32(head, uint32(first.ref>>16))
		head = le.AppendUint32(head, first.number)
		t.dirs.write(head)
		t.dirs.write(names)
		size += len(head) + len(names)
		i = end
	}
	return size
}

// inode returns the node that has the inode of n.
func (n *node) inode() *node {
	if n.link != nil {
		return n.link
	}
	return n
}

// xattrTypes maps prefixes to the numbers of squashfs_fs.h.
var xattrTypes = []struct {
	prefix string
	kind   uint16
}{{"user.", 0}, {"trusted.", 1}, {"security.", 2}}

// HoldsXattr reports whether squashfs can hold an extended attribute of that
// name.
func HoldsXattr(name string) bool {
	for _, x := range xattrTypes {
		if strings.HasPrefix(name, x.prefix) {
			return true
		}
	}
	return false
}

// xattrSet returns the number of n's set of xattrs, writing it when it is new.
func (t *tables) xattrSet(n *node) (uint32, error) {
	var names []string
	for k := range n.PAXRecords {
		if strings.HasPrefix(k, XattrPrefix) {
			names = append(names, k)
		}
	}
	if len(names) == 0 {
		return noXattr, nil
	}
	sort.Strings(names)
	le := binary.LittleEndian
	var b []byte
next:
	for _, k := range names {
		name, value := strings.TrimPrefix(k, XattrPrefix), n.PAXRecords[k]
		for _, x := range xattrTypes {
			rest, ok := strings.CutPrefix(name, x.prefix)
			if !ok {
				continue
			}
			b = le.AppendUint16(b, x.kind)
			b = le.AppendUint16(b, uint16(len(rest)))
			b = append(b, rest...)
			b = le.AppendUint32(b, uint32(len(value)))
			b = append(b, value...)
			continue next
		}
		return 0, fmt.Errorf("squashfs can't hold the extended attribute %q, only user., trusted. and security.", name)
	}
	if i, ok := t.xattrSets[string(b)]; ok {
		return i, nil
	}
	i := uint32(len(t.xattrSets))
	t.xattrSets[string(b)] = i
	t.xattrIDs = le.AppendUint64(t.xattrIDs, t.xattrs.ref())
	t.xattrIDs = le.AppendUint32(t.xattrIDs, uint32(len(names)))
	t.xattrIDs = le.AppendUint32(t.xattrIDs, uint32(len(b)))
	t.xattrs.write(b)
	return i, nil
}
