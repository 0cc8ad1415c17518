package apk

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// Source is an index to choose from. A tagged one serves only names that are
// asked for with its tag, and what those depend on.
type Source struct {
	Index *Index
	Tag   string
}

// Solve returns the packages that a world of names needs, sorted by name: the
// names themselves, what they depend on, and what installs itself once its
// conditions are met (install_if; without it an image would have no service
// scripts). Where several fit, the newest version of the package that bears
// the name wins, then what provides the name with a version, then what
// provides it with the highest provider_priority.
//
// It walks the dependencies once and does not go back on a choice: a world
// that needs that is reported as impossible, never solved wrongly.
func Solve(world []Dep, from []Source) ([]*Package, error) {
	s := &solver{chosen: map[string]*Package{}, why: map[string]string{}, offers: map[string][]offer{}}
	for i := range from {
		for _, p := range from[i].Index.Packages {
			s.addOffers(p, from[i].Tag)
		}
	}
	s.world = world
	for _, d := range world {
		s.want(d, "", d.Tag)
	}
	for s.install() {
	}
	for _, late := range s.late {
		if !s.met(late.dep) {
			s.errs = append(s.errs, s.unmet(late.dep, late.by))
		}
	}
	s.check()
	if len(s.errs) > 0 {
		return nil, errors.Join(s.errs...)
	}
	list := make([]*Package, 0, len(s.chosen))
	for _, p := range s.chosen {
		list = append(list, p)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
	return list, nil
}

// offer is a package that satisfies a name: its own or a provided one.
type offer struct {
	pkg     *Package
	version string // "" for a name provided without one
	own     bool
	tag     string
}

type solver struct {
	world  []Dep
	offers map[string][]offer
	chosen map[string]*Package
	why    map[string]string // package name to the one that needed it
	late   []need            // met by no choice of ours, but perhaps by others' in the end
	errs   []error
}

// need is a dependency and the package that has it.
type need struct {
	dep Dep
	by  string
}

func (s *solver) addOffers(p *Package, tag string) {
	s.offers[p.Name] = append(s.offers[p.Name], offer{p, p.Version, true, tag})
	for _, d := range p.Provides {
		s.offers[d.Name] = append(s.offers[d.Name], offer{p, d.Version, false, tag})
	}
}

// met says whether what is chosen satisfies d.
func (s *solver) met(d Dep) bool {
	for _, o := range s.offers[d.Name] {
		if s.chosen[o.pkg.Name] == o.pkg && d.allows(o.version, o.pkg.Identity) {
			return true
		}
	}
	return false
}

// want makes sure that d is met, choosing a package and what it depends on.
func (s *solver) want(d Dep, by, tag string) {
	if d.Conflict || s.met(d) {
		return
	}
	var fit []offer
	silent := false // offered by a package that nothing but another need may choose
	for _, o := range s.offers[d.Name] {
		if (o.tag != "" && o.tag != tag) || !d.allows(o.version, o.pkg.Identity) || !s.worldAllows(o.pkg) {
			continue
		}
		if o.own || o.version != "" || o.pkg.ProviderPriority > 0 {
			fit = append(fit, o)
		} else {
			silent = true
		}
	}
	sort.SliceStable(fit, func(i, j int) bool { return better(fit[i], fit[j]) })
	for _, o := range fit {
		if old := s.chosen[o.pkg.Name]; old != nil {
			continue // another version of it was needed before
		}
		s.chosen[o.pkg.Name] = o.pkg
		s.why[o.pkg.Name] = by
		for _, dep := range o.pkg.Depends {
			s.want(dep, o.pkg.Name, tag)
		}
		return
	}
	if len(fit) == 0 && silent {
		s.late = append(s.late, need{d, by})
		return
	}
	s.errs = append(s.errs, s.unmet(d, by))
}

// worldAllows says whether no entry of the world forbids p.
func (s *solver) worldAllows(p *Package) bool {
	for _, d := range s.world {
		if d.Name == p.Name && d.Conflict == d.allows(p.Version, p.Identity) {
			return false
		}
	}
	return true
}

func better(a, b offer) bool {
	switch {
	case a.own != b.own:
		return a.own
	case (a.version != "") != (b.version != ""):
		return a.version != ""
	case a.pkg.ProviderPriority != b.pkg.ProviderPriority:
		return a.pkg.ProviderPriority > b.pkg.ProviderPriority
	}
	if c := Compare(a.version, b.version); c != 0 {
		return c > 0
	}
	if a.pkg.Name != b.pkg.Name {
		return a.pkg.Name < b.pkg.Name
	}
	return Compare(a.pkg.Version, b.pkg.Version) > 0
}

// install adds one round of packages whose install_if is met, and says
// whether there were any.
func (s *solver) install() bool {
	var ready []*Package
	for name, list := range s.offers {
		for _, o := range list {
			if o.own && o.pkg.Name == name && o.tag == "" && s.ready(o.pkg) {
				ready = append(ready, o.pkg)
			}
		}
	}
	sort.Slice(ready, func(i, j int) bool {
		if ready[i].Name != ready[j].Name {
			return ready[i].Name < ready[j].Name
		}
		return Compare(ready[i].Version, ready[j].Version) > 0
	})
	for _, p := range ready {
		if s.chosen[p.Name] == nil {
			s.want(Dep{Name: p.Name, Op: "=", Version: p.Version}, joinDeps(p.InstallIf), "")
		}
	}
	return len(ready) > 0 && len(s.errs) == 0
}

func (s *solver) ready(p *Package) bool {
	if len(p.InstallIf) == 0 || s.chosen[p.Name] != nil || !s.worldAllows(p) {
		return false
	}
	for _, d := range p.InstallIf {
		if d.Conflict == s.met(d) {
			return false
		}
	}
	return true
}

// check looks at the whole: what was met early must still be met, and nothing
// chosen may be forbidden by something else chosen.
func (s *solver) check() {
	names := make([]string, 0, len(s.chosen))
	for name := range s.chosen {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		for _, d := range s.chosen[name].Depends {
			if d.Conflict && s.metByOther(d, name) {
				s.errs = append(s.errs, fmt.Errorf("%s does not go together with %s, which is also needed%s",
					name, d.Name, s.chain(d.Name)))
			}
		}
	}
	for _, d := range s.world {
		if d.Conflict && s.metByOther(d, "") {
			s.errs = append(s.errs, fmt.Errorf("%s is unwanted, but needed%s", d.Name, s.chain(d.Name)))
		}
	}
}

func (s *solver) metByOther(d Dep, self string) bool {
	for _, o := range s.offers[d.Name] {
		if o.pkg.Name != self && s.chosen[o.pkg.Name] == o.pkg && d.allows(o.version, o.pkg.Identity) {
			return true
		}
	}
	return false
}

// unmet explains why nothing could be chosen for d.
func (s *solver) unmet(d Dep, by string) error {
	var have, silent []string
	for _, o := range s.offers[d.Name] {
		switch {
		case o.own:
			have = append(have, o.pkg.Version)
		case o.version == "" && o.pkg.ProviderPriority == 0:
			silent = append(silent, o.pkg.Name)
		default:
			have = append(have, o.pkg.String())
		}
	}
	sort.Strings(silent)
	text := fmt.Sprintf("no package %s", d)
	switch {
	case len(have) > 0 && s.chosen[d.Name] != nil:
		text = fmt.Sprintf("%s is wanted, but %s was already chosen", d, s.chosen[d.Name])
	case len(have) > 0:
		text = fmt.Sprintf("no version of %s fits; the repositories have %s", d, strings.Join(have, ", "))
	case len(silent) > 0:
		text = fmt.Sprintf("%s can be had from %s; add the one you want to packages", d.Name, strings.Join(silent, " or "))
	}
	if by == "" {
		return errors.New(text)
	}
	return fmt.Errorf("%s, needed by %s%s", text, by, s.chain(by))
}

// chain says what needed a package, up to the world.
func (s *solver) chain(name string) string {
	var b strings.Builder
	for range 20 {
		by, ok := s.why[name]
		if !ok || by == "" {
			break
		}
		b.WriteString(", needed by " + by)
		name = by
	}
	return b.String()
}
