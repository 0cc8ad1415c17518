package apk

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
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
// scripts).
//
// It chooses what apk-tools 2.14 chooses and fails where that fails; how that
// was found and measured is in docs/decisions/0004-solver.md. Like apk it
// never takes a choice back: it spreads what is certain (what every remaining
// candidate of a name needs, what no candidate can have) as far as that goes,
// then chooses for one name, and repeats. Where the world cannot be had, the
// error says which package is wanted by what, and what stands against it.
func Solve(world []Dep, from []Source) ([]*Package, error) {
	s := newSolver(from)
	world = slices.Clone(world)
	slices.SortStableFunc(world, func(a, b Dep) int { return cmp.Compare(a.Name, b.Name) })
	if err := s.checkTags(world); err != nil {
		return nil, err
	}
	for _, d := range world {
		s.discover(s.name(d.Name))
	}
	s.discoverRest()
	for _, d := range world {
		n := s.name(d.Name)
		n.world = true
		s.constrain(nil, n, d)
	}
	for {
		if n := s.nextChanged(); n != nil {
			s.reconsider(n)
			continue
		}
		n := s.nextOpen()
		if n == nil {
			break
		}
		s.choose(n)
	}
	chosen := s.gather(world)
	if s.failed {
		return nil, s.explain(world)
	}
	list := make([]*Package, 0, len(chosen))
	for _, c := range chosen {
		list = append(list, c.Package)
	}
	slices.SortFunc(list, func(a, b *Package) int { return cmp.Compare(a.Name, b.Name) })
	return list, nil
}

// checkTags refuses tags that no repository has, as apk does.
func (s *solver) checkTags(world []Dep) error {
	if len(s.tags) > maxTags {
		return fmt.Errorf("the repositories have %d tags; at most %d are possible", len(s.tags)-1, maxTags-1)
	}
	var errs []error
	for _, d := range world {
		if _, ok := s.tags[d.Tag]; !ok {
			errs = append(errs, hint.Withf(fmt.Errorf("%s: no repository has the tag %q", d, d.Tag), "give one tag: %s", d.Tag))
		}
	}
	return errors.Join(errs...)
}

// name is something that packages bear, provide or depend on.
type name struct {
	text      string
	offers    []offer // in the order of the repositories, and in them of the index
	dependers []*name // names of packages that depend on this one
	awaiters  []*name // names of packages whose install_if mentions this one

	known   bool // reached from the world
	world   bool // the world itself mentions it
	chain   int  // how many dependencies follow one another below it
	needs   int  // how many want it
	decided bool
	choice  offer // valid when decided; its pkg is nil when nothing has the name

	open      bool // queued to be decided
	changed   bool // queued to be reconsidered
	newDeps   bool // reconsidering must look at dependencies again
	newIf     bool // reconsidering must look at install_if again
	triggered bool // a candidate's install_if is met
	gathered  bool

	// Of one reconsideration: how many candidates in a row need or bear this
	// name, and whether one bears it without a version.
	mergeDepends, mergeProvides int
	mergeVirtual                bool
}

// offer is a candidate for a name.
type offer struct {
	pkg     *candidate
	version string // "" for a name provided without one
}

// candidate is a package and what is known of it so far.
type candidate struct {
	*Package
	own       *name
	depends   []ref
	provides  []ref
	installIf []ref
	sources   []int // which repositories have it

	known     bool
	chain     int
	possible  bool
	conflicts int
	shared    bool   // counted when its name's needs were last merged
	wasShared bool   // counted in the last merge that was spread
	allowed   tagSet // tags it may come from
	favoured  tagSet // tags it should come from
	ifMet     bool
	ifFailed  bool
	gathered  bool
	failed    bool
	ruledOut  *reason // the first one
}

// ref is a dependency with its name looked up.
type ref struct {
	Dep
	to *name
}

// maxTags is how many a tagSet has room for, no tag among them.
const maxTags = 64

// tagSet has a bit for each tag; bit 0 stands for no tag.
type tagSet uint64

type solver struct {
	names   map[string]*name
	tags    map[string]int
	tagOf   []int   // by source
	found   []*name // discovered
	changed []*name
	open    []*name
	failed  bool
}

func newSolver(from []Source) *solver {
	s := &solver{names: map[string]*name{}, tags: map[string]int{"": 0}}
	type key struct{ name, version, identity string }
	seen := map[key]*candidate{}
	for i, src := range from {
		if _, ok := s.tags[src.Tag]; !ok {
			s.tags[src.Tag] = len(s.tags)
		}
		s.tagOf = append(s.tagOf, s.tags[src.Tag])
		for _, p := range src.Index.Packages {
			k := key{p.Name, p.Version, p.Identity}
			if c := seen[k]; c != nil { // the same package in another repository
				c.sources = append(c.sources, i)
				continue
			}
			seen[k] = s.add(p, i)
		}
	}
	return s
}

func (s *solver) name(text string) *name {
	n := s.names[text]
	if n == nil {
		n = &name{text: text}
		s.names[text] = n
	}
	return n
}

func (s *solver) refs(deps []Dep) []ref {
	if len(deps) == 0 {
		return nil
	}
	list := make([]ref, len(deps))
	for i, d := range deps {
		list[i] = ref{d, s.name(d.Name)}
	}
	return list
}

func (s *solver) add(p *Package, source int) *candidate {
	c := &candidate{Package: p, own: s.name(p.Name), sources: []int{source}}
	c.depends, c.provides, c.installIf = s.refs(p.Depends), s.refs(p.Provides), s.refs(p.InstallIf)
	c.own.offers = append(c.own.offers, offer{c, p.Version})
	for _, r := range c.provides {
		r.to.offers = append(r.to.offers, offer{c, r.Version})
	}
	for _, r := range c.depends {
		r.to.dependers = c.addNames(r.to.dependers)
	}
	for _, r := range c.installIf {
		r.to.awaiters = c.addNames(r.to.awaiters)
	}
	return c
}

// addNames adds the names c goes by to a list without doubles.
func (c *candidate) addNames(list []*name) []*name {
	add := func(n *name) {
		if !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	add(c.own)
	for _, r := range c.provides {
		add(r.to)
	}
	return list
}

// meets reports whether an offer satisfies d; the offer of a name that nothing
// has satisfies conflicts only.
func (o offer) meets(d Dep) bool {
	switch {
	case o.pkg == nil:
		return d.Conflict
	case d.Op == "><" || d.Op == "":
		return d.allows(o.version, o.pkg.Identity) != d.Conflict
	case o.version == "":
		return d.Conflict
	}
	return d.allows(o.version, o.pkg.Identity) != d.Conflict
}

// tagged reports whether one of c's repositories goes by one of the tags.
func (s *solver) tagged(c *candidate, tags tagSet) bool {
	for _, i := range c.sources {
		if tags&(1<<s.tagOf[i]) != 0 {
			return true
		}
	}
	return false
}

// discover marks what n depends on, directly or not. On the way it measures
// the chains of dependencies, in circles as far as it knows them when it comes
// by; the order in which names are decided hangs on it.
func (s *solver) discover(n *name) {
	if n.known {
		return
	}
	n.known = true
	s.found = append(s.found, n)
	for _, o := range n.offers {
		c := o.pkg
		if !c.known {
			c.known, c.possible = true, true
			c.allowed, c.favoured = 1, 1
			c.ifFailed = len(c.installIf) == 0
			for _, r := range c.depends {
				s.discover(r.to)
				c.chain = max(c.chain, r.to.chain+1)
			}
		}
		n.chain = max(n.chain, c.chain)
	}
}

// discoverRest marks what can come along with what is discovered: by its
// other names, or by itself.
func (s *solver) discoverRest() {
	for i := 0; i < len(s.found); i++ { // grows on the way
		n := s.found[i]
		for _, o := range n.offers {
			s.discover(o.pkg.own)
			for _, r := range o.pkg.provides {
				s.discover(r.to)
			}
		}
		for _, a := range n.awaiters {
			s.discover(a)
		}
	}
}
