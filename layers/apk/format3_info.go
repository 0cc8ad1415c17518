package apk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/pikelet-os/pikelet/layers/apk/adb"
)

// Numbers of those fields of a package's record that have no place in Package.
// In an index hashes is the identity; in a package it is a number of apk's own,
// which nothing depends on.
const (
	infoHashes = 3
	infoLayer  = 20
)

// fields3 are what a package of format 3 says of itself, in an index and in the
// package, by number. recommends (19) and tags (21) are of no use to an image.
var fields3 = []struct {
	number int
	name   string
	set    func(p *Package, v adb.Value) error
}{
	{1, "name", text3(func(p *Package) *string { return &p.Name })},
	{2, "version", text3(func(p *Package) *string { return &p.Version })},
	{4, "description", func(p *Package, v adb.Value) error {
		b, err := v.Bytes()
		p.Description = strings.Join(strings.FieldsFunc(string(b), control), " ")
		return err
	}},
	{5, "arch", text3(func(p *Package) *string { return &p.Arch })},
	{6, "license", text3(func(p *Package) *string { return &p.License })},
	{7, "origin", text3(func(p *Package) *string { return &p.Origin })},
	{8, "maintainer", text3(func(p *Package) *string { return &p.Maintainer })},
	{9, "url", text3(func(p *Package) *string { return &p.URL })},
	{10, "repo-commit", func(p *Package, v adb.Value) error {
		b, err := v.Bytes()
		p.Commit = hex.EncodeToString(b)
		return err
	}},
	{11, "build-time", number3(func(p *Package) *int64 { return &p.BuildTime })},
	{12, "installed-size", number3(func(p *Package) *int64 { return &p.Installed })},
	{13, "file-size", number3(func(p *Package) *int64 { return &p.Size })},
	{14, "provider-priority", func(p *Package, v adb.Value) (err error) {
		p.ProviderPriority, err = small(v)
		return err
	}},
	{15, "depends", deps3(func(p *Package) *[]Dep { return &p.Depends })},
	{16, "provides", deps3(func(p *Package) *[]Dep { return &p.Provides })},
	{17, "replaces", deps3(func(p *Package) *[]Dep { return &p.Replaces })},
	{18, "install-if", deps3(func(p *Package) *[]Dep { return &p.InstallIf })},
}

// parseInfo3 reads a package's record, but for its identity.
func parseInfo3(info adb.List) (*Package, error) {
	p := &Package{}
	for _, f := range fields3 {
		if err := f.set(p, info.At(f.number)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if p.Name == "" || p.Version == "" {
		return nil, errors.New("the record has no name or version")
	}
	return p, p.checkName()
}

// control reports whether r is an ASCII control character. What we write of a
// package, the database and indexes of format 2, are lines of text.
func control(r rune) bool { return r < ' ' || r == 0x7f }

// line returns the text of a value, which is one line.
func line(v adb.Value) (string, error) {
	b, err := v.Bytes()
	if err != nil {
		return "", err
	}
	if strings.ContainsFunc(string(b), control) {
		return "", fmt.Errorf("a control character in %.60q", b)
	}
	return string(b), nil
}

// word returns the text of a value, which has something in it and no blank.
func word(v adb.Value) (string, error) {
	s, err := line(v)
	if err == nil && (s == "" || strings.Contains(s, " ")) {
		err = fmt.Errorf("%.60q is not one word", s)
	}
	return s, err
}

// small returns the number of a value, which is an ordinary one.
func small(v adb.Value) (int, error) {
	n, err := v.Int()
	if err == nil && n > math.MaxInt32 {
		err = fmt.Errorf("%d is more than %d", n, math.MaxInt32)
	}
	return int(n), err
}

func text3(field func(*Package) *string) func(*Package, adb.Value) error {
	return func(p *Package, v adb.Value) (err error) {
		*field(p), err = line(v)
		return err
	}
}

func number3(field func(*Package) *int64) func(*Package, adb.Value) error {
	return func(p *Package, v adb.Value) error {
		n, err := v.Int()
		if err == nil && n > math.MaxInt64 {
			err = fmt.Errorf("%d is more than %d", n, int64(math.MaxInt64))
		}
		*field(p) = int64(n)
		return err
	}
}

func deps3(field func(*Package) *[]Dep) func(*Package, adb.Value) error {
	return func(p *Package, v adb.Value) error {
		list, err := v.List()
		if err != nil {
			return err
		}
		for i := 1; i <= list.Len(); i++ {
			d, err := parseDep3(list.At(i))
			if err != nil {
				return fmt.Errorf("entry %d: %w", i, err)
			}
			*field(p) = append(*field(p), d)
		}
		return nil
	}
}

// Numbers of a dependency's fields, and what the third is made of.
const (
	depName    = 1
	depVersion = 2
	depMatch   = 3

	matchEqual    = 1
	matchLess     = 2
	matchGreater  = 4
	matchFuzzy    = 8
	matchConflict = 16
)

// operators are the ways to compare, but for conflicts.
var operators = map[uint64]string{
	0: "=", matchEqual: "=", matchLess: "<", matchGreater: ">", matchLess | matchEqual: "<=", matchGreater | matchEqual: ">=",
	matchFuzzy: "~", matchFuzzy | matchEqual: "~", matchFuzzy | matchLess | matchEqual: "<~", matchFuzzy | matchGreater | matchEqual: ">~",
	matchLess | matchGreater: "><",
}

func parseDep3(v adb.Value) (Dep, error) {
	o, err := v.List()
	if err != nil {
		return Dep{}, err
	}
	name, err := word(o.At(depName))
	if err != nil {
		return Dep{}, fmt.Errorf("name: %w", err)
	}
	if strings.ContainsAny(name, "<>=~!@") {
		return Dep{}, fmt.Errorf("name: invalid name %q", name)
	}
	match, err := o.At(depMatch).Int()
	if err != nil {
		return Dep{}, fmt.Errorf("match: %w", err)
	}
	d := Dep{Name: name, Conflict: match&matchConflict != 0}
	if o.At(depVersion).IsNull() {
		return d, nil
	}
	if d.Version, err = word(o.At(depVersion)); err != nil {
		return Dep{}, fmt.Errorf("version: %w", err)
	}
	op, known := operators[match&^matchConflict]
	if !known {
		return Dep{}, fmt.Errorf("match: no operator has the number %d", match)
	}
	if strings.ContainsAny(d.Version[:1], "<>=~") {
		return Dep{}, fmt.Errorf("version: invalid version %q", d.Version)
	}
	d.Op = op
	return d, nil
}
