package script

import (
	"strings"
)

// Limits of Linux.
const (
	maxPath  = 4095 // bytes of a path
	maxName  = 255  // bytes of a name in it
	maxLinks = 40   // symbolic links that a path leads through
)

// place is where a path leads.
type place struct {
	name string // in the tree, without a slash before it
	node *node  // nil where nothing is
	null bool   // it is /dev/null
}

// resolve follows a path from the directory dir, through links in its
// directories, and through its last part too if follow is set. The directory
// that the last part is in exists, unless there is an error. Nothing leads out
// of the tree: the root is above itself.
func (v *view) resolve(dir, p string, follow bool) (place, error) {
	switch {
	case p == "":
		return place{}, errMissing
	case len(p) > maxPath:
		return place{}, errLong
	}
	at := dir
	if strings.HasPrefix(p, "/") {
		at = ""
	}
	slash := strings.HasSuffix(p, "/") // the last part has to be a directory
	links := 0
	for rest := strings.TrimLeft(p, "/"); rest != ""; {
		part, more, _ := strings.Cut(rest, "/")
		rest = strings.TrimLeft(more, "/")
		last := rest == ""
		v.m.effort(len(at) + len(rest))
		if n := v.get(at); n == nil && !isOwn(at) {
			return place{}, errMissing
		} else if n != nil && !n.isDir() {
			return place{}, errNotDir
		}
		if part == "." {
			continue
		}
		if part == ".." {
			at, _ = parent(at)
			continue
		}
		if len(part) > maxName {
			return place{}, errLong
		}
		at = join(at, part)
		if v.guard(at, last) {
			if !last || slash {
				return place{}, errNotDir
			}
			return place{name: at, null: true}, nil
		}
		n := v.get(at)
		if n == nil || !n.isLink() || last && !follow && !slash {
			continue
		}
		if links++; links > maxLinks {
			return place{}, errLoop
		}
		if at, _ = parent(at); strings.HasPrefix(n.Linkname, "/") {
			at = ""
		}
		if rest = strings.Trim(n.Linkname, "/") + "/" + rest; last {
			rest = strings.TrimSuffix(rest, "/")
		}
		if len(rest) > maxPath {
			return place{}, errLong
		}
	}
	n := v.get(at)
	if slash && n != nil && !n.isDir() {
		return place{}, errNotDir
	}
	return place{name: at, node: n}, nil
}

// secrets are devices that a script would make a key of.
var secrets = map[string]bool{"dev/random": true, "dev/urandom": true, "dev/hwrng": true,
	"proc/sys/kernel/random/uuid": true, "proc/sys/kernel/random/boot_id": true}

// isOwn reports whether a name is a directory of what is a node's own, or below one.
func isOwn(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return top == "dev" || top == "proc" || top == "sys"
}

// guard refuses names that are a node's own, and reports whether name is /dev/null.
func (v *view) guard(name string, last bool) bool {
	if !isOwn(name) || !strings.Contains(name, "/") {
		return false
	}
	if name == "dev/null" {
		return true
	}
	if secrets[name] {
		v.m.refuse(Secret, "it reads /%s", name)
	}
	for secret := range secrets {
		if !last && strings.HasPrefix(secret, name+"/") {
			return false // not decided yet
		}
	}
	v.m.refuse(Machine, "it uses /%s", name)
	return false
}
