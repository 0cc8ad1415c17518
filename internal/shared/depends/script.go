package depends

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// confDir holds the files that a node may write anew, and that set variables for
// a service's script.
const confDir = "/etc/conf.d"

// Good is what a record says that is true of a node.
type Good struct {
	Services []Service
	// All says that they are all services there are.
	All bool
	// Stale are the services whose files are others than at the build, sorted,
	// each with the first such file.
	Stale map[string]string
}

// On returns what is true on a node, whose root it reads. A service is left out
// where a file is not as it was at the build, unless that file is one of conf.d that
// sets, then and now, only variables that do not matter.
func (r Record) On(root fs.FS) Good {
	g := Good{Stale: map[string]string{}}
	changes := make([]change, len(r.Inputs))
	for i, in := range r.Inputs {
		changes[i] = in.changed(root)
	}
	first := func(list []int, variables []string) string {
		for _, i := range list {
			if changes[i].matters(variables) {
				return r.Inputs[i].Path
			}
		}
		return ""
	}
	for _, s := range r.Services {
		if file := first(s.Inputs, s.Variables); file != "" {
			g.Stale[s.Name] = file
			continue
		}
		g.Services = append(g.Services, s)
	}
	g.All = r.Complete && len(g.Stale) == 0 && first(r.Scan, nil) == ""
	return g
}

// change is how an input differs from what it was.
type change struct {
	is   bool
	any  bool     // it is more than values of variables
	sets []string // variables that have other values, or may have
}

func (in Input) changed(root fs.FS) change {
	state, err := State(root, in.Path)
	if err == nil && state == in.State {
		return change{}
	}
	if path.Dir(in.Path) != confDir || err != nil || !(strings.HasPrefix(state, "file ") || state == Absent) || !in.plain() {
		return change{is: true, any: true}
	}
	c := change{is: true, sets: in.Sets}
	if state == Absent {
		return c
	}
	text, err := read(root, strings.Trim(in.Path, "/"))
	if err != nil {
		return change{is: true, any: true}
	}
	sets, plain := Sets(text)
	return change{is: true, any: !plain, sets: append(slices.Clone(in.Sets), sets...)}
}

// plain reports whether the file did nothing but setting variables.
func (in Input) plain() bool { return in.State == Absent || in.Plain }

func (c change) matters(variables []string) bool {
	return c.is && (c.any || slices.ContainsFunc(c.sets, func(name string) bool { return slices.Contains(variables, name) }))
}

// Script returns the contents of ScriptFile. It defines AllFunction where it has
// all services, and Function otherwise.
func (g Good) Script() string {
	var b strings.Builder
	if g.All {
		var all strings.Builder
		for _, s := range g.Services {
			all.WriteString(s.Text)
		}
		fmt.Fprintf(&b, "%s() {\n\t%s\n}\n", AllFunction, echo(all.String()))
		return b.String()
	}
	fmt.Fprintf(&b, "%s() {\n\t[ \"$_dir\" = /etc/init.d ] || return 1\n\tcase \"$1\" in\n", Function)
	for _, s := range g.Services {
		fmt.Fprintf(&b, "\t'%s') %s ;;\n", s.Name, echo(s.Text))
	}
	b.WriteString("\t*) return 1 ;;\n\tesac\n}\n")
	return b.String()
}

// echo is the command that prints a text, which is Quotable.
func echo(text string) string {
	if text == "" {
		return ":"
	}
	return "echo '" + strings.TrimSuffix(text, "\n") + "'"
}
