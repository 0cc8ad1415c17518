package script

import (
	"archive/tar"
	"errors"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/layers"
)

// each calls f for the files that names lead to, and for all below them where
// recursive is set. Links below are files of their own.
func (c *call) each(names []string, recursive, follow bool, f func(place)) int {
	status := 0
	for _, name := range names {
		at, err := c.existing(name, follow)
		if err != nil {
			status = c.fail("%s: %v", name, err)
			continue
		}
		if !recursive {
			f(at)
			continue
		}
		for _, one := range c.view.below(at.name) {
			f(place{name: one, node: c.view.get(one)})
		}
	}
	return status
}

func (c *call) chmod() int {
	args := c.args[1:]
	recursive := false
	for len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && strings.Trim(args[0][1:], "Rvcf") == "" {
		recursive = recursive || strings.Contains(args[0], "R")
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) < 2 {
		return c.fail("missing operand")
	}
	for _, arg := range args[1:] {
		if strings.HasPrefix(arg, "-") {
			c.refuse(Unsupported, "the option %s", arg)
		}
	}
	return c.each(args[1:], recursive, true, func(at place) {
		if !at.node.isLink() {
			c.view.chmod(at, c.mode(args[0], at.node.Mode, at.node.isDir()))
		}
	})
}

// chown is chgrp too.
func (c *call) chown() int {
	f, names := c.flags("RhvcfLHP", "recursive=R", "no-dereference=h")
	if f.has('L') || f.has('H') {
		c.refuse(Unsupported, "following links")
	}
	if len(names) < 2 {
		return c.fail("missing operand")
	}
	uid, gid := -1, -1
	var status int
	if strings.HasSuffix(c.args[0], "chgrp") {
		gid, status = c.account(names[0], "group")
	} else {
		owner, group, both := strings.Cut(names[0], ":")
		if !both {
			if i := strings.LastIndexByte(owner, '.'); i > 0 && c.accounts.user(c.view, owner) == nil {
				owner, group, both = owner[:i], owner[i+1:], true
			}
		}
		if owner != "" {
			uid, status = c.account(owner, "user")
		}
		switch {
		case status != 0:
		case both && group != "":
			gid, status = c.account(group, "group")
		case both && owner != "": // the user's own group
			if gid = c.ownGroup(owner); gid < 0 {
				return c.fail("unknown user %s", owner)
			}
		}
	}
	if status != 0 {
		return status
	}
	follow := !f.has('h') && !(f.has('R'))
	return c.each(names[1:], f.has('R'), follow, func(at place) { c.view.chown(at, uid, gid) })
}

func (c *call) ownGroup(owner string) int {
	u := c.accounts.user(c.view, owner)
	if u == nil {
		n, err := strconv.ParseUint(owner, 10, 32)
		if err != nil {
			return -1
		}
		if u = c.accounts.userNumbered(c.view, int(n)); u == nil {
			return -1
		}
	}
	n, err := strconv.ParseUint(u[3], 10, 32)
	if err != nil || n > layers.MaxID {
		return -1
	}
	return int(n)
}

// account returns the number of a user or a group, which may be given as a number.
func (c *call) account(name, kind string) (int, int) {
	line := c.accounts.user(c.view, name)
	if kind == "group" {
		line = c.accounts.group(c.view, name)
	}
	text := name
	if line != nil {
		text = line[2]
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n > layers.MaxID {
		return 0, c.fail("unknown %s %s", kind, name)
	}
	return int(n), 0
}

func (c *call) cp() int {
	f, names := c.flags("rRafpdPLTHvnu", "archive=a", "recursive=r", "force=f", "preserve=p", "no-clobber=n")
	if f.has('L') || f.has('H') || f.has('u') {
		c.refuse(Unsupported, "cp with these options")
	}
	recursive := f.has('r') || f.has('R') || f.has('a')
	keep := f.has('p') || f.has('a')
	links := f.has('d') || f.has('P') || f.has('a') || f.has('r') || f.has('R')
	return c.toTarget(names, f.has('T'), func(from, to string) error {
		at, err := c.existing(from, !links)
		switch {
		case err != nil:
			return err
		case at.node.isDir() && !recursive:
			return errno("omitting directory")
		}
		if f.has('n') {
			if old, err := c.view.resolve(c.dir, to, false); err == nil && (old.node != nil || old.null) {
				return nil
			}
		}
		return c.copyTo(at, to, keep)
	})
}

// toTarget calls do for each file and where it is to go: the last name, or a name in
// it where it is a directory.
func (c *call) toTarget(names []string, exact bool, do func(from, to string) error) int {
	if len(names) < 2 {
		return c.fail("missing operand")
	}
	last := names[len(names)-1]
	at, err := c.view.resolve(c.dir, last, true)
	into := err == nil && at.node != nil && at.node.isDir() && !exact
	if !into && len(names) > 2 {
		return c.fail("target '%s' is not a directory", last)
	}
	status := 0
	for _, from := range names[:len(names)-1] {
		to := last
		if into {
			base := strings.TrimRight(from, "/")
			to = strings.TrimSuffix(last, "/") + "/" + base[strings.LastIndexByte(base, '/')+1:]
		}
		if err := do(from, to); err != nil {
			status = c.fail("'%s': %v", from, err)
		}
	}
	return status
}

// copyTo copies a file, or a directory and what is below it.
func (c *call) copyTo(from place, to string, keep bool) error {
	at, err := c.view.resolve(c.dir, strings.TrimSuffix(to, "/"), false)
	if err != nil {
		return err
	}
	if at.null {
		c.refuse(Machine, "it copies to /dev/null")
	}
	if at.name == from.name {
		return errno("same file")
	}
	if !from.node.isDir() {
		if at.node == nil && strings.HasSuffix(to, "/") {
			return errNotDir
		}
		return c.copyOne(from.node, at, keep)
	}
	if strings.HasPrefix(at.name, from.name+"/") || from.name == "" {
		return errInvalid
	}
	for _, name := range c.view.below(from.name) {
		n, target := c.view.get(name), at.name+name[len(from.name):]
		old := c.view.get(target)
		if n.isDir() {
			if old == nil {
				made := c.view.create(target, tar.TypeDir, n.Mode&^c.umask)
				c.view.keep(made, n, keep)
			} else if !old.isDir() {
				return errNotDir
			}
			continue
		}
		if err := c.copyOne(n, place{name: target, node: old}, keep); err != nil {
			return err
		}
	}
	return nil
}

// copyOne copies a file or a link; a file that is there keeps its owner, and a link
// that is there is replaced.
func (c *call) copyOne(from *node, to place, keep bool) error {
	switch {
	case to.node == nil:
	case to.node.isDir():
		return errIsDir
	case to.node.isFile() && from.isFile():
		data := c.view.contents(from)
		c.view.touch(to.name)
		c.view.write(to.node, nil)
		c.view.writeAt(to.node, 0, data)
		c.view.change(to.name, to.node)
		to.node.Mode = from.Mode &^ c.umask & 0o7777
		c.view.keep(to.node, from, keep)
		return nil
	default:
		if err := c.view.remove(to.name); err != nil {
			return err
		}
	}
	c.view.duplicate(from, to.name, keep)
	if !keep && from.isFile() {
		c.view.get(to.name).Mode = from.Mode &^ c.umask & 0o7777
	}
	return nil
}

func (c *call) mv() int {
	f, names := c.flags("fnTiv", "force=f", "no-clobber=n")
	if f.has('i') {
		c.refuse(Unsupported, "the option -i")
	}
	return c.toTarget(names, f.has('T'), func(from, to string) error {
		at, err := c.existing(strings.TrimRight(from, "/"), false)
		if err != nil {
			return err
		}
		target, err := c.view.resolve(c.dir, strings.TrimRight(to, "/"), false)
		switch {
		case err != nil:
			return err
		case target.null:
			return errExists
		case target.node != nil && f.has('n'):
			return nil
		case target.name == at.name:
			return errno("same file")
		case target.node == nil && !at.node.isDir() && strings.HasSuffix(to, "/"):
			return errNotDir
		case target.node != nil && at.node.isDir() && !target.node.isDir():
			return errNotDir
		}
		return c.view.rename(at.name, target.name)
	})
}

func (c *call) install() int {
	f, names := c.flags("dDm:o:g:cpsvt:T", "mode=m", "owner=o", "group=g", "directory=d")
	if f.has('s') {
		c.refuse(Unsupported, "the option -s")
	}
	uid, gid, status := -1, -1, 0
	if o := f.last('o', ""); o != "" {
		if uid, status = c.account(o, "user"); status != 0 {
			return status
		}
	}
	if g := f.last('g', ""); g != "" {
		if gid, status = c.account(g, "group"); status != 0 {
			return status
		}
	}
	mode := c.mode(f.last('m', "755"), 0, f.has('d'))
	finish := func(name string) error {
		at, err := c.existing(name, true)
		if err != nil {
			return err
		}
		if uid >= 0 || gid >= 0 {
			c.view.chown(at, uid, gid)
		}
		c.view.chmod(at, mode)
		return nil
	}
	if f.has('d') {
		for _, name := range names {
			err := c.makeDir(name, 0o755&^c.umask, true, false)
			if errors.Is(err, errExists) {
				err = nil
			}
			if err == nil {
				err = finish(name)
			}
			if err != nil {
				status = c.fail("can't create directory '%s': %v", name, err)
			}
		}
		return status
	}
	if t := f.last('t', ""); t != "" {
		names = append(names, t)
	}
	if f.has('D') && len(names) == 2 {
		if i := strings.LastIndexByte(names[1], '/'); i > 0 {
			if err := c.makeDir(names[1][:i], 0o755, true, false); err != nil {
				return c.fail("%v", err)
			}
		}
	}
	return c.toTarget(names, f.has('T'), func(from, to string) error {
		at, err := c.existing(from, true)
		if err != nil {
			return err
		}
		if at.node.isDir() {
			return errIsDir
		}
		if old, err := c.view.resolve(c.dir, to, false); err == nil && old.node != nil && !old.node.isDir() {
			if err := c.view.remove(old.name); err != nil {
				return err
			}
		}
		if err := c.copyTo(at, to, f.has('p')); err != nil {
			return err
		}
		return finish(to)
	})
}
