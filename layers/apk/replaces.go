package apk

import "slices"

// Replacement is what becomes of a file that two packages have.
type Replacement int

// What becomes of the file of the package that came first.
const (
	Conflict Replacement = iota // neither package may replace the other's file
	Keep                        // it stays
	Replace                     // the later package's file takes its place
)

// ReplacesFile reports what becomes of a file of the installed package old that
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
