package builder

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// accounts are the numbers of the users and groups of an image, by name: what
// etc/passwd and etc/group hold.
type accounts struct{ uid, gid map[string]int }

// maxAccounts bounds etc/passwd and its like.
const maxAccounts = 1 << 20

// accountFiles are the files of accounts. The packages that bring them are
// unpacked before scripts add to them.
var accountFiles = []string{"etc/passwd", "etc/group", "etc/shadow"}

func readAccounts(t *layers.Tree) (*accounts, error) {
	a := &accounts{uid: map[string]int{}, gid: map[string]int{}}
	return a, errors.Join(accountLines(t, "etc/passwd", a.uid), accountLines(t, "etc/group", a.gid))
}

// accountLines reads name:x:number:… lines; a file that is missing has none.
func accountLines(t *layers.Tree, name string, ids map[string]int) error {
	b, err := t.ReadFile(name, maxAccounts)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), ":")
		if len(f) < 3 {
			continue
		}
		if n, err := strconv.ParseUint(f[2], 10, 32); err == nil && n <= layers.MaxID {
			ids[f[0]] = int(n)
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
		if err := a.ownOne(e, strict); err != nil {
			return err
		}
		e.Change(func(h *tar.Header) { h.Uname, h.Gname = "", "" })
	}
	return nil
}

// ownOne is own for one file, which keeps the names.
func (a *accounts) ownOne(e *layers.Entry, strict bool) error {
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
	if uid != e.Uid || gid != e.Gid {
		e.Change(func(h *tar.Header) { h.Uid, h.Gid = uid, gid })
	}
	return nil
}
