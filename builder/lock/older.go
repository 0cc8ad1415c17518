package lock

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// Older returns an error where a repository shows an older index to now than it
// did to old, which may be nil: the mirror is behind, or an attacker replays an
// index whose packages have known flaws.
//
// An index is older if it was made earlier, or its newest package was. One that does
// not say when it was made may not bring a lower version of a locked package either,
// unless it is the very same index. What this cannot see docs/decisions/0005-lock.md
// says.
func Older(old, now *File) error {
	if old == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(now.Indexes)) {
		was, there := old.Indexes[name]
		if !there {
			continue
		}
		if err := was.before(now.Indexes[name]); err != nil {
			return older(name, err)
		}
	}
	locked := map[string]Package{}
	for _, p := range old.Packages {
		locked[p.Name] = p
	}
	for _, p := range now.Packages {
		was, there := locked[p.Name]
		if !there || apk.Compare(p.Version, was.Version) >= 0 {
			continue
		}
		before, known := old.Indexes[was.Repository]
		index, still := now.Indexes[was.Repository]
		if known && still && index.Written == 0 && index.Digest != before.Digest {
			return older(was.Repository, fmt.Errorf("%s would go back from %s to %s, and the index does not say when it was made",
				p.Name, was.Version, p.Version))
		}
	}
	return nil
}

// before returns an error unless an index may follow x.
func (x Index) before(next Index) error {
	switch {
	case next.Digest == x.Digest && x.Digest != "":
		return nil
	case next.Written == 0 && x.Written != 0:
		return fmt.Errorf("this one does not say when it was made, and that was of %s", day(x.Written))
	case next.Written < x.Written:
		return fmt.Errorf("this one was made %s, and that %s", day(next.Written), day(x.Written))
	case next.Newest < x.Newest:
		return fmt.Errorf("the newest package is of %s, and was of %s", day(next.Newest), day(x.Newest))
	}
	return nil
}

func older(repository string, why error) error {
	err := fmt.Errorf("repository %s: the index is older than the one the lock was made with, or an old one shown again: %w", repository, why)
	return hint.With(err, "ask another mirror; pikelet lock --allow-older takes the index all the same")
}
