package script

import (
	"archive/tar"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/layers"
)

// The files that hold the accounts.
const (
	passwdFile = "etc/passwd"
	groupFile  = "etc/group"
	shadowFile = "etc/shadow"
)

// accountLines returns the lines of a file of accounts; one that is missing has none.
func (v *view) accountLines(name string) []string {
	at, err := v.resolve("", name, true)
	if err != nil || at.node == nil || !at.node.isFile() {
		return nil
	}
	return lines(v.contents(at.node))
}

// writeAccounts writes a file of accounts. Who may read the one with passwords
// stays as it is; a new one is root's and the group shadow's.
func (v *view) writeAccounts(name string, list []string) {
	at, err := v.resolve("", name, true)
	if err != nil {
		v.m.refuse(Unsupported, "/%s: %v", name, err)
	}
	if at.node == nil {
		if dir, _ := parent(at.name); v.get(dir) == nil {
			v.create(dir, tar.TypeDir, 0o755)
		}
		mode := int64(0o644)
		if name == shadowFile {
			mode = 0o640
		}
		at.node = v.create(at.name, tar.TypeReg, mode)
		if g := v.numbers(groupFile); name == shadowFile {
			at.node.Gid = g["shadow"]
		}
	}
	if !at.node.isFile() {
		v.m.refuse(Unsupported, "/%s is no file", at.name)
	}
	v.touch(at.name)
	v.write(at.node, nil)
	v.writeAt(at.node, 0, []byte(strings.Join(list, "\n")+"\n"))
}

// numbers returns the accounts of a file by name.
func (v *view) numbers(name string) map[string]int {
	ids := map[string]int{}
	for _, line := range v.accountLines(name) {
		f := strings.Split(line, ":")
		if len(f) < 3 {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && n <= layers.MaxID {
			ids[f[0]] = int(n)
		}
	}
	return ids
}

// account returns the fields of the first line that is of a name, or nil.
func (v *view) account(file string, fields int, is func(f []string) bool) []string {
	for _, line := range v.accountLines(file) {
		if f := strings.Split(line, ":"); len(f) == fields && is(f) {
			return f
		}
	}
	return nil
}

// user returns the seven fields of a user, or nil.
func (a *Accounts) user(v *view, name string) []string {
	return v.account(passwdFile, 7, func(f []string) bool { return f[0] == name })
}

func (a *Accounts) userNumbered(v *view, id int) []string {
	return v.account(passwdFile, 7, func(f []string) bool { return f[2] == strconv.Itoa(id) })
}

// group returns the four fields of a group, or nil.
func (a *Accounts) group(v *view, name string) []string {
	return v.account(groupFile, 4, func(f []string) bool { return f[0] == name })
}

// superusers returns the names of users that have root's rights. A number that is
// missing, or that 32 bits cannot hold, is read as musl does.
func (v *view) superusers() map[string]bool {
	names := map[string]bool{}
	for _, line := range v.accountLines(passwdFile) {
		f := strings.Split(line, ":")
		if len(f) < 3 {
			continue
		}
		n := uint32(0)
		for i := 0; i < len(f[2]) && f[2][i] >= '0' && f[2][i] <= '9'; i++ {
			n = n*10 + uint32(f[2][i]-'0')
		}
		if n == 0 {
			names[f[0]] = true
		}
	}
	return names
}

// open returns the names of users that no password is asked of.
func (v *view) open() map[string]bool {
	names := map[string]bool{}
	for _, file := range []string{passwdFile, shadowFile} {
		for _, line := range v.accountLines(file) {
			if f := strings.Split(line, ":"); len(f) > 1 && f[1] == "" {
				names[f[0]] = true
			}
		}
	}
	return names
}

// audit refuses a script that has made another user 0, or an account without a
// password, by whatever way.
func (m *machine) audit(before *view) {
	m.line, m.command = 0, ""
	was := before.superusers()
	for name := range m.view.superusers() {
		if !was[name] && (len(was) > 0 || name != "root") {
			m.refuse(Secret, "it makes %q a user with root's rights", name)
		}
	}
	was = before.open()
	for name := range m.view.open() {
		if !was[name] {
			m.refuse(Secret, "it makes the account %q one without a password", name)
		}
	}
}
