package apk

import (
	"strconv"
	"strings"
)

// fields are what a package says of itself: in a record of an index under a
// letter, in its .PKGINFO under a name
// (https://wiki.alpinelinux.org/wiki/Apk_spec).
var fields = []struct {
	letter byte   // 0: in no index
	name   string // "": in no .PKGINFO
	set    func(p *Package, value string) error
}{
	{'C', "", text(func(p *Package) *string { return &p.Identity })},
	{'P', "pkgname", text(func(p *Package) *string { return &p.Name })},
	{'V', "pkgver", text(func(p *Package) *string { return &p.Version })},
	{'A', "arch", text(func(p *Package) *string { return &p.Arch })},
	{'S', "", number(func(p *Package) *int64 { return &p.Size })},
	{'I', "size", number(func(p *Package) *int64 { return &p.Installed })},
	{'T', "pkgdesc", text(func(p *Package) *string { return &p.Description })},
	{'U', "url", text(func(p *Package) *string { return &p.URL })},
	{'L', "license", text(func(p *Package) *string { return &p.License })},
	{'o', "origin", text(func(p *Package) *string { return &p.Origin })},
	{'m', "maintainer", text(func(p *Package) *string { return &p.Maintainer })},
	{'t', "builddate", number(func(p *Package) *int64 { return &p.BuildTime })},
	{'c', "commit", text(func(p *Package) *string { return &p.Commit })},
	{'k', "provider_priority", priority(func(p *Package) *int { return &p.ProviderPriority })},
	{'D', "depend", depList(func(p *Package) *[]Dep { return &p.Depends })},
	{'p', "provides", depList(func(p *Package) *[]Dep { return &p.Provides })},
	{'i', "install_if", depList(func(p *Package) *[]Dep { return &p.InstallIf })},
	{0, "replaces", depList(func(p *Package) *[]Dep { return &p.Replaces })},
	{0, "replaces_priority", priority(func(p *Package) *int { return &p.ReplacesPriority })},
	{0, "triggers", func(p *Package, value string) error {
		p.Triggers = append(p.Triggers, strings.Fields(value)...)
		return nil
	}},
}

// setByLetter sets a field of a record, and reports whether it is known.
func (p *Package) setByLetter(letter byte, value string) (known bool, err error) {
	for _, f := range fields {
		if f.letter == letter && letter != 0 {
			return true, f.set(p, value)
		}
	}
	return false, nil
}

// setByName sets a field of a .PKGINFO. One that is not known is passed over, as
// apk does.
func (p *Package) setByName(name, value string) error {
	for _, f := range fields {
		if f.name == name && name != "" {
			return f.set(p, value)
		}
	}
	return nil
}

func text(field func(*Package) *string) func(*Package, string) error {
	return func(p *Package, value string) error {
		*field(p) = value
		return nil
	}
}

func number(field func(*Package) *int64) func(*Package, string) error {
	return func(p *Package, value string) (err error) {
		*field(p), err = strconv.ParseInt(value, 10, 64)
		return err
	}
}

func priority(field func(*Package) *int) func(*Package, string) error {
	return func(p *Package, value string) (err error) {
		*field(p), err = strconv.Atoi(value)
		return err
	}
}

// depList adds to a list: a .PKGINFO has a line for each dependency.
func depList(field func(*Package) *[]Dep) func(*Package, string) error {
	return func(p *Package, value string) error {
		more, err := ParseDeps(value)
		*field(p) = append(*field(p), more...)
		return err
	}
}
