package layers

import (
	"iter"
	"sync/atomic"
)

// entries are those of a tree, by name and by directory. They count how often
// one is looked at: tests bound the work of an operation by that instead of by a
// clock.
type entries struct {
	byName map[string]*Entry
	// in has the names directly in each directory: what a whiteout removes is
	// found without a look at all of the tree.
	in     map[string]map[string]bool
	looked atomic.Int64
}

func (x *entries) get(name string) *Entry {
	x.looked.Add(1)
	return x.byName[name]
}

// put enters what is called name; its parent is there.
func (x *entries) put(name string, e *Entry) {
	x.looked.Add(1)
	x.byName[name] = e
	dir := dirOf(name)
	if x.in[dir] == nil {
		x.in[dir] = map[string]bool{}
	}
	x.in[dir][name] = true
}

// drop takes a name out; nothing is below it.
func (x *entries) drop(name string) {
	x.looked.Add(1)
	delete(x.byName, name)
	delete(x.in[dirOf(name)], name)
}

// all yields every entry, in no order.
func (x *entries) all() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for _, e := range x.byName {
			if x.looked.Add(1); !yield(e) {
				return
			}
		}
	}
}

// below returns the names below a directory, each after the directory it is in.
func (x *entries) below(dir string) []string {
	var names []string
	for next, dirs := dir, []string(nil); ; {
		for child := range x.in[next] {
			names, dirs = append(names, child), append(dirs, child)
		}
		if len(dirs) == 0 {
			x.looked.Add(int64(len(names)))
			return names
		}
		next, dirs = dirs[len(dirs)-1], dirs[:len(dirs)-1]
	}
}

// empty drops all names below a directory.
func (x *entries) empty(dir string) {
	for _, name := range x.below(dir) {
		delete(x.byName, name)
		delete(x.in, name)
	}
	delete(x.in, dir)
}
