package apk

import "slices"

// Replacement says which of two packages keeps a file that both have.
type Replacement int

// The file of the package installed first is kept, replaced or a conflict.
const (
	Conflict Replacement = iota // neither package may replace the other's file
	Keep                        // it stays
	Replace                     // the later package's file takes its place
)

// ReplacesFile reports whether a package may replace a file of the installed package old that
// the package p has too, as apk decides it (apk_pkg_replaces_file in apk-tools'
// src/package.c): either package may say that it replaces the other, by name
// and version, and the higher replaces_priority wins; between equals the later
// package does.
func ReplacesFile(old, p *Package) Replacement {
	if old.Name == p.Name || p.Origin != "" && p.Origin == old.Origin {
		return Replace
	}
	stays, comes := old.replacePriority(p), p.replacePriority(old)
	switch {
	case stays > comes:
		return Keep
	case comes >= 0:
		return Replace
	}
	return Conflict
}

// replacePriority returns p's replaces_priority where p says that it replaces
// other, and -1 where it does not.
func (p *Package) replacePriority(other *Package) int {
	if slices.ContainsFunc(p.Replaces, func(d Dep) bool {
		return d.Name == other.Name && d.allows(other.Version, other.Identity) != d.Conflict
	}) {
		return p.ReplacesPriority
	}
	return -1
}
