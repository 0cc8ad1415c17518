// Package layers holds the tree of files an image is made of and the layers
// that fill it.
package layers

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/pikelet-os/pikelet/layers/store"
	"github.com/pikelet-os/pikelet/layers/tarball"
)

// Entry is one name of the tree. Owner, mode, link target, device numbers and
// xattrs are in its tar header, a type every tool knows. The owner's name is
// kept until the builder has turned it into a number.
//
// A hard link that was placed in a tree has the header and the contents of the
// file it is another name of: what later happens to that file's other names
// does not reach it.
type Entry struct {
	tar.Header
	Source  string         // the layer it came from, for errors and listings
	Content *store.Content // of a regular file
	// Packaged is what its package calls it, where a link in the path led
	// elsewhere; "" where that is its name.
	Packaged string

	inode *inode // of a name that shares its file with others
}

// inode is what hard links share.
type inode struct{ names []*Entry }

// share makes e another name of the file that old is a name of.
func (e *Entry) share(old *Entry) {
	if old.inode == nil {
		old.inode = &inode{[]*Entry{old}}
	}
	name := e.Name
	e.Header, e.Content, e.inode = old.Header, old.Content, old.inode
	e.Name = name
	e.inode.names = append(e.inode.names, e)
}

// Change changes the header of the file that e is a name of, for all its
// names. f must leave the name alone.
func (e *Entry) Change(f func(*tar.Header)) {
	if e.inode == nil {
		f(&e.Header)
		return
	}
	for _, name := range e.inode.names {
		f(&name.Header)
	}
}

// Linked reports whether the file has had more names than this one.
func (e *Entry) Linked() bool { return e.inode != nil && len(e.inode.names) > 1 }

// SameFile reports whether two entries are names of one file.
func (e *Entry) SameFile(other *Entry) bool {
	return e == other || e.inode != nil && e.inode == other.inode
}

// HardLinks returns, for each entry of a list that is another name of an
// earlier one's file, the first name of that file in the list.
func HardLinks(list []*Entry) map[*Entry]*Entry {
	first := map[*inode]*Entry{}
	links := map[*Entry]*Entry{}
	for _, e := range list {
		if e.inode == nil {
			continue
		}
		if to := first[e.inode]; to != nil {
			links[e] = to
		} else {
			first[e.inode] = e
		}
	}
	return links
}

// Open opens the contents of a regular file.
func (e *Entry) Open() (io.ReadCloser, error) { return e.Content.Open() }

// Tree is the merged files of an image. The zero value is not usable.
type Tree struct {
	entries entries
	file    *store.File
}

// NewTree returns an empty tree. The contents of what is added to it without
// any that are kept already go to file.
func NewTree(file *store.File) *Tree {
	return &Tree{entries: entries{byName: map[string]*Entry{}, in: map[string]map[string]bool{}}, file: file}
}

// Lookups returns how many entries the tree has looked at so far: the work of an
// operation, whatever the speed of the machine.
func (t *Tree) Lookups() int64 { return t.entries.looked.Load() }

// Clean returns the form of a path the tree uses: no slash at either end.
func Clean(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

// maxEntries bounds the names of a tree: a full k3s image has about 15,000.
const maxEntries = 1 << 20

// maxLinks bounds how many links a path may lead through, as the kernel does.
const maxLinks = 40

// Resolve follows symbolic links in the directories of a path, and in its last
// part too if all is set, and returns where it leads inside the tree. A path
// through more than 40 links is an error.
func (t *Tree) Resolve(name string, all bool) (string, error) {
	return t.walk(name, all, func(*Entry) {})
}

// Trail returns the directories and links that a path leads through, and at last
// what it leads to, as far as they are there.
func (t *Tree) Trail(name string) []*Entry {
	var list []*Entry
	// The error is that of too many links: they are the trail.
	_, _ = t.walk(name, true, func(e *Entry) { list = append(list, e) })
	return list
}

// walk is Resolve, and visits every entry on the way.
func (t *Tree) walk(name string, all bool, visit func(*Entry)) (string, error) {
	rest := Clean(name)
	for at, links := 0, 0; at < len(rest); {
		end := len(rest)
		if i := strings.IndexByte(rest[at:], '/'); i >= 0 {
			end = at + i
		}
		e := t.entries.get(rest[:end])
		if e == nil {
			break // and nothing is below it
		}
		visit(e)
		if e.Typeflag != tar.TypeSymlink || end == len(rest) && !all {
			at = end + 1
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%q leads through more than %d symbolic links", name, maxLinks)
		}
		to := e.Linkname
		if !strings.HasPrefix(to, "/") {
			to = dirOf(rest[:end]) + "/" + to
		}
		rest, at = Clean(to+rest[end:]), 0
	}
	return rest, nil
}

// Lookup returns the entry a path leads to, or nil.
func (t *Tree) Lookup(name string) *Entry {
	at, err := t.Resolve(name, true)
	if err != nil {
		return nil
	}
	return t.entries.get(at)
}

// At returns the entry of that very name, or nil: no link is followed.
func (t *Tree) At(name string) *Entry { return t.entries.get(Clean(name)) }

// Add puts an entry into the tree; contents is read to its end where the
// entry is a regular file. Directories in the path that are symbolic links are
// followed, as unpacking on a disk would. What a directory meets is: a directory
// takes over owner and mode, anything else is replaced. Missing parents are
// made, owned by root, mode 0755.
func (t *Tree) Add(h tar.Header, source string, contents io.Reader) error {
	var p Part
	if err := p.Add(t.file, h, source, contents); err != nil {
		return err
	}
	return t.Place(p[0])
}

// Place is Add for an entry whose contents are kept already. The entry is the
// tree's from then on.
func (t *Tree) Place(e *Entry) error {
	h, source := &e.Header, e.Source
	if tarball.Climbs(h.Name) || h.Typeflag == tar.TypeLink && tarball.Climbs(h.Linkname) {
		return fmt.Errorf("%s: the path %q climbs out of the root", source, h.Name)
	}
	if err := checkNames(h); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	if err := fit(h); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	if len(t.entries.byName) >= maxEntries {
		return fmt.Errorf("%s: the root has more than %d files", source, maxEntries)
	}
	name, err := t.Resolve(h.Name, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if name == "" {
		return nil
	}
	var target *Entry // of a hard link
	if h.Typeflag == tar.TypeLink {
		to, err := t.Resolve(h.Linkname, false)
		if err != nil {
			return err
		}
		if target = t.entries.get(to); target == nil || target.Typeflag == tar.TypeDir {
			return fmt.Errorf("%s: %q is a hard link to %q, which is not a file of the tree", source, name, to)
		}
		if to == name {
			return nil // as tar writes a file that it was given twice
		}
	}
	old := t.entries.get(name)
	if old != nil && (old.Typeflag == tar.TypeDir) != (h.Typeflag == tar.TypeDir) {
		return fmt.Errorf("%s: %q is a directory in one layer and not in another (%s)", source, name, old.Source)
	}
	if p := t.nearest(name); p != nil && p.Typeflag != tar.TypeDir {
		return fmt.Errorf("%s: %q is a directory in one layer and not in another (%s)", source, p.Name, p.Source)
	}
	h.Name = name
	if target != nil {
		e.share(target)
	}
	t.parents(name, h)
	t.entries.put(name, e)
	return nil
}

// nearest returns the deepest of the directories of a name that are there, which
// may be no directory; nil where none is.
func (t *Tree) nearest(name string) *Entry {
	for d := dirOf(name); d != ""; d = dirOf(d) {
		if e := t.entries.get(d); e != nil {
			return e
		}
	}
	return nil
}

// dirOf returns the directory a name is in; "" is the root.
func dirOf(name string) string { return name[:max(0, strings.LastIndexByte(name, '/'))] }

// PlaceOver is Place for layers of a container image, where a file takes the
// place of a directory and a directory that of a file.
func (t *Tree) PlaceOver(e *Entry) error {
	at, err := t.Resolve(e.Name, false)
	if err != nil {
		return err
	}
	if !tarball.Climbs(e.Name) {
		if old := t.entries.get(at); old != nil && at != "" && (old.Typeflag == tar.TypeDir) != (e.Typeflag == tar.TypeDir) {
			t.Remove(at)
		}
		if p := t.nearest(at); p != nil && p.Typeflag != tar.TypeDir {
			t.Remove(p.Name)
		}
	}
	return t.Place(e)
}

func (t *Tree) parents(name string, like *tar.Header) {
	for d := dirOf(name); d != "" && t.entries.get(d) == nil; d = dirOf(d) {
		t.entries.put(d, &Entry{Source: "implied", Header: tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755, ModTime: like.ModTime}})
	}
}

// AddFile puts a small file of the builder's own into the tree.
func (t *Tree) AddFile(h tar.Header, source string, contents []byte) error {
	h.Typeflag = tar.TypeReg
	h.Size = int64(len(contents))
	return t.Add(h, source, bytes.NewReader(contents))
}

// Remove takes a name and what is below it out of the tree. It takes time for
// what it removes, not for what is left.
func (t *Tree) Remove(name string) {
	name = Clean(name)
	t.entries.empty(name)
	t.entries.drop(name)
}

// Empty takes what is below a name out of the tree, and leaves the name.
func (t *Tree) Empty(name string) { t.entries.empty(Clean(name)) }

// ReadFile returns the contents of a regular file of at most limit bytes. The error is
// fs.ErrNotExist where there is none, and store.ErrCorrupt where its contents are not
// what was kept: whoever does without a file does so for the first alone.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	e := t.Lookup(name)
	if e == nil || e.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("the tree has no file %q: %w", name, fs.ErrNotExist)
	}
	if e.Size > limit {
		return nil, fmt.Errorf("%q has %d bytes, more than %d", name, e.Size, limit)
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, e.Size)
	_, err = io.ReadFull(r, b)
	return b, err
}

// Entries returns all entries sorted by name, so that directories come before
// what they hold.
func (t *Tree) Entries() []*Entry {
	return byName(slices.Collect(t.entries.all()))
}

// Below returns the entries below a directory, sorted by name.
func (t *Tree) Below(dir string) []*Entry {
	at, err := t.Resolve(dir, true)
	if err != nil {
		return nil
	}
	var list []*Entry
	for _, name := range t.entries.below(at) {
		list = append(list, t.entries.get(name))
	}
	return byName(list)
}

// Children returns the names of what is directly in a directory, without the
// directory's own, sorted. No link is followed.
func (t *Tree) Children(dir string) []string {
	var list []string
	for name := range t.entries.in[Clean(dir)] {
		list = append(list, name[strings.LastIndexByte(name, '/')+1:])
	}
	sort.Strings(list)
	return list
}

func byName(list []*Entry) []*Entry {
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// Listing writes the tree down: kind, mode, owner, size, hash or target, and
// name of every entry, one a line. Of the names a file has, the first is the
// file, and the others are hard links to it.
func (t *Tree) Listing() []byte {
	var b bytes.Buffer
	entries := t.Entries()
	links := HardLinks(entries)
	for _, e := range entries {
		shown, what := kind(e.Typeflag), "-"
		switch to := links[e]; {
		case to != nil:
			shown, what = 'h', "-> "+to.Name
		case e.Typeflag == tar.TypeReg:
			what = hex.EncodeToString(e.Content.Sum[:])
		case e.Typeflag == tar.TypeSymlink:
			what = "-> " + e.Linkname
		case e.Typeflag == tar.TypeChar || e.Typeflag == tar.TypeBlock:
			what = fmt.Sprintf("%d,%d", e.Devmajor, e.Devminor)
		}
		fmt.Fprintf(&b, "%c %04o %d:%d %d %d %s /%s", shown, e.Mode, e.Uid, e.Gid, e.Size, e.ModTime.Unix(), what, e.Name)
		var keys []string
		for k := range e.PAXRecords {
			if strings.HasPrefix(k, xattrPrefix) {
				keys = append(keys, k)
			}
		}
		sort.Strings(keys)
		for _, k := range keys {
			fmt.Fprintf(&b, " %s=%s", strings.TrimPrefix(k, xattrPrefix), hex.EncodeToString([]byte(e.PAXRecords[k])))
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func kind(t byte) byte {
	switch t {
	case tar.TypeDir:
		return 'd'
	case tar.TypeSymlink:
		return 'l'
	case tar.TypeChar:
		return 'c'
	case tar.TypeBlock:
		return 'b'
	case tar.TypeFifo:
		return 'p'
	}
	return 'f'
}
