package script

import (
	"archive/tar"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/layers"
)

// errno is what the kernel says when it does not do something, in musl's words.
type errno string

func (e errno) Error() string { return string(e) }

const (
	errMissing  errno = "No such file or directory"
	errExists   errno = "File exists"
	errNotDir   errno = "Not a directory"
	errIsDir    errno = "Is a directory"
	errNotEmpty errno = "Directory not empty"
	errLoop     errno = "Symbolic link loop"
	errLong     errno = "Filename too long"
	errInvalid  errno = "Invalid argument"
	errBusy     errno = "Resource busy"
)

// node is a file as a script sees it. Names that are hard links share one.
type node struct {
	tar.Header               // its name is not used
	entry      *layers.Entry // of the tree; nil for what the script made
	data       []byte        // contents, where written is set
	written    bool
	changed    bool // in its header
}

func (n *node) isDir() bool  { return n.Typeflag == tar.TypeDir }
func (n *node) isLink() bool { return n.Typeflag == tar.TypeSymlink }
func (n *node) isFile() bool { return n.Typeflag == tar.TypeReg }

// view is a tree with the changes of one script. The tree itself stays as it
// is until commit.
type view struct {
	m    *machine
	tree *layers.Tree
	// at has what was looked at, by name without a slash before it; nil is
	// for what is not there.
	at map[string]*node
	// touched are the names that were made, changed or removed.
	touched map[string]bool
	// in has, for each directory, the names in it that the script made or
	// removed.
	in map[string]map[string]bool
	// shared are the files of the tree with several names that were looked at.
	shared  []*node
	root    *node
	written int
	changes int
}

func newView(t *layers.Tree, m *machine) *view {
	root := &node{Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
	return &view{m: m, tree: t, at: map[string]*node{}, touched: map[string]bool{}, in: map[string]map[string]bool{}, root: root}
}

// get returns what is called name, which no link leads through, or nil.
func (v *view) get(name string) *node {
	if name == "" {
		return v.root
	}
	v.m.look(name)
	if n, known := v.at[name]; known {
		return n
	}
	var n *node
	if e := v.tree.At(name); e != nil {
		if n = v.linked(e); n == nil {
			n = &node{Header: e.Header, entry: e}
		}
	}
	v.at[name] = n
	return n
}

// linked returns the node of a file that another name of it was looked at by.
func (v *view) linked(e *layers.Entry) *node {
	if !e.Linked() {
		return nil
	}
	for _, n := range v.shared {
		if n.entry.SameFile(e) {
			return n
		}
	}
	n := &node{Header: e.Header, entry: e}
	v.shared = append(v.shared, n)
	v.m.effort(64 * len(v.shared))
	return n
}

// children returns the names in a directory, sorted.
func (v *view) children(dir string) []string {
	list := v.tree.Children(dir)
	v.m.list(dir)
	v.m.effort(64*(1+len(list)) + 16*len(dir))
	if len(v.in[dir]) == 0 {
		return list
	}
	list = slices.DeleteFunc(list, func(name string) bool {
		_, known := v.in[dir][name]
		return known
	})
	for name, there := range v.in[dir] {
		if there {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// join returns the name of what is in a directory.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// parent cuts a name into its directory and what it is called there.
func parent(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}

// touch counts a change of a name.
func (v *view) touch(name string) {
	v.m.mayChange()
	if v.changes++; v.changes > maxChanges {
		v.m.refuse(Limit, "more than %d changes of files", maxChanges)
	}
	v.touched[name] = true
}

// place gives a name to a file; what had the name before loses it.
func (v *view) place(name string, n *node) {
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		v.m.refuse(Unfit, "the file name %q has a control character", name)
	}
	v.touch(name)
	v.m.effort(16 * len(name))
	v.at[name] = n
	dir, base := parent(name)
	if v.in[dir] == nil {
		v.in[dir] = map[string]bool{}
	}
	v.in[dir][base] = n != nil
}

// change is to be called before the header of a file is changed.
func (v *view) change(name string, n *node) {
	v.touch(name)
	n.changed = true
}

// contents returns those of a regular file.
func (v *view) contents(n *node) []byte {
	b := v.look(n)
	v.m.effort(len(b))
	return b
}

// look is contents where the bytes are counted by who reads them.
func (v *view) look(n *node) []byte {
	if n.written || n.entry == nil || n.data != nil {
		return n.data
	}
	if n.entry.Size > maxWritten {
		v.m.refuse(Limit, "the file /%s has more than %d MiB", n.entry.Name, maxWritten>>20)
	}
	r, err := n.entry.Open()
	if err != nil {
		panic(fault{err})
	}
	defer r.Close()
	b := make([]byte, n.entry.Size)
	if _, err := io.ReadFull(r, b); err != nil {
		panic(fault{err})
	}
	n.data = b
	return b
}

// size returns the length of a regular file.
func (v *view) size(n *node) int64 {
	if n.written || n.entry == nil {
		return int64(len(n.data))
	}
	return n.entry.Size
}

// capabilities is the attribute that the kernel drops when a file is written to
// or gets another owner.
const (
	attributes   = "SCHILY.xattr."
	capabilities = attributes + "security.capability"
)

// write gives a file new contents.
func (v *view) write(n *node, data []byte) {
	v.m.mayChange()
	if n.entry != nil && n.entry.Linked() {
		v.m.refuse(Unsupported, "it writes to /%s, a file with several names", n.entry.Name)
	}
	n.data, n.written, n.ModTime = data, true, v.m.options.Epoch
	// Other records than attributes are a package's about the contents it had.
	n.dropRecords(func(key string) bool { return key == capabilities || !strings.HasPrefix(key, attributes) })
}

// writeAt writes to a file at an offset.
func (v *view) writeAt(n *node, at int, p []byte) {
	if v.written += len(p); v.written > maxWritten {
		v.m.refuse(Limit, "more than %d MiB written to files", maxWritten>>20)
	}
	old := v.contents(n)
	data := slices.Clone(old[:min(at, len(old))])
	data = append(append(data, make([]byte, at-len(data))...), p...)
	if at+len(p) < len(old) {
		data = append(data, old[at+len(p):]...)
	}
	v.write(n, data)
}

// dropRecords takes records out of a header, which other headers may share.
func (n *node) dropRecords(is func(key string) bool) {
	n.PAXRecords = maps.Clone(n.PAXRecords)
	maps.DeleteFunc(n.PAXRecords, func(key, _ string) bool { return is(key) })
}
