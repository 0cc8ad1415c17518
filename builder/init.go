package builder

import (
	"archive/tar"
	"errors"
	"fmt"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// initFile is what /init hands over to, and shell what nearly every service
// is run by.
const (
	initFile = "sbin/init"
	shell    = "bin/sh"
)

// starters watches that the root keeps the programs it cannot start without
// while layers are laid over it, and knows which layer took one away.
type starters map[string]*starter

type starter struct {
	trail []step // what leads to the program, when it was last there
	lost  string // what became of it, and by what; "" while it is there
}

// step is an entry on the way to a program, as it was at one time.
type step struct {
	name, source, link string
	kind               byte
}

// trail returns what a path leads through.
func trail(t *layers.Tree, name string) []step {
	var list []step
	for _, e := range t.Trail(name) {
		list = append(list, step{e.Name, e.Source, e.Linkname, e.Typeflag})
	}
	return list
}

// watchStarters begins with what the packages bring.
func watchStarters(t *layers.Tree) starters {
	s := starters{}
	for _, name := range []string{initFile, shell} {
		if runs(t, name) {
			s[name] = &starter{trail: trail(t, name)}
		}
	}
	return s
}

// runs reports whether a path leads to a program.
func runs(t *layers.Tree, name string) bool {
	e := t.Lookup(name)
	return e != nil && e.Typeflag == tar.TypeReg && e.Mode&0o111 != 0
}

// look notes what the layer from source took away, or brought again.
func (s starters) look(t *layers.Tree, source string) {
	for name, one := range s {
		switch {
		case runs(t, name):
			one.trail, one.lost = trail(t, name), ""
		case one.lost == "":
			one.lost = fmt.Sprintf("%s took it away", source)
			for _, was := range one.trail {
				if now := t.At(was.name); now == nil {
					one.lost = fmt.Sprintf("%s took away /%s (from %s)", source, was.name, was.source)
					break
				} else if now.Typeflag != was.kind || now.Linkname != was.link {
					one.lost = fmt.Sprintf("%s replaced /%s (from %s)", source, was.name, was.source)
					break
				}
			}
		}
	}
}

// check refuses a root that cannot start.
func (s starters) check(t *layers.Tree) error {
	if !runs(t, initFile) && s[initFile] == nil {
		return hint.With(fmt.Errorf("the root has no program at /%s, so no node could start it", initFile),
			"add a package that has one, such as alpine-base")
	}
	var errs []error
	for _, name := range []string{initFile, shell} {
		one := s[name]
		if one == nil || runs(t, name) {
			continue
		}
		at, err := t.Resolve(name, true)
		if err != nil {
			errs = append(errs, fmt.Errorf("the root has no program at /%s: %w", name, err))
			continue
		}
		errs = append(errs, hint.With(fmt.Errorf("/%s leads to /%s, which is not a program: %s", name, at, one.lost),
			"leave that out of the layer, or put the layer into a directory of its own with to:"))
	}
	return errors.Join(errs...)
}
