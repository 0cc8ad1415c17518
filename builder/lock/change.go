package lock

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// The kinds of a Change, beside those of a Layer.
const (
	OfPackage = "package"
	OfIndex   = "index" // of a repository; From and To are when it was made, or when its newest package was
	OfProgram = "program"
	OfTool    = "tool"  // the version of pikelet
	OfEpoch   = "epoch" // the image's time, seconds since 1970
)

// Change is one difference between two locks.
type Change struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"`
	// From and To are versions of a package, and digests of a layer or a program.
	// From is "" for what is new, To for what is gone.
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Note says what else than the version of a package changed.
	Note string `json:"note,omitempty"`
}

// String returns the change as a line for people.
func (c Change) String() string {
	name := c.Name
	if c.Kind == OfIndex {
		name = "index of " + c.Name
	} else if c.Kind != OfPackage {
		name = c.Kind
		if c.Name != "" {
			name += " " + c.Name
		}
	}
	version := func(s string) string {
		if c.Kind == OfPackage {
			return " " + s
		}
		return ""
	}
	switch {
	case c.From == "":
		return "+ " + name + version(c.To)
	case c.To == "":
		return "- " + name + version(c.From)
	case c.Note != "":
		return "~ " + name + version(c.To) + ": " + c.Note
	case c.Kind == OfProgram:
		return "~ " + name
	case c.Kind == OfIndex:
		name += ":"
	}
	return fmt.Sprintf("~ %s %s -> %s", name, c.From, c.To)
}

// Changes returns what differs between two locks. old may be nil: then all is new.
func Changes(old, now *File) []Change {
	if old == nil {
		old = &File{Tool: now.Tool, Epoch: now.Epoch, Programs: now.Programs}
	}
	list := packageChanges(old, now)
	list = append(list, layerChanges(old.Layers, now.Layers)...)
	list = append(list, layerChanges(old.Overlays, now.Overlays)...)
	list = append(list, indexChanges(old, now)...)
	programs := map[string]bool{}
	for _, f := range []*File{old, now} {
		for name := range f.Programs {
			programs[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		if o, n := old.Programs[name], now.Programs[name]; o != n {
			list = append(list, Change{Kind: OfProgram, Name: name, From: o, To: n})
		}
	}
	if old.Tool != now.Tool {
		list = append(list, Change{Kind: OfTool, From: old.Tool, To: now.Tool})
	}
	if old.Epoch != now.Epoch {
		list = append(list, Change{Kind: OfEpoch, From: strconv.FormatInt(old.Epoch, 10), To: strconv.FormatInt(now.Epoch, 10)})
	}
	return list
}

func indexChanges(old, now *File) (list []Change) {
	for _, name := range slices.Sorted(maps.Keys(now.Indexes)) {
		o, there := old.Indexes[name]
		n := now.Indexes[name]
		if !there || o == n {
			continue
		}
		c := Change{Kind: OfIndex, Name: name, From: o.day(), To: n.day()}
		if c.From == c.To {
			c.Note = "another one of " + c.To
		}
		list = append(list, c)
	}
	return list
}

// day returns when an index was made, or else when its newest package was.
func (x Index) day() string { return day(cmp.Or(x.Written, x.Newest)) }

func packageChanges(old, now *File) (list []Change) {
	before := map[string]Package{}
	for _, p := range old.Packages {
		before[p.Name] = p
	}
	for _, p := range now.Packages {
		o, there := before[p.Name]
		delete(before, p.Name)
		c := Change{Kind: OfPackage, Name: p.Name, From: o.Version, To: p.Version}
		switch {
		case !there || o.Version != p.Version:
		case o.Identity != p.Identity:
			c.Note = "another build of the same version"
		case o.Repository != p.Repository:
			c.Note = fmt.Sprintf("from %s instead of %s", p.Repository, o.Repository)
		default:
			continue
		}
		list = append(list, c)
	}
	for _, o := range old.Packages {
		if _, gone := before[o.Name]; gone {
			list = append(list, Change{Kind: OfPackage, Name: o.Name, From: o.Version})
		}
	}
	return list
}

func layerChanges(old, now []Layer) (list []Change) {
	digests := map[string]string{}
	for _, l := range old {
		digests[l.Kind+" "+l.Name] = l.Digest
	}
	for _, l := range now {
		key := l.Kind + " " + l.Name
		d, there := digests[key]
		c := Change{Kind: l.Kind, Name: l.Name, From: d, To: l.Digest}
		if there {
			c.Note = "other contents"
		}
		if d != l.Digest {
			list = append(list, c)
		}
		delete(digests, key)
	}
	for _, l := range old {
		if _, gone := digests[l.Kind+" "+l.Name]; gone {
			list = append(list, Change{Kind: l.Kind, Name: l.Name, From: l.Digest})
		}
	}
	return list
}
