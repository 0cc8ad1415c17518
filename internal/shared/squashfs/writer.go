package squashfs

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
	"time"
)

// Entry is one name of the tree to be written. Owner, mode, link target,
// device numbers and xattrs (PAX records SCHILY.xattr.*) come from its tar
// header; a hard link names an earlier entry. Of a regular file, Write reads
// what Open opens and Plan takes what is Packed. Where From is set too, and is
// of an image of the same Compression and Generation, Write takes whole blocks
// from there as they are.
type Entry struct {
	*tar.Header
	Open   func() (io.ReadCloser, error)
	Packed Packed
	From   *File
}

// Options determine the bytes of an image together with its tree.
type Options struct {
	Compression Compression // the zero value means Fast
	Time        time.Time   // of the image, and of the root directory where no entry gives one
	Workers     int         // goroutines that compress; less than 1 means 1; does not change the bytes
}

// XattrPrefix begins the PAX records by which tar spells extended attributes.
const XattrPrefix = "SCHILY.xattr."

// node is a name in the tree being written.
type node struct {
	Entry
	name     string
	children []*node
	parent   *node
	link     *node // of a hard link: the node that has the inode
	nlink    uint32

	number uint32 // inode number, from 1; 0 until written
	ref    uint64 // where the inode is: block start << 16 | offset

	data *fileData
}

// begin fills in the defaults of options and builds the tree.
func begin(entries []Entry, o *Options) (*node, error) {
	if o.Compression.BlockSize == 0 {
		o.Compression = Fast()
	}
	o.Workers = max(1, o.Workers)
	err := o.Compression.check()
	if err != nil {
		return nil, fmt.Errorf("writing squashfs: %w", err)
	}
	root, err := grow(entries, o.Time)
	if err != nil {
		return nil, fmt.Errorf("writing squashfs: %w", err)
	}
	return root, nil
}

// grow turns the list into a tree, children sorted by name.
func grow(entries []Entry, at time.Time) (*node, error) {
	root := &node{Entry: Entry{Header: &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: at}}, nlink: 2}
	byPath := map[string]*node{"": root}
	for _, e := range entries {
		p := strings.Trim(path.Clean("/"+e.Name), "/")
		if p == "" {
			root.Entry = e
			continue
		}
		dir, name := path.Split(p)
		up := byPath[strings.TrimSuffix(dir, "/")]
		switch {
		case byPath[p] != nil:
			return nil, fmt.Errorf("%q is there twice", p)
		case up == nil:
			return nil, fmt.Errorf("%q comes before its directory", p)
		case up.Typeflag != tar.TypeDir:
			return nil, fmt.Errorf("the parent of %q is not a directory", p)
		case len(name) > 256:
			return nil, fmt.Errorf("the name %q is longer than 256 bytes", name)
		}
		n := &node{Entry: e, name: name, parent: up, nlink: 1}
		switch e.Typeflag {
		case tar.TypeDir:
			n.nlink = 2
			up.nlink++
		case tar.TypeLink:
			to := byPath[strings.Trim(path.Clean("/"+e.Linkname), "/")]
			if to == nil || to.link != nil || to.Typeflag == tar.TypeDir {
				return nil, fmt.Errorf("the hard link %q names %q, which is not an earlier file", p, e.Linkname)
			}
			n.link = to
			to.nlink++
		}
		up.children = append(up.children, n)
		byPath[p] = n
	}
	for _, n := range byPath {
		sort.Slice(n.children, func(i, j int) bool { return n.children[i].name < n.children[j].name })
	}
	root.relink(map[*node]bool{})
	return root, nil
}

// relink makes the first name of a file, in the order of writing, the file, and the
// others links to it, whatever the list says, so that an image alone determines
// which is which.
func (n *node) relink(seen map[*node]bool) {
	for _, c := range n.children {
		if to := c.link; to != nil {
			if to.link != nil {
				to = to.link
			}
			c.link = to
			if !seen[to] {
				h := *c.Header
				h.Typeflag = tar.TypeLink
				c.Entry, c.link, c.nlink = to.Entry, nil, to.nlink
				to.Entry, to.link = Entry{Header: &h}, c
			}
		}
		seen[c] = true
		c.relink(seen)
	}
}

// files calls visit for every regular file in the order they are written.
func (n *node) files(visit func(*node) error) error {
	for _, c := range n.children {
		if c.Typeflag == tar.TypeReg {
			if err := visit(c); err != nil {
				return err
			}
		}
		if err := c.files(visit); err != nil {
			return err
		}
	}
	return nil
}

// path returns the node's name from the root, for errors.
func (n *node) path() string {
	if n.parent == nil {
		return "/"
	}
	return path.Join(n.parent.path(), n.name)
}

// output writes sequentially.
type output struct {
	w  io.WriterAt
	at int64
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.WriteAt(p, o.at)
	o.at += int64(n)
	return n, err
}

const superblockSize = 96

// writeTables writes the tables behind the data, and returns the superblock. The
// kernel requires their order: inodes, directories, fragments, ids, xattrs.
func writeTables(out *output, root *node, fragments []*fragment, o Options) ([]byte, error) {
	m, err := newTables(o.Compression)
	if err != nil {
		return nil, err
	}
	defer m.close()
	if err := m.add(root); err != nil {
		return nil, err
	}
	s := make([]byte, superblockSize)
	le := binary.LittleEndian
	inodeTable := uint64(out.at)
	if err := m.inodes.flush(out); err != nil {
		return nil, err
	}
	dirTable := uint64(out.at)
	if err := m.dirs.flush(out); err != nil {
		return nil, err
	}
	fragTable, err := m.writeFragments(out, fragments)
	if err != nil {
		return nil, err
	}
	var ids []byte
	for _, id := range m.ids {
		ids = le.AppendUint32(ids, id)
	}
	idTable, err := m.indexed(out, ids, nil)
	if err != nil {
		return nil, err
	}
	xattrTable, err := m.writeXattrs(out)
	if err != nil {
		return nil, err
	}

	flags := uint16(flagDuplicates)
	if xattrTable == invalidBlock {
		flags |= flagNoXattrs
	}
	le.PutUint32(s[0:], magic)
	le.PutUint32(s[4:], m.count)
	le.PutUint32(s[8:], seconds(o.Time))
	le.PutUint32(s[12:], uint32(o.Compression.BlockSize))
	le.PutUint32(s[16:], uint32(len(fragments)))
	le.PutUint16(s[20:], o.Compression.id())
	le.PutUint16(s[22:], uint16(log2(o.Compression.BlockSize)))
	le.PutUint16(s[24:], flags)
	le.PutUint16(s[26:], uint16(len(m.ids)))
	le.PutUint16(s[28:], 4)
	le.PutUint64(s[32:], root.ref)
	le.PutUint64(s[40:], uint64(out.at))
	le.PutUint64(s[48:], idTable)
	le.PutUint64(s[56:], xattrTable)
	le.PutUint64(s[64:], inodeTable)
	le.PutUint64(s[72:], dirTable)
	le.PutUint64(s[80:], fragTable)
	le.PutUint64(s[88:], invalidBlock) // no export table
	if pad := -out.at & 4095; pad > 0 {
		if _, err := out.Write(make([]byte, pad)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// writeFragments writes the table of fragments, and returns where the table is;
// invalidBlock without fragments.
func (t *tables) writeFragments(out *output, fragments []*fragment) (uint64, error) {
	if len(fragments) == 0 {
		return invalidBlock, nil
	}
	le := binary.LittleEndian
	var b []byte
	for _, f := range fragments {
		b = le.AppendUint64(b, f.start)
		b = le.AppendUint32(b, f.size)
		b = le.AppendUint32(b, 0)
	}
	return t.indexed(out, b, nil)
}

// writeXattrs writes the extended attributes and their table, and returns where
// the table is; invalidBlock without attributes.
func (t *tables) writeXattrs(out *output) (uint64, error) {
	if len(t.xattrIDs) == 0 {
		return invalidBlock, nil
	}
	le := binary.LittleEndian
	start := uint64(out.at)
	if err := t.xattrs.flush(out); err != nil {
		return 0, err
	}
	head := le.AppendUint64(nil, start)
	head = le.AppendUint32(head, uint32(len(t.xattrIDs)/16))
	head = le.AppendUint32(head, 0)
	return t.indexed(out, t.xattrIDs, head)
}

func log2(n int) int {
	l := 0
	for ; n > 1; n >>= 1 {
		l++
	}
	return l
}
