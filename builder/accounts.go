package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// accounts are the users and groups of an image: what etc/passwd, etc/group
// and etc/shadow of the packages hold, and what install scripts add.
type accounts struct {
	passwd, group, shadow []string        // lines
	uid, gid              map[string]int  // by name
	pinned                map[string]int  // by the spec
	hashed                map[string]bool // accounts whose number was made of their name
	days                  int64           // since 1970, of the build: when passwords were last changed
}

// Numbers of accounts that scripts leave open lie in this range: above
// Alpine's own fixed ones, below 1000 where people's begin.
const (
	firstID = 300
	lastID  = 899
)

// maxAccounts bounds etc/passwd and its like.
const maxAccounts = 1 << 20

func readAccounts(t *layers.Tree, pinned map[string]int, epoch time.Time) (*accounts, error) {
	a := &accounts{uid: map[string]int{}, gid: map[string]int{}, hashed: map[string]bool{}, pinned: pinned, days: epoch.Unix() / 86400}
	var errs [3]error
	a.passwd, errs[0] = accountLines(t, "etc/passwd", a.uid)
	a.group, errs[1] = accountLines(t, "etc/group", a.gid)
	a.shadow, errs[2] = accountLines(t, "etc/shadow", nil)
	return a, errors.Join(errs[:]...)
}

// accountLines reads name:x:number:… lines; a file that is missing has none.
func accountLines(t *layers.Tree, name string, ids map[string]int) ([]string, error) {
	b, err := t.ReadFile(name, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	for _, line := range lines {
		f := strings.Split(line, ":")
		if ids == nil || len(f) < 3 {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && n <= layers.MaxID {
			ids[f[0]] = int(n)
		}
	}
	return lines, nil
}

// errThere is an account that a script makes though the image has it, as
// scripts do so as to run twice.
var errThere = errors.New("already exists")

// refusal says why adduser or addgroup would refuse to do something.
type refusal struct {
	text   string
	member bool // it is about a membership
}

func (r refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return refusal{text: fmt.Sprintf(format, args...)} }

// pick returns the number of a new account: given by the script, pinned by
// the spec, or made of the name, so that it is the same in every image and
// files keep their owners from release to release. A script's own number that
// another account brought is a refusal, as of adduser; where one of the two
// was made of a name, the spec must say which it is to be.
func (a *accounts) pick(name, given string, taken map[string]int) (int, error) {
	id, pinned := a.pinned[name]
	switch {
	case given != "":
		n, err := strconv.ParseUint(given, 10, 32)
		if err != nil || n > layers.MaxID {
			return 0, refuse("%q is not a number of an account", given)
		}
		id = int(n)
	case !pinned:
		h := fnv.New32a()
		h.Write([]byte(name))
		id = firstID + int(h.Sum32()%(lastID-firstID+1))
	}
	for _, other := range slices.Sorted(maps.Keys(taken)) {
		if taken[other] != id {
			continue
		}
		change := name
		if given != "" {
			if change = other; !a.hashed[other] {
				return 0, refuse("the number %d is %s's", id, other)
			}
		}
		return 0, hint.Withf(fmt.Errorf("the accounts %s and %s both get the number %d", name, other, id),
			"give one of them another: ids: {%s: %d}", change, a.free(id))
	}
	if given == "" && !pinned {
		a.hashed[name] = true
	}
	return id, nil
}

func (a *accounts) free(id int) int {
	used := map[int]bool{}
	for _, ids := range []map[string]int{a.uid, a.gid} {
		for _, n := range ids {
			used[n] = true
		}
	}
	for used[id] {
		id++
	}
	return id
}

// accountName is what busybox takes for a name of a user or a group.
var accountName = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.-]*\$?$`)

func (a *accounts) addGroup(name, gid string) error {
	if _, there := a.gid[name]; there {
		return errThere
	}
	if !accountName.MatchString(name) {
		return refuse("%q is not a name of a group", name)
	}
	id, err := a.pick(name, gid, a.gid)
	if err != nil {
		return err
	}
	a.gid[name] = id
	a.group = append(a.group, fmt.Sprintf("%s:x:%d:", name, id))
	return nil
}

// user is what adduser is told. Without a group it gets one of its own name
// and number.
type user struct{ name, uid, group, gecos, home, shell string }

func (a *accounts) addUser(u user) error {
	if _, there := a.uid[u.name]; there {
		return errThere
	}
	if !accountName.MatchString(u.name) {
		return refuse("%q is not a name of a user", u.name)
	}
	for _, field := range []string{u.gecos, u.home, u.shell} {
		if strings.ContainsFunc(field, func(r rune) bool { return r == ':' || r < ' ' || r == 0x7f }) {
			return refuse("%q fits into no field of /etc/passwd", field)
		}
	}
	id, err := a.pick(u.name, u.uid, a.uid)
	if err != nil {
		return err
	}
	if u.group == "" {
		u.group = u.name
		if err := a.addGroup(u.name, u.uid); err != nil && !errors.Is(err, errThere) {
			return err
		}
	}
	gid, there := a.gid[u.group]
	if !there {
		return refuse("nothing makes the group %s before", u.group)
	}
	a.uid[u.name] = id
	a.passwd = append(a.passwd, fmt.Sprintf("%s:x:%d:%d:%s:%s:%s", u.name, id, gid, u.gecos, u.home, u.shell))
	a.shadow = append(a.shadow, fmt.Sprintf("%s:!:%d:0:99999:7:::", u.name, a.days))
	return nil
}

// join makes a user a member of a group.
func (a *accounts) join(user, group string) error {
	if _, there := a.uid[user]; !there {
		return refusal{"nothing makes the user " + user + " before", true}
	}
	for i, line := range a.group {
		f := strings.Split(line, ":")
		if f[0] != group || len(f) != 4 {
			continue
		}
		members := strings.FieldsFunc(f[3], func(r rune) bool { return r == ',' })
		if slices.Contains(members, user) {
			return nil
		}
		f[3] = strings.Join(append(members, user), ",")
		a.group[i] = strings.Join(f, ":")
		return nil
	}
	return refusal{"nothing makes the group " + group + " before", true}
}

// write puts the files back where something was added.
func (a *accounts) write(t *layers.Tree, epoch time.Time) error {
	for name, lines := range map[string][]string{"etc/passwd": a.passwd, "etc/group": a.group, "etc/shadow": a.shadow} {
		if len(lines) == 0 {
			continue
		}
		text := strings.Join(lines, "\n") + "\n"
		if old, err := t.ReadFile(name, maxAccounts); err == nil && string(old) == text {
			continue
		}
		h := tar.Header{Name: name, Mode: 0o644, ModTime: epoch}
		if name == "etc/shadow" {
			h.Mode, h.Gid = 0o640, a.gid["shadow"]
		}
		if err := t.AddFile(h, builderSource, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// own gives files whose owner is named the number that name has in this image:
// packages are built where numbers differ. A name no account has leaves a
// package's file with the number it came with; where strict is set, because a
// person gave the name, it must be a number or is an error.
func (a *accounts) own(t *layers.Tree, strict bool) error {
	for _, e := range t.Entries() {
		uid, gid := e.Uid, e.Gid
		for _, part := range []struct {
			name string
			ids  map[string]int
			to   *int
		}{{e.Uname, a.uid, &uid}, {e.Gname, a.gid, &gid}} {
			id, known := part.ids[part.name]
			if strict && part.name != "" && !known {
				n, err := strconv.ParseUint(part.name, 10, 32)
				if err != nil || n > layers.MaxID {
					return hint.With(fmt.Errorf("%s: the owner of /%s is %q, an account the image does not have", e.Source, e.Name, part.name),
						"add the package that brings the account, or give a number")
				}
				id, known = int(n), true
			}
			if known {
				*part.to = id
			}
		}
		e.Change(func(h *tar.Header) { h.Uid, h.Gid, h.Uname, h.Gname = uid, gid, "", "" })
	}
	return nil
}
