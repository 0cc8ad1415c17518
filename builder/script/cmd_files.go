package script

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// replace gives a file new contents, and makes it where it is missing.
func (sh *shell) replace(name string, data []byte) error {
	at, err := sh.view.resolve(sh.dir, name, true)
	switch {
	case err != nil:
		return err
	case at.null:
		return nil
	case at.node == nil:
		at.node = sh.view.create(at.name, tar.TypeReg, 0o666&^sh.umask)
	case at.node.isDir():
		return errIsDir
	case !at.node.isFile():
		sh.refuse(Machine, "it writes to /%s, which is no file", at.name)
	}
	sh.view.touch(at.name)
	sh.view.write(at.node, nil)
	sh.view.writeAt(at.node, 0, data)
	return nil
}

// existing is resolve for what has to be there.
func (sh *shell) existing(name string, follow bool) (place, error) {
	at, err := sh.view.resolve(sh.dir, name, follow)
	if err == nil && at.null {
		sh.refuse(Machine, "it changes /%s", at.name)
	}
	if err == nil && at.node == nil {
		err = errMissing
	}
	return at, err
}

// vacant is resolve for what is to be made.
func (sh *shell) vacant(name string) (place, error) {
	at, err := sh.view.resolve(sh.dir, strings.TrimRight(name, "/")+strings.Repeat("/", btoi(strings.Trim(name, "/") == "")), false)
	if err == nil && (at.node != nil || at.null) {
		err = errExists
	}
	return at, err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (c *call) mkdir() int {
	f, names := c.flags("pm:v", "parents=p", "mode=m")
	status := 0
	for _, name := range names {
		mode := 0o777 &^ c.umask
		if text := f.last('m', ""); text != "" {
			mode = c.mode(text, 0o777, true)
		}
		if err := c.makeDir(name, mode, f.has('p'), f.has('m')); err != nil {
			status = c.fail("can't create directory '%s': %v", name, err)
		}
	}
	if len(names) == 0 {
		return c.fail("missing operand")
	}
	return status
}

// makeDir makes a directory, and those above it where parents is set.
func (c *call) makeDir(name string, mode int64, parents, exact bool) error {
	if !parents {
		at, err := c.vacant(name)
		if err == nil {
			c.newDir(at.name, mode, exact)
		}
		return err
	}
	built := ""
	if strings.HasPrefix(name, "/") {
		built = "/"
	}
	list := strings.FieldsFunc(name, func(r rune) bool { return r == '/' })
	for i, part := range list {
		c.step()
		built += part
		at, err := c.view.resolve(c.dir, built, true)
		switch {
		case err != nil:
			return err
		case at.node == nil && !at.null:
			if raw, err := c.view.resolve(c.dir, built, false); err == nil && raw.node != nil {
				return errExists // a link that leads nowhere
			}
			if i < len(list)-1 {
				c.newDir(at.name, 0o777&^c.umask|0o300, false)
			} else {
				c.newDir(at.name, mode, exact)
			}
		case at.null || !at.node.isDir():
			if i < len(list)-1 {
				return errNotDir
			}
			return errExists
		}
		built += "/"
	}
	return nil
}

// newDir makes a directory. A mode that was given exactly is set after it was made,
// and takes away what it got of the directory above.
func (c *call) newDir(name string, mode int64, exact bool) {
	n := c.view.create(name, tar.TypeDir, mode&0o7777)
	if exact {
		n.Mode = mode & 0o7777
	}
}

func (c *call) rmdir() int {
	f, names := c.flags("p", "ignore-fail-on-non-empty=i")
	status := 0
	for _, name := range names {
		for {
			at, err := c.existing(name, false)
			if err == nil && !at.node.isDir() {
				err = errNotDir
			}
			if err == nil {
				err = c.view.remove(at.name)
			}
			if err != nil {
				if !(errors.Is(err, errNotEmpty) && f.has('i')) {
					status = c.fail("'%s': %v", name, err)
				}
				break
			}
			up := path.Dir(strings.TrimRight(name, "/"))
			if !f.has('p') || up == "." || up == "/" {
				break
			}
			name = up
		}
	}
	return status
}

func (c *call) rm() int {
	f, names := c.flags("rRfiv", "recursive=r", "force=f")
	recursive := f.has('r') || f.has('R')
	if f.has('i') {
		c.refuse(Unsupported, "the option -i")
	}
	if len(names) == 0 && !f.has('f') {
		return c.fail("missing operand")
	}
	status := 0
	for _, name := range names {
		if base := path.Base(name); base == "." || base == ".." || strings.Trim(name, "/") == "" {
			c.refuse(Unsupported, "it removes %q", name)
		}
		at, err := c.existing(strings.TrimRight(name, "/"), false)
		switch {
		case errors.Is(err, errMissing) && f.has('f'), errors.Is(err, errNotDir) && f.has('f'):
			continue
		case err == nil && at.node.isDir() && !recursive:
			err = errIsDir
		case err == nil:
			c.view.removeAll(at.name)
		}
		if err != nil {
			status = c.fail("can't remove '%s': %v", name, err)
		}
	}
	return status
}

func (c *call) unlink() int {
	_, names := c.flags("")
	if len(names) != 1 {
		return c.fail("one operand is needed")
	}
	at, err := c.existing(names[0], false)
	if err == nil && at.node.isDir() {
		err = errIsDir
	}
	if err != nil {
		return c.fail("can't remove '%s': %v", names[0], err)
	}
	c.view.removeAll(at.name)
	return 0
}

func (c *call) touchFiles() int {
	f, names := c.flags("cmah")
	status := 0
	for _, name := range names {
		at, err := c.view.resolve(c.dir, name, !f.has('h'))
		switch {
		case err == nil && at.null:
		case err == nil && at.node == nil && f.has('c'):
		case err == nil && at.node == nil && !strings.HasSuffix(name, "/"):
			c.view.create(at.name, tar.TypeReg, 0o666&^c.umask)
		case err == nil && at.node != nil:
			if at.name != "" {
				c.view.change(at.name, at.node)
				at.node.ModTime = c.options.Epoch
			}
		default:
			if err == nil {
				err = errMissing
			}
			status = c.fail("%s: %v", name, err)
		}
	}
	return status
}

func (c *call) ln() int {
	f, names := c.flags("sfnTv", "symbolic=s", "force=f", "no-dereference=n")
	if len(names) == 0 {
		return c.fail("missing operand")
	}
	to := names[len(names)-1]
	targets := names[:len(names)-1]
	if len(names) == 1 {
		targets, to = names, path.Base(names[0])
	}
	status := 0
	for _, target := range targets {
		name := to
		if at, err := c.view.resolve(c.dir, to, !f.has('n')); err == nil && at.node != nil && at.node.isDir() {
			if f.has('T') {
				return c.fail("'%s' is a directory", to)
			}
			name = strings.TrimSuffix(to, "/") + "/" + path.Base(target)
		} else if len(targets) > 1 {
			return c.fail("'%s': %v", to, errNotDir)
		}
		if err := c.link(target, name, f.has('s'), f.has('f')); err != nil {
			status = c.fail("%s: %v", name, err)
		}
	}
	return status
}

// link makes a link; one that is there is replaced where force is set.
func (c *call) link(target, name string, symbolic, force bool) error {
	var old place
	if !symbolic {
		var err error
		if old, err = c.existing(target, false); err != nil {
			return err
		}
	}
	at, err := c.view.resolve(c.dir, name, false)
	if err != nil {
		return err
	}
	if at.null || at.node != nil {
		if !force || at.null || at.node.isDir() {
			return errExists
		}
		if at.node == old.node {
			return nil
		}
		if err := c.view.remove(at.name); err != nil {
			return err
		}
	}
	if symbolic {
		return c.view.symlink(at.name, target)
	}
	return c.view.hardLink(at.name, old)
}

func (c *call) readlink() int {
	f, names := c.flags("fnesvm")
	if len(names) != 1 {
		return c.fail("one operand is needed")
	}
	end := "\n"
	if f.has('n') {
		end = ""
	}
	if f.has('f') || f.has('e') || f.has('m') {
		at, err := c.view.resolve(c.dir, names[0], true)
		if err != nil || at.node == nil && f.has('e') {
			return 1
		}
		c.print("%s%s", where(at.name), end)
		return 0
	}
	at, err := c.view.resolve(c.dir, names[0], false)
	if err != nil || at.node == nil || !at.node.isLink() {
		return 1
	}
	c.print("%s%s", at.node.Linkname, end)
	return 0
}

func (c *call) realpath() int {
	_, names := c.flags("")
	status := 0
	for _, name := range names {
		at, err := c.view.resolve(c.dir, name, true)
		if err != nil {
			status = c.fail("%s: %v", name, err)
			continue
		}
		c.print("%s\n", where(at.name))
	}
	return status
}

// mktemp makes a file or directory whose name is counted, so that it is the same
// in each build.
func (c *call) mktemp() int {
	f, names := c.flags("dqtp:u")
	template := "tmp.XXXXXX"
	dir := f.last('p', "")
	switch {
	case len(names) > 1:
		return c.fail("too many operands")
	case len(names) == 1:
		template = names[0]
		if f.has('t') && dir == "" {
			dir = "/tmp"
		}
	case dir == "":
		dir = "/tmp"
	}
	if !strings.HasSuffix(template, "XXXXXX") || f.has('u') {
		c.refuse(Unsupported, "mktemp with these arguments")
	}
	if dir != "" {
		template = strings.TrimSuffix(dir, "/") + "/" + template
	}
	for {
		c.step()
		c.temporary++
		name := template[:len(template)-6] + fmt.Sprintf("%06d", c.temporary)
		at, err := c.vacant(name)
		switch {
		case errors.Is(err, errExists):
			continue
		case err != nil:
			return c.fail("%s: %v", name, err)
		case f.has('d'):
			c.view.create(at.name, tar.TypeDir, 0o700)
		default:
			c.view.create(at.name, tar.TypeReg, 0o600)
		}
		c.print("%s\n", name)
		return 0
	}
}

func (c *call) ls() int {
	f, names := c.flags("1aAd")
	if len(names) == 0 {
		names = []string{"."}
	}
	slices.Sort(names)
	status := 0
	var dirs []string
	for _, name := range names {
		at, err := c.view.resolve(c.dir, name, true)
		if err == nil && at.node == nil && !at.null {
			if at, err = c.view.resolve(c.dir, name, false); err == nil && at.node == nil {
				err = errMissing
			}
		}
		switch {
		case err != nil:
			status = c.fail("%s: %v", name, err)
		case !at.null && at.node.isDir() && !f.has('d'):
			dirs = append(dirs, name)
		default:
			c.print("%s\n", name)
		}
	}
	if len(dirs) > 0 && len(names) > 1 {
		c.refuse(Unsupported, "several directories")
	}
	for _, dir := range dirs {
		at, _ := c.view.resolve(c.dir, dir, true)
		list := c.view.children(at.name)
		if f.has('a') {
			list = append([]string{".", ".."}, list...)
		}
		for _, name := range list {
			if !strings.HasPrefix(name, ".") || f.has('a') || f.has('A') {
				c.print("%s\n", name)
			}
		}
	}
	return status
}

func (c *call) cmp() int {
	f, names := c.flags("s")
	if len(names) != 2 {
		c.refuse(Unsupported, "other than two files")
	}
	a, err := c.read(names[0])
	if err == nil {
		var b []byte
		if b, err = c.read(names[1]); err == nil {
			if bytes.Equal(a, b) {
				return 0
			}
			if !f.has('s') {
				c.print("%s %s differ\n", names[0], names[1])
			}
			return 1
		}
	}
	c.fail("%v", err)
	return 2
}
