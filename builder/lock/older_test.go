package lock

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// TestOlder: an index that is older than the lock's is refused by its own time, by that of its newest
// package, and, where it has no time of its own, by a package that goes back.
func TestOlder(t *testing.T) {
	const name = "https://mirror.example/main"
	is := func(x Index, versions ...string) *File {
		f := sample()
		f.Packages = slices.Clone(f.Packages)
		f.Indexes = maps.Clone(f.Indexes)
		f.Indexes[name] = x
		for i, v := range versions {
			f.Packages[i].Version = v
		}
		return f
	}
	elsewhere := is(Index{Digest: "sha256:1"}, "1.36.1-r9")
	elsewhere.Indexes = map[string]Index{"https://mirror.example/new": {Digest: "sha256:1"}}
	dated, undated := is(Index{"sha256:2", 1795219200, 1795210000}), is(Index{"sha256:2", 0, 1795210000})
	for what, c := range map[string]struct {
		old, now *File
		want     string
	}{
		"no lock":    {nil, dated, ""},
		"the same":   {dated, dated, ""},
		"made later": {dated, is(Index{"sha256:3", 1795219201, 1795210000}), ""},
		"made later, and a package was taken back": {dated, is(Index{"sha256:3", 1795219201, 1795210000}, "1.36.1-r9"), ""},
		"another repository":                       {dated, elsewhere, ""},
		"made earlier, with the same newest package": {dated, is(Index{"sha256:1", 1795219140, 1795210000}),
			"repository https://mirror.example/main: the index is older than the one the lock was made with, or an old one shown again: " +
				"this one was made 2026-11-20 23:59, and that 2026-11-21 00:00"},
		"made later, of older packages": {dated, is(Index{"sha256:1", 1795219201, 1795200000}),
			"the newest package is of 2026-11-20 18:40"},
		"without a time any more":                {dated, is(Index{"sha256:1", 0, 1795210000}), "this one does not say when it was made"},
		"without a time, and the same packages":  {undated, is(Index{"sha256:1", 0, 1795210000}), ""},
		"without a time, and a package is newer": {undated, is(Index{"sha256:3", 0, 1795210000}, "1.37.0-r10"), ""},
		"without a time, and a package goes back": {undated, is(Index{"sha256:1", 0, 1795210000}, "1.37.0-r5"),
			"busybox would go back from 1.37.0-r6 to 1.37.0-r5"},
		"without a time, the same, for a spec that wants less": {undated, is(Index{"sha256:2", 0, 1795210000}, "1.37.0-r5"), ""},
		"of older packages": {undated, is(Index{"sha256:1", 0, 1795200000}), "the newest package is of 2026-11-20 18:40"},
	} {
		err := Older(c.old, c.now)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
		if err != nil && !strings.Contains(strings.Join(hint.Of(err), " "), "--allow-older") {
			t.Errorf("%s: the hints are %q", what, hint.Of(err))
		}
	}
}

// TestIndexChanges: another index is a change, by the day it was made.
func TestIndexChanges(t *testing.T) {
	for what, c := range map[string]struct {
		old, now Index
		want     string
	}{
		"made later":  {Index{"sha256:1", 1795219200, 5}, Index{"sha256:2", 1795219260, 5}, "~ index of a: 2026-11-21 00:00 -> 2026-11-21 00:01"},
		"no time":     {Index{"sha256:1", 0, 1795219200}, Index{"sha256:2", 0, 1795219260}, "~ index of a: 2026-11-21 00:00 -> 2026-11-21 00:01"},
		"another one": {Index{"sha256:1", 0, 1795219200}, Index{"sha256:2", 0, 1795219200}, "~ index of a: another one of 2026-11-21 00:00"},
		"the same":    {Index{"sha256:1", 7, 5}, Index{"sha256:1", 7, 5}, ""},
	} {
		old, now := sample(), sample()
		old.Indexes, now.Indexes = map[string]Index{"a": c.old}, map[string]Index{"a": c.now, "b": c.now}
		if got := lines(Changes(old, now)); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}
