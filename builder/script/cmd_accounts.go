package script

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// numberOf returns a new account's number, or a status of failure.
func (c *call) numberOf(name, given, file string) (int, int) {
	other := groupFile
	if file == groupFile {
		other = passwdFile
	}
	id, err := c.accounts.pick(name, given, c.view.numbers(file), c.view.numbers(other))
	var busy taken
	switch {
	case errors.As(err, &busy):
		return 0, c.fail("%v", err)
	case err != nil:
		panic(fault{err})
	}
	return id, 0
}

func (c *call) addgroup() int {
	f, names := c.flags("g:S", "gid=g", "system=S")
	switch {
	case len(names) == 0 || len(names) > 2:
		return c.fail("one or two operands are needed")
	case len(names) == 2:
		return c.join(names[0], names[1])
	}
	return c.newGroup(names[0], f.last('g', ""))
}

func (c *call) newGroup(name, gid string) int {
	if !accountName.MatchString(name) {
		return c.fail("illegal name '%s'", name)
	}
	if c.accounts.group(c.view, name) != nil {
		return c.fail("group '%s' in use", name)
	}
	id, status := c.numberOf(name, gid, groupFile)
	if status == 0 {
		c.view.writeAccounts(groupFile, append(c.view.accountLines(groupFile), fmt.Sprintf("%s:x:%d:", name, id)))
	}
	return status
}

// join makes a user a member of a group.
func (c *call) join(user, group string) int {
	if c.accounts.user(c.view, user) == nil {
		return c.fail("unknown user %s", user)
	}
	list := c.view.accountLines(groupFile)
	for i, line := range list {
		f := strings.Split(line, ":")
		if f[0] != group || len(f) != 4 {
			continue
		}
		members := strings.FieldsFunc(f[3], func(r rune) bool { return r == ',' })
		if slices.Contains(members, user) {
			return 0
		}
		f[3] = strings.Join(append(members, user), ",")
		list[i] = strings.Join(f, ":")
		c.view.writeAccounts(groupFile, list)
		return 0
	}
	return c.fail("unknown group %s", group)
}

// nogroup is the group of system users that name none.
const nogroup = "nogroup"

// newUser is what adduser is told.
type newUser struct{ name, uid, group, gecos, home, shell string }

// adduser does what busybox' adduser does (loginutils/adduser.c), but for the
// numbers.
func (c *call) adduser() int {
	f, names := c.flags("h:g:s:G:DSHu:k:", "home=h", "gecos=g", "shell=s", "ingroup=G", "disabled-password=D", "empty-password=D",
		"system=S", "no-create-home=H", "uid=u", "skel=k")
	switch {
	case len(names) == 0 || len(names) > 2:
		return c.fail("one or two operands are needed")
	case len(names) == 2 && len(f) == 0:
		return c.join(names[0], names[1])
	}
	u := newUser{name: names[0], uid: f.last('u', ""), group: f.last('G', ""), gecos: f.last('g', "Linux User,,,"),
		home: f.last('h', "/home/"+names[0]), shell: f.last('s', c.rootShell())}
	if f.has('S') {
		u.shell = f.last('s', "/sbin/nologin")
		if u.group == "" {
			u.group = nogroup
		}
	}
	uid, gid, status := c.addUser(u)
	if status != 0 {
		return status
	}
	if !f.has('H') {
		c.makeHome(u, uid, gid, f.last('k', "/etc/skel"))
	}
	if !f.has('D') && !f.has('S') { // passwd would ask for a password, which no one types
		return c.fail("no password is set for %s", u.name)
	}
	return 0
}

// rootShell is what users get that name no shell.
func (c *call) rootShell() string {
	if root := c.accounts.userNumbered(c.view, 0); root != nil && root[6] != "" {
		return root[6]
	}
	return "/bin/sh"
}

func (c *call) addUser(u newUser) (uid, gid, status int) {
	if !accountName.MatchString(u.name) {
		return 0, 0, c.fail("illegal name '%s'", u.name)
	}
	for _, field := range []string{u.gecos, u.home, u.shell} {
		if strings.ContainsFunc(field, func(r rune) bool { return r == ':' || r < ' ' || r == 0x7f }) {
			c.refuse(Unfit, "%q fits into no field of /etc/passwd", field)
		}
	}
	groups := c.view.numbers(groupFile)
	gid, there := groups[u.group]
	_, own := groups[u.name]
	switch {
	case u.group != "" && !there:
		return 0, 0, c.fail("unknown group %s", u.group)
	case c.accounts.user(c.view, u.name) != nil:
		return 0, 0, c.fail("user '%s' in use", u.name)
	case u.group == "" && own:
		return 0, 0, c.fail("group '%s' in use", u.name)
	}
	if uid, status = c.numberOf(u.name, u.uid, passwdFile); status != 0 {
		return 0, 0, status
	}
	if u.group == "" {
		if status = c.newGroup(u.name, u.uid); status != 0 {
			return 0, 0, status
		}
		gid = c.view.numbers(groupFile)[u.name]
	}
	line := fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", u.name, uid, gid, u.gecos, u.home, u.shell)
	c.view.writeAccounts(passwdFile, append(c.view.accountLines(passwdFile), line))
	line = fmt.Sprintf("%s:!:%d:0:99999:7:::", u.name, c.accounts.days)
	shadow := slices.DeleteFunc(c.view.accountLines(shadowFile), func(old string) bool { return strings.HasPrefix(old, u.name+":") })
	c.view.writeAccounts(shadowFile, append(shadow, line))
	if u.group != "" {
		c.join(u.name, u.group)
	}
	return uid, gid, 0
}

// makeHome makes a user's home directory, or takes over the one that is there, with
// the bit that has files in it get its group.
func (c *call) makeHome(u newUser, uid, gid int, skel string) {
	at, err := c.view.resolve("", u.home, true)
	if err == nil && at.null {
		return
	}
	if err == nil && at.node == nil {
		if link, err := c.view.resolve("", u.home, false); err == nil && link.node != nil {
			c.fail("%s: %v", u.home, errMissing)
			return
		}
		at.node = c.view.create(at.name, tar.TypeDir, 0o755)
		if from, err := c.view.resolve("", skel, true); err == nil && from.node != nil && from.node.isDir() {
			umask := c.umask
			c.umask = 0
			c.copyTo(from, where(at.name), false)
			c.umask = umask
		}
		for _, name := range c.view.below(at.name) {
			c.view.chown(place{name: name, node: c.view.get(name)}, uid, gid)
		}
	}
	if err != nil {
		c.fail("%s: %v", u.home, err)
		return
	}
	c.view.chown(at, uid, gid)
	c.view.chmod(at, 0o2755)
}

// passwd locks and unlocks accounts. An account that was locked without a password
// stays without one that fits when it is unlocked: busybox would leave an empty one.
func (c *call) passwd() int {
	f, names := c.flags("uld")
	if len(f) != 1 || f.has('d') || len(names) != 1 {
		c.refuse(Secret, "it sets or removes a password")
	}
	list := c.view.accountLines(shadowFile)
	for i, line := range list {
		fields := strings.Split(line, ":")
		if fields[0] != names[0] || len(fields) < 3 {
			continue
		}
		locked := strings.HasPrefix(fields[1], "!")
		switch {
		case locked == f.has('l'):
			return c.fail("password for %s is already %sed", names[0], map[bool]string{true: "lock", false: "unlock"}[locked])
		case f.has('l'):
			fields[1] = "!" + fields[1]
		default:
			if fields[1] = fields[1][1:]; fields[1] == "" {
				fields[1] = "*"
			}
		}
		fields[2] = strconv.FormatInt(c.accounts.days, 10)
		list[i] = strings.Join(fields, ":")
		c.view.writeAccounts(shadowFile, list)
		return 0
	}
	return c.fail("unknown user %s", names[0])
}

func (c *call) deluser() int {
	c.refuse(Unsupported, "it removes an account")
	return 1
}

// getent looks accounts up.
func (c *call) getent() int {
	_, args := c.flags("")
	if len(args) == 0 || args[0] != "passwd" && args[0] != "group" {
		c.refuse(Unsupported, "getent for other than passwd and group")
	}
	fields := map[string]int{"passwd": 7, "group": 4}[args[0]]
	keys := args[1:]
	for _, line := range c.view.accountLines("etc/" + args[0]) {
		if len(keys) == 0 {
			c.print("%s\n", strings.TrimSuffix(line, groupEnd(args[0])))
		}
	}
	for _, key := range keys {
		f := c.view.account("etc/"+args[0], fields, func(f []string) bool { return f[0] == key || f[2] == key })
		if f == nil {
			return 2
		}
		c.print("%s\n", strings.TrimSuffix(strings.Join(f, ":"), groupEnd(args[0])))
	}
	return 0
}

// groupEnd is what getent leaves out of the line of a group without members.
func groupEnd(database string) string {
	if database == "group" {
		return ":"
	}
	return "\n"
}

// id tells numbers and names of a user's.
func (c *call) id() int {
	f, names := c.flags("ugnrG")
	name := "root"
	if len(names) > 0 {
		name = names[0]
	}
	u := c.accounts.user(c.view, name)
	if u == nil {
		return c.fail("unknown user %s", name)
	}
	groups := c.view.numbers(groupFile)
	named := func(id string) string {
		for _, g := range slices.Sorted(maps.Keys(groups)) {
			if strconv.Itoa(groups[g]) == id {
				return g
			}
		}
		return id
	}
	switch {
	case f.has('G') || !f.has('u') && !f.has('g'):
		ids, text := []string{u[3]}, []string{u[3] + "(" + named(u[3]) + ")"}
		shown := []string{u[3]}
		if f.has('n') {
			shown[0] = named(u[3])
		}
		for _, line := range c.view.accountLines(groupFile) {
			g := strings.Split(line, ":")
			if len(g) != 4 || !slices.Contains(strings.Split(g[3], ","), name) || slices.Contains(ids, g[2]) {
				continue
			}
			ids, text = append(ids, g[2]), append(text, g[2]+"("+g[0]+")")
			if f.has('n') {
				g[2] = g[0]
			}
			shown = append(shown, g[2])
		}
		if f.has('G') {
			c.print("%s\n", strings.Join(shown, " "))
			break
		}
		c.print("uid=%s(%s) gid=%s(%s) groups=%s\n", u[2], name, u[3], named(u[3]), strings.Join(text, ","))
	case f.has('u') && f.has('n'):
		c.print("%s\n", name)
	case f.has('u'):
		c.print("%s\n", u[2])
	case f.has('n'):
		c.print("%s\n", named(u[3]))
	default:
		c.print("%s\n", u[3])
	}
	return 0
}

// shells is add-shell and remove-shell.
func (c *call) shells() int {
	_, names := c.flags("")
	b, err := c.read("/etc/shells")
	if err != nil && !errors.Is(err, errMissing) {
		return c.fail("/etc/shells: %v", err)
	}
	list := lines(b)
	if strings.HasSuffix(c.args[0], "add-shell") {
		for _, name := range names {
			if !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
	} else {
		list = slices.DeleteFunc(list, func(line string) bool { return slices.Contains(names, line) })
	}
	text := strings.Join(append(list, ""), "\n")
	if err := c.replace("/etc/shells", []byte(text)); err != nil {
		return c.fail("/etc/shells: %v", err)
	}
	return 0
}
