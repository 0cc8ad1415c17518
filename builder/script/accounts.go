package script

import (
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// Numbers of accounts that scripts leave open lie in this range: above
// Alpine's own fixed ones, below 1000 where people's begin.
const (
	firstID = 300
	lastID  = 899
)

// Accounts are the rules by which users and groups get their numbers. The
// accounts themselves are in the tree, in etc/passwd, etc/group and etc/shadow,
// where scripts read them too.
type Accounts struct {
	pinned map[string]int  // by the spec
	hashed map[string]bool // accounts whose number was made of their name
	days   int64           // since 1970, of the build: when passwords were last changed
}

// NewAccounts returns the rules of an image. An account of pinned gets that
// number, unless a script gives it one; epoch is when passwords were last changed.
func NewAccounts(pinned map[string]int, epoch time.Time) *Accounts {
	return &Accounts{pinned: pinned, hashed: map[string]bool{}, days: epoch.Unix() / 86400}
}

func (a *Accounts) clone() *Accounts {
	return &Accounts{pinned: a.pinned, hashed: maps.Clone(a.hashed), days: a.days}
}

// taken is a number that another account has, given by the script itself.
type taken struct{ text string }

func (t taken) Error() string { return t.text }

// pick returns the number of a new account: given by the script, pinned by
// the spec, or made of the name, so that it is the same in every image and
// files keep their owners from release to release. A script's own number that
// another account brought is an error of type taken, as of adduser; where one of
// the two was made of a name, the spec must say which it is to be.
func (a *Accounts) pick(name, given string, ids, others map[string]int) (int, error) {
	id, pinned := a.pinned[name]
	switch {
	case given != "":
		n, err := strconv.ParseUint(given, 10, 32)
		if err != nil || n > layers.MaxID {
			return 0, taken{fmt.Sprintf("%q is not a number of an account", given)}
		}
		id = int(n)
	case !pinned:
		h := fnv.New32a()
		h.Write([]byte(name))
		id = firstID + int(h.Sum32()%(lastID-firstID+1))
	}
	for _, other := range slices.Sorted(maps.Keys(ids)) {
		if ids[other] != id {
			continue
		}
		change := name
		if given != "" {
			if change = other; !a.hashed[other] {
				return 0, taken{fmt.Sprintf("the number %d is %s's", id, other)}
			}
		}
		return 0, hint.Withf(fmt.Errorf("the accounts %s and %s both get the number %d", name, other, id),
			"give one of them another: ids: {%s: %d}", change, free(id, ids, others))
	}
	if given == "" && !pinned {
		a.hashed[name] = true
	}
	return id, nil
}

// free returns the next number that no account has.
func free(id int, all ...map[string]int) int {
	used := map[int]bool{}
	for _, ids := range all {
		for _, n := range ids {
			used[n] = true
		}
	}
	for used[id] {
		id++
	}
	return id
}

// accountName is what Alpine's busybox takes for a name of a user or a group.
var accountName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$`)
