package script

import (
	"archive/tar"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/layers"
)

// setGID is the bit of a directory by which what is made in it gets its group.
const (
	setUID = 0o4000
	setGID = 0o2000
)

// create makes a file, a directory or a link, owned by root.
func (v *view) create(name string, kind byte, mode int64) *node {
	n := &node{Header: tar.Header{Typeflag: kind, Mode: mode, ModTime: v.m.options.Epoch}, written: kind == tar.TypeReg}
	dir, _ := parent(name)
	if d := v.get(dir); d.Mode&setGID != 0 {
		n.Gid = d.Gid
		if kind == tar.TypeDir {
			n.Mode |= setGID
		}
	}
	v.place(name, n)
	return n
}

// symlink makes a symbolic link.
func (v *view) symlink(name, target string) error {
	if target == "" {
		return errMissing
	}
	if len(target) > maxPath {
		return errLong
	}
	if strings.ContainsFunc(target, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		v.m.refuse(Unsupported, "the link target %q has a control character", target)
	}
	v.create(name, tar.TypeSymlink, 0o777).Linkname = target
	return nil
}

// hardLink gives a file another name.
func (v *view) hardLink(name string, old place) error {
	if old.node.isDir() {
		return errno("Operation not permitted")
	}
	v.touch(old.name)
	v.place(name, old.node)
	return nil
}

// remove takes a name away; a directory has to be empty.
func (v *view) remove(name string) error {
	n := v.get(name)
	switch {
	case name == "":
		return errBusy
	case n == nil:
		return errMissing
	case n.isDir() && len(v.children(name)) > 0:
		return errNotEmpty
	}
	v.place(name, nil)
	return nil
}

// removeAll takes a name and what is below it away.
func (v *view) removeAll(name string) {
	for _, one := range slices.Backward(v.below(name)) {
		v.place(one, nil)
	}
}

// below returns a name and all names below it, directories before what they
// hold, sorted within each directory. No link is followed.
func (v *view) below(name string) []string {
	list := []string{name}
	for i := 0; i < len(list); i++ {
		if n := v.get(list[i]); n == nil || !n.isDir() {
			continue
		}
		children := v.children(list[i])
		for j, child := range children {
			children[j] = join(list[i], child)
		}
		list = slices.Insert(list, i+1, children...)
		if len(list) > 16*maxChanges {
			v.m.refuse(Limit, "more than %d files below /%s", 16*maxChanges, name)
		}
	}
	return list
}

// rename moves a name, and what is below it, to a name that is free or a file's.
func (v *view) rename(from, to string) error {
	if from == "" || to == from || strings.HasPrefix(to, from+"/") {
		return errInvalid
	}
	if n := v.get(to); n != nil && n.isDir() {
		if !v.get(from).isDir() {
			return errIsDir
		}
		if len(v.children(to)) > 0 {
			return errNotEmpty
		}
	}
	names := v.below(from)
	nodes := map[string]*node{}
	for _, name := range names {
		nodes[name] = v.get(name)
	}
	for _, name := range slices.Backward(names) {
		v.place(name, nil)
	}
	for _, name := range names {
		v.place(to+name[len(from):], nodes[name])
	}
	return nil
}

// chmod sets the mode of what a path leads to.
func (v *view) chmod(at place, mode int64) {
	if at.name == "" {
		v.m.refuse(Unfit, "it changes the root directory")
	}
	v.change(at.name, at.node)
	at.node.Mode = mode & 0o7777
}

// chown sets the owner and the group; -1 leaves one as it is. The kernel then
// takes from a file what gives whoever runs it rights of the owner.
func (v *view) chown(at place, uid, gid int) {
	if at.name == "" {
		v.m.refuse(Unfit, "it changes the root directory")
	}
	n := at.node
	v.change(at.name, n)
	if uid >= 0 {
		n.Uid, n.Uname = uid, ""
	}
	if gid >= 0 {
		n.Gid, n.Gname = gid, ""
	}
	if n.isFile() {
		n.Mode &^= setUID
		if n.Mode&0o010 != 0 {
			n.Mode &^= setGID
		}
		n.dropRecords(func(key string) bool { return key == capabilities })
	}
}

// duplicate copies a file to a name, with its mode, and its owner and time too
// where all is set.
func (v *view) duplicate(from *node, to string, all bool) {
	switch {
	case from.isFile():
		data := slices.Clone(v.contents(from))
		n := v.create(to, tar.TypeReg, from.Mode)
		v.writeAt(n, 0, data)
		v.keep(n, from, all)
	case from.isLink():
		n := v.create(to, tar.TypeSymlink, 0o777)
		n.Linkname = from.Linkname
		v.keep(n, from, all)
	default:
		v.m.refuse(Unsupported, "it copies what is no file, directory or link")
	}
}

// keep gives a copy the owner, mode and time of what it was made of.
func (v *view) keep(n, from *node, all bool) {
	if all {
		n.Uid, n.Gid, n.Uname, n.Gname, n.Mode, n.ModTime = from.Uid, from.Gid, from.Uname, from.Gname, from.Mode, from.ModTime
	}
}

// here reports whether a file has a name in the tree already.
func (v *view) here(name string, n *node) bool {
	e := v.tree.At(name)
	return e != nil && n != nil && n.entry != nil && e.SameFile(n.entry)
}

// commit writes what has changed to the tree and returns the names, sorted.
func (v *view) commit(source string) ([]string, error) {
	names := slices.Sorted(maps.Keys(v.touched))
	first := map[*node]string{} // of the names of a file, the one that is written
	for _, name := range slices.Backward(names) {
		n := v.at[name]
		if v.here(name, n) {
			first[n] = name
		} else if v.tree.At(name) != nil {
			v.tree.Remove(name)
		}
	}
	for _, name := range names {
		if n := v.at[name]; n != nil && first[n] == "" {
			first[n] = name
		}
	}
	var changed, links []string
	for _, name := range names {
		n := v.at[name]
		if n != nil && first[n] != name {
			links = append(links, name)
			continue
		}
		done, err := v.put(name, n, source)
		if err != nil {
			return nil, err
		}
		if done {
			changed = append(changed, name)
		}
	}
	for _, name := range links {
		n := v.at[name]
		if v.here(name, n) && !n.written {
			continue
		}
		h := tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: first[n], ModTime: n.ModTime}
		if err := v.tree.Add(h, source, nil); err != nil {
			return nil, err
		}
		changed = append(changed, name)
	}
	slices.Sort(changed)
	return changed, nil
}

// put writes one name to the tree, and reports whether that changed it.
func (v *view) put(name string, n *node, source string) (bool, error) {
	if n == nil {
		return true, nil
	}
	h := n.Header
	h.Name = name
	packaged := ""
	if v.here(name, n) { // a file that was changed stays its package's
		source, packaged = n.entry.Source, n.entry.Packaged
	}
	switch {
	case v.here(name, n) && !n.written:
		if n.changed {
			n.entry.Change(func(to *tar.Header) {
				to.Mode, to.Uid, to.Gid, to.Uname, to.Gname = h.Mode, h.Uid, h.Gid, h.Uname, h.Gname
				to.ModTime, to.PAXRecords = h.ModTime, h.PAXRecords
			})
		}
		return n.changed, nil
	case n.isFile() && n.written:
		err := v.tree.AddFile(h, source, n.data)
		if e := v.tree.At(name); err == nil && e != nil {
			e.Packaged = packaged
		}
		return true, err
	case n.isFile(): // under another name
		return true, v.tree.Place(&layers.Entry{Header: h, Source: source, Content: n.entry.Content})
	}
	return true, v.tree.Add(h, source, nil)
}
