// Package layers holds the tree of files an image is made of and the layers
// that fill it.
package layers

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"sort"
	"strings"
)

// Entry is one name of the tree. Owner, mode, link target, device numbers and
// xattrs are in its tar header, a type every tool knows. The owner's name is
// kept until the builder has turned it into a number.
type Entry struct {
	tar.Header
	Source string // the layer it came from, for errors and listings
	Sum    string // SHA-256 of a regular file's contents, hex
	Open   func() (io.ReadCloser, error)
}

// Tree is the merged files of an image. The zero value is not usable.
type Tree struct {
	entries map[string]*Entry
	store   *Store
}

// NewTree returns an empty tree whose contents go to store.
func NewTree(store *Store) *Tree {
	return &Tree{entries: map[string]*Entry{}, store: store}
}

// Clean returns the form of a path the tree uses: no slash at either end.
func Clean(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

// maxEntries bounds the names of a tree: a full k3s image has about 15,000.
const maxEntries = 1 << 20

// climbs says whether a path leads above where it begins. Whoever writes one
// into an archive means no good, even where it would be caught later.
func climbs(name string) bool {
	depth := 0
	for _, part := range strings.Split(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}

// maxLinks bounds how many links a path may lead through, as the kernel does.
const maxLinks = 40

// Resolve follows symbolic links in the folders of a path, and in its last
// part too if all is set, and returns where it leads inside the tree.
func (t *Tree) Resolve(name string, all bool) (string, error) {
	parts := strings.Split(Clean(name), "/")
	at := ""
	for links := 0; len(parts) > 0; {
		next := path.Join(at, parts[0])
		parts = parts[1:]
		e := t.entries[next]
		if e == nil || e.Typeflag != tar.TypeSymlink || len(parts) == 0 && !all {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%q leads through more than %d symbolic links", name, maxLinks)
		}
		to := e.Linkname
		if !strings.HasPrefix(to, "/") {
			to = path.Join("/", at, to)
		}
		parts = append(strings.Split(Clean(to), "/"), parts...)
		at = ""
	}
	return at, nil
}

// Lookup returns the entry a path leads to, or nil.
func (t *Tree) Lookup(name string) *Entry {
	at, err := t.Resolve(name, true)
	if err != nil {
		return nil
	}
	return t.entries[at]
}

// Add puts an entry into the tree; contents is read to its end where the
// entry is a regular file. Folders in the path that are symbolic links are
// followed, as unpacking on a disk would. What a folder meets is: a folder
// takes over owner and mode, anything else is replaced. Missing parents are
// made, owned by root, mode 0755.
func (t *Tree) Add(h tar.Header, source string, contents io.Reader) error {
	if climbs(h.Name) || h.Typeflag == tar.TypeLink && climbs(h.Linkname) {
		return fmt.Errorf("%s: the path %q climbs out of the root", source, h.Name)
	}
	if len(t.entries) >= maxEntries {
		return fmt.Errorf("%s: the root has more than %d files", source, maxEntries)
	}
	name, err := t.Resolve(h.Name, h.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if name == "" {
		return nil
	}
	if h.Typeflag == tar.TypeLink {
		if h.Linkname, err = t.Resolve(h.Linkname, false); err != nil {
			return err
		}
		if old := t.entries[h.Linkname]; old == nil || old.Typeflag == tar.TypeDir {
			return fmt.Errorf("%s: %q is a hard link to %q, which is no file", source, name, h.Linkname)
		}
	}
	old := t.entries[name]
	if old != nil && (old.Typeflag == tar.TypeDir) != (h.Typeflag == tar.TypeDir) {
		return fmt.Errorf("%s: %q is a folder in one layer and none in another (%s)", source, name, old.Source)
	}
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if p := t.entries[d]; p != nil && p.Typeflag != tar.TypeDir {
			return fmt.Errorf("%s: %q is a folder in one layer and none in another (%s)", source, d, p.Source)
		}
	}
	h.Name = name
	e := &Entry{Header: h, Source: source}
	if h.Typeflag == tar.TypeReg {
		if err := t.store.put(e, contents); err != nil {
			return fmt.Errorf("%s: storing %q: %w", source, name, err)
		}
	}
	t.parents(name, h)
	t.entries[name] = e
	return nil
}

// AddOver is Add for layers of a container image, where a file takes the
// place of a folder and a folder that of a file.
func (t *Tree) AddOver(h tar.Header, source string, contents io.Reader) error {
	at, err := t.Resolve(h.Name, false)
	if err != nil {
		return err
	}
	if !climbs(h.Name) {
		if old := t.entries[at]; old != nil && at != "" && (old.Typeflag == tar.TypeDir) != (h.Typeflag == tar.TypeDir) {
			t.Remove(at)
		}
		for d := path.Dir(at); d != "."; d = path.Dir(d) {
			if p := t.entries[d]; p != nil && p.Typeflag != tar.TypeDir {
				t.Remove(d)
			}
		}
	}
	return t.Add(h, source, contents)
}

func (t *Tree) parents(name string, like tar.Header) {
	for d := path.Dir(name); d != "."; d = path.Dir(d) {
		if t.entries[d] != nil {
			return
		}
		t.entries[d] = &Entry{Source: "implied", Header: tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755, ModTime: like.ModTime}}
	}
}

// AddFile puts a small file of the builder's own into the tree.
func (t *Tree) AddFile(h tar.Header, source string, contents []byte) error {
	h.Typeflag = tar.TypeReg
	h.Size = int64(len(contents))
	return t.Add(h, source, bytes.NewReader(contents))
}

// Remove takes a name and what is below it out of the tree.
func (t *Tree) Remove(name string) {
	name = Clean(name)
	delete(t.entries, name)
	for other := range t.entries {
		if strings.HasPrefix(other, name+"/") {
			delete(t.entries, other)
		}
	}
}

// ReadFile returns the contents of a regular file of at most limit bytes.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	e := t.Lookup(name)
	if e == nil || e.Typeflag != tar.TypeReg {
		return nil, fmt.Errorf("the tree has no file %q", name)
	}
	if e.Size > limit {
		return nil, fmt.Errorf("%q has %d bytes, more than %d", name, e.Size, limit)
	}
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Entries returns all entries sorted by name, so that folders come before
// what they hold. A hard link may come before the file it links to.
func (t *Tree) Entries() []*Entry {
	list := make([]*Entry, 0, len(t.entries))
	for _, e := range t.entries {
		list = append(list, e)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list
}

// Below returns the entries below a folder, sorted by name.
func (t *Tree) Below(dir string) []*Entry {
	at, err := t.Resolve(dir, true)
	if err != nil {
		return nil
	}
	var list []*Entry
	for _, e := range t.Entries() {
		if strings.HasPrefix(e.Name, at+"/") {
			list = append(list, e)
		}
	}
	return list
}

// Listing writes the tree down: kind, mode, owner, size, hash or target, and
// name of every entry, one a line.
func (t *Tree) Listing() []byte {
	var b bytes.Buffer
	for _, e := range t.Entries() {
		what := "-"
		switch e.Typeflag {
		case tar.TypeReg:
			what = e.Sum
		case tar.TypeSymlink, tar.TypeLink:
			what = "-> " + e.Linkname
		case tar.TypeChar, tar.TypeBlock:
			what = fmt.Sprintf("%d,%d", e.Devmajor, e.Devminor)
		}
		fmt.Fprintf(&b, "%c %04o %d:%d %d %d %s /%s", kind(e.Typeflag), e.Mode, e.Uid, e.Gid, e.Size, e.ModTime.Unix(), what, e.Name)
		var keys []string
		for k := range e.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				keys = append(keys, k)
			}
		}
		sort.Strings(keys)
		for _, k := range keys {
			fmt.Fprintf(&b, " %s=%s", strings.TrimPrefix(k, "SCHILY.xattr."), hex.EncodeToString([]byte(e.PAXRecords[k])))
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
	case tar.TypeLink:
		return 'h'
	case tar.TypeChar:
		return 'c'
	case tar.TypeBlock:
		return 'b'
	case tar.TypeFifo:
		return 'p'
	}
	return 'f'
}

// Store keeps the contents of a tree in one file: thousands of small files on
// a disk cost more than the bytes in them.
type Store struct {
	f     *os.File
	at    int64
	limit int64
}

// NewStore makes the store's file, which Close removes. It takes at most limit
// bytes: an archive may promise more than any image can hold.
func NewStore(dir string, limit int64) (*Store, error) {
	f, err := os.CreateTemp(dir, ".tree-")
	if err != nil {
		return nil, err
	}
	return &Store{f: f, limit: limit}, nil
}

// Close ends the store and every entry's contents.
func (s *Store) Close() error {
	err := s.f.Close()
	os.Remove(s.f.Name())
	return err
}

func (s *Store) put(e *Entry, r io.Reader) error {
	if e.Size > s.limit-s.at {
		return fmt.Errorf("the root has more than %d MiB, more than its slots can hold; leave something out or raise slot-size", s.limit>>20)
	}
	at, sum := s.at, sha256.New()
	n, err := io.Copy(io.MultiWriter(io.NewOffsetWriter(s.f, at), sum), io.LimitReader(r, e.Size+1))
	if err != nil {
		return err
	}
	if n != e.Size {
		return fmt.Errorf("%d bytes were announced, %d came", e.Size, n)
	}
	s.at += n
	e.Sum = hex.EncodeToString(sum.Sum(nil))
	e.Open = func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(s.f, at, n)), nil }
	return nil
}
