package apk

import (
	"fmt"
	"strings"
)

// Dep is one dependency or provision: [!]name[@tag][op version]
// (docs/platform.md 5.5).
type Dep struct {
	Name     string
	Conflict bool   // written with a leading !
	Tag      string // of the repository it may come from
	Op       string // "", =, <, <=, >, >=, ~, <~, >~ or ><
	Version  string
}

// ParseDep reads one dependency that a person wrote: its version must begin
// like one.
func ParseDep(s string) (Dep, error) {
	d, err := parseDep(s)
	if err == nil && d.Op != "" && d.Op != "><" && (d.Version == "" || d.Version[0] < '0' || d.Version[0] > '9') {
		return Dep{}, fmt.Errorf("dependency %q: invalid version %q", s, d.Version)
	}
	return d, err
}

// parseDep reads one dependency of a package or an index. Alpine's have a few
// invalid versions (pc:librtmp=v2.4); those are kept, and satisfy no constraint.
func parseDep(s string) (Dep, error) {
	d := Dep{}
	rest, conflict := strings.CutPrefix(s, "!")
	d.Conflict = conflict
	if i := strings.IndexAny(rest, "<>=~"); i >= 0 {
		op := rest[i:]
		n := 1
		for n < len(op) && strings.IndexByte("<>=~", op[n]) >= 0 {
			n++
		}
		d.Op, d.Version, rest = op[:n], op[n:], rest[:i]
		switch d.Op {
		case "=", "<", "<=", ">", ">=", "~", "<~", ">~", "><":
		case "=~", "~=":
			d.Op = "~"
		default:
			return Dep{}, fmt.Errorf("dependency %q: no operator %q", s, d.Op)
		}
	}
	d.Name, d.Tag, _ = strings.Cut(rest, "@")
	if d.Name == "" || strings.ContainsAny(d.Name, " \t\n!") {
		return Dep{}, fmt.Errorf("dependency %q: no name", s)
	}
	return d, nil
}

// ParseDeps reads a list of a package's or an index's, separated by blanks.
func ParseDeps(s string) ([]Dep, error) {
	var list []Dep
	for _, f := range strings.Fields(s) {
		d, err := parseDep(f)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

func (d Dep) String() string {
	s := d.Name
	if d.Conflict {
		s = "!" + s
	}
	if d.Tag != "" {
		s += "@" + d.Tag
	}
	return s + d.Op + d.Version
}

func joinDeps(list []Dep) string {
	words := make([]string, len(list))
	for i, d := range list {
		words[i] = d.String()
	}
	return strings.Join(words, " ")
}

// allows reports whether a version (or, for ><, an identity) meets d. A provided
// name without a version meets only a dependency without one.
func (d Dep) allows(version, identity string) bool {
	switch d.Op {
	case "":
		return true
	case "><":
		return identity == d.Version || shortIdentity(identity) == d.Version
	}
	if version == "" {
		return false
	}
	// Versions outside the grammar, such as opensmtpd's 6.8.0p2-r4, compare as
	// far as they are inside it: so does apk.
	c := compare(version, d.Version, strings.Contains(d.Op, "~"))
	switch strings.TrimSuffix(d.Op, "~") {
	case "", "=":
		return c == 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0 || d.Op == ">~" && c == 0
	}
	return c >= 0
}
