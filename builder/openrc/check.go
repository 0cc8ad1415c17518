package openrc

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// Limits of what gendepends.sh prints.
const (
	maxServices = 4096
	maxWords    = 16384 // of all services together
)

// Service is what a service says about others.
type Service struct {
	Name     string
	Needs    []string // services, or what services provide
	Provides []string
}

// Parse reads what gendepends.sh prints: a line with a service's name, and lines
// with its name, a keyword and words. Those of ineed and iprovide are kept; a word
// that begins with ! takes one back (src/librc/librc-depend.c of OpenRC, rc_deptree_update).
func Parse(text []byte) ([]Service, error) {
	var list []Service
	at := map[string]int{}
	words := 0
	for line := range strings.SplitSeq(string(text), "\n") {
		f := strings.Split(line, " ")
		if f[0] == "" {
			continue
		}
		i, there := at[f[0]]
		if !there {
			if len(list) == maxServices {
				return nil, fmt.Errorf("more than %d services", maxServices)
			}
			i = len(list)
			at[f[0]] = i
			list = append(list, Service{Name: f[0]})
		}
		if len(f) < 3 {
			continue
		}
		if words += len(f); words > maxWords {
			return nil, fmt.Errorf("more than %d words", maxWords)
		}
		switch s := &list[i]; f[1] {
		case "ineed":
			s.Needs = add(s.Needs, s.Name, f[2:])
		case "iprovide":
			s.Provides = add(s.Provides, s.Name, f[2:])
		}
	}
	return list, nil
}

// add adds words to a list as OpenRC does.
func add(list []string, self string, words []string) []string {
	for _, w := range words {
		switch {
		case w == "" || w == self || len(w) > 2 && strings.HasSuffix(w, ".sh"):
		case w[0] == '!':
			if i := slices.Index(list, w[1:]); i >= 0 {
				list = slices.Delete(list, i, i+1)
			}
		default:
			list = append(list, w)
		}
	}
	return list
}

// Broken is a need of a service in a runlevel that nothing of the image is.
type Broken struct {
	Runlevel string
	Chain    []string // the service of the runlevel, and what is needed in turn; the last one has the need
	Missing  string
}

// Error says what is missing, and for whom.
func (b *Broken) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "runlevel %s: the service %s needs ", b.Runlevel, b.Chain[0])
	for _, name := range b.Chain[1:] {
		fmt.Fprintf(&s, "%s, which needs ", name)
	}
	fmt.Fprintf(&s, "%s, and no service of the image is or provides that", b.Missing)
	return s.String()
}

// advice says what to do about it.
func (b *Broken) advice() string {
	return fmt.Sprintf("add the package, overlay or layer that has a service %s, or take %s out of services.%s",
		b.Missing, b.Chain[0], b.Runlevel)
}

// Check looks for needs that nothing in the tree meets, of the services in each
// runlevel and of those that they need. The error joins one Broken for each, with its
// advice. What a service that is left may provide counts as there.
func (r *Result) Check(t *layers.Tree, runlevels map[string][]string) error {
	var unread []string
	for _, l := range r.Left {
		if l.Service == "" {
			return nil
		}
		text, err := t.ReadFile("etc/init.d/"+l.Service, maxInput)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		unread = append(unread, l.Service+" "+string(text))
	}
	return check(r.Services, runlevels, func(word string) bool {
		return !slices.ContainsFunc(unread, func(text string) bool { return strings.Contains(text, word) })
	})
}

// check is Check for services that are known; absent reports whether no other can be
// meant by a word.
func check(services []Service, runlevels map[string][]string, absent func(word string) bool) error {
	by := map[string]*Service{}
	provided := map[string][]*Service{}
	for i := range services {
		s := &services[i]
		by[s.Name] = s
		for _, w := range s.Provides {
			provided[w] = append(provided[w], s)
		}
	}
	var errs []error
	for _, level := range slices.Sorted(maps.Keys(runlevels)) {
		seen := map[string]bool{}
		var visit func(s *Service, chain []string)
		visit = func(s *Service, chain []string) {
			if seen[s.Name] {
				return
			}
			seen[s.Name] = true
			chain = append(slices.Clip(chain), s.Name)
			for _, w := range s.Needs {
				switch next := by[w]; {
				case next != nil:
					visit(next, chain)
				case len(provided[w]) == 1:
					visit(provided[w][0], chain)
				case len(provided[w]) == 0 && absent(w):
					b := &Broken{level, chain, w}
					errs = append(errs, hint.With(b, b.advice()))
				}
			}
		}
		for _, name := range runlevels[level] {
			if s := by[name]; s != nil {
				visit(s, nil)
			}
		}
	}
	return errors.Join(errs...)
}
