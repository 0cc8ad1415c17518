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
// that the last part is in exists, unless there is an error.
func (v *view) resolve(dir, p string, follow bool) (place, error) {
	at, err := v.walk(dir, p, follow)
	if err == nil {
		at.null = v.guard(at.name)
	}
	return at, err
}

func (v *view) walk(dir, p string, follow bool) (place, error) {
	if p == "" {
		return place{}, errMissing
	}
	if len(p) > maxPath {
		return place{}, errLong
	}
	v.m.effort(len(p))
	at := strings.Trim(dir, "/")
	rest := p
	slash := strings.HasSuffix(p, "/") // the last part has to be a directory
	for links := 0; rest != ""; {
		if strings.HasPrefix(rest, "/") {
			if rest == p || links > 0 && at == "/" {
				at = ""
			}
			rest = strings.TrimLeft(rest, "/")
			if rest == "" {
				break
			}
		}
		var part string
		part, rest, _ = cut(rest)
		dirNode := v.get(at)
		switch {
		case dirNode == nil:
			return place{}, errMissing
		case !dirNode.isDir():
			return place{}, errNotDir
		case part == ".":
			continue
		case part == "..":
			at, _ = parent(at)
			continue
		case len(part) > maxName:
			return place{}, errLong
		}
		name := join(at, part)
		v.guard(name)
		n := v.get(name)
		last := strings.Trim(rest, "/") == ""
		if n == nil || !n.isLink() || last && !follow && !slash {
			if n == nil && !last {
				return place{}, errMissing
			}
			at = name
			continue
		}
		if links++; links > maxLinks {
			return place{}, errLoop
		}
		if strings.HasPrefix(n.Linkname, "/") {
			at = ""
		}
		rest = strings.TrimLeft(n.Linkname, "/") + "/" + strings.TrimLeft(rest, "/")
		if last && !slash {
			rest = strings.TrimSuffix(rest, "/")
		}
		if len(rest) > maxPath {
			return place{}, errLong
		}
		v.m.effort(len(rest))
	}
	n := v.get(at)
	if slash && n != nil && !n.isDir() {
		return place{}, errNotDir
	}
	return place{name: at, node: n}, nil
}

// cut returns the first part of a path, and what is behind it, with its slash.
func cut(p string) (part, rest string, more bool) {
	if i := strings.IndexByte(p, '/'); i >= 0 {
		return p[:i], p[i:], true
	}
	return p, "", false
}

// secrets are devices that a script would make a key of.
var secrets = map[string]bool{"dev/random": true, "dev/urandom": true, "dev/hwrng": true,
	"proc/sys/kernel/random/uuid": true, "proc/sys/kernel/random/boot_id": true}

// guard refuses names that are a node's own, and reports whether name is /dev/null.
func (v *view) guard(name string) bool {
	top, _, below := strings.Cut(name, "/")
	if !below || top != "dev" && top != "proc" && top != "sys" {
		return false
	}
	if name == "dev/null" {
		return true
	}
	if secrets[name] {
		v.m.refuse(Secret, "it reads /%s", name)
	}
	// The name is walked part by part: one of a secret's directories is no answer yet.
	for secret := range secrets {
		if strings.HasPrefix(secret, name+"/") {
			return false
		}
	}
	v.m.refuse(Machine, "it uses /%s", name)
	return false
}
