package apk

import "slices"

// queueOpen puts n among the names to decide, or takes it out again.
func (s *solver) queueOpen(n *name) {
	if n.decided {
		return
	}
	if want := n.needs > 0 || n.triggered; want && !n.open {
		n.open = true
		s.open = append(s.open, n)
	} else if !want && n.open {
		n.open = false
	}
}

// nextOpen returns the name to decide next. Those that are settled but for
// saying so come first, then those of the world, then those that only packages
// of that very name have, then those with the longest chains of dependencies,
// then the one that waits longest.
func (s *solver) nextOpen() *name {
	live := s.open[:0]
	var best *name
	for _, n := range s.open {
		if !n.open || n.decided {
			continue
		}
		live = append(live, n)
		if best == nil || before(n, best) {
			best = n
		}
	}
	s.open = live
	return best
}

func before(a, b *name) bool {
	if x, y := a.forced(), b.forced(); x != y {
		return x
	}
	if a.world != b.world {
		return a.world
	}
	if x, y := a.foreignness(), b.foreignness(); x != y {
		return x < y
	}
	return a.chain > b.chain
}

// forced says that one candidate is left for a needed name, and that nothing
// undecided depends on it.
func (n *name) forced() bool {
	left := 0
	for _, o := range n.offers {
		if o.pkg.possible {
			left++
		}
	}
	if n.needs == 0 || left != 1 {
		return false
	}
	return !slices.ContainsFunc(n.dependers, func(d *name) bool { return d.known && !d.decided })
}

// foreignness is 0 where only packages of the name itself have it, 2 where
// only others provide it, 1 where both do.
func (n *name) foreignness() int {
	foreign := 0
	for _, o := range n.offers {
		if o.pkg.own != n {
			foreign++
		}
	}
	switch foreign {
	case 0:
		return 0
	case len(n.offers):
		return 2
	}
	return 1
}

// selfSelects reports whether an offer may be chosen for its name without
// anybody asking for the package by its own name.
func (o offer) selfSelects() bool {
	return o.version != "" || o.pkg.ProviderPriority > 0 || o.pkg.own.needs > 0
}

// choose decides n.
func (s *solver) choose(n *name) {
	n.open = false
	var best offer
	for _, o := range n.offers {
		// What only installs itself never breaks a world.
		if n.needs == 0 && !(o.pkg.ifMet && o.pkg.possible && s.tagged(o.pkg, o.pkg.allowed)) {
			continue
		}
		if !o.selfSelects() {
			continue
		}
		if best.pkg == nil || s.better(o, best) > 0 {
			best = o
		}
	}
	if best.pkg == nil {
		s.decide(n, offer{})
		if n.needs > 0 {
			s.failed = true
		}
		return
	}
	c := best.pkg
	if !c.possible || !s.tagged(c, c.allowed) {
		s.fail(c)
	}
	s.decide(c.own, offer{c, c.Version})
	for _, r := range c.provides {
		s.decide(r.to, offer{c, r.Version})
	}
	for _, r := range c.depends {
		s.constrain(c, r.to, r.Dep)
	}
}

func (s *solver) fail(c *candidate) {
	if c != nil && !c.failed {
		c.failed, s.failed = true, true
	}
}

// decide settles who has a name. A name without a version may have several
// owners.
func (s *solver) decide(n *name, o offer) {
	if n.decided {
		if o.version == "" && n.choice.version == "" {
			return
		}
		s.fail(o.pkg)
		s.fail(n.choice.pkg)
		return
	}
	n.decided, n.choice, n.open = true, o, false
	for _, other := range n.offers {
		if other.pkg == o.pkg || o.version == "" && other.version == "" {
			continue
		}
		if other.pkg.possible {
			s.ruleOut(other.pkg, reason{taken: n, by: o.pkg})
		}
	}
	s.dependsAnew(n)
	s.installIfAnew(n)
}

// better compares two candidates of one name as apk does: above zero where a
// is to be preferred.
func (s *solver) better(a, b offer) int {
	for _, r := range []int{
		diff(a.pkg.possible, b.pkg.possible),
		diff(a.pkg.wasShared, b.pkg.wasShared),
		b.pkg.conflicts - a.pkg.conflicts,
		diff(s.tagged(a.pkg, a.pkg.allowed), s.tagged(b.pkg, b.pkg.allowed)),
		diff(s.tagged(a.pkg, a.pkg.favoured), s.tagged(b.pkg, b.pkg.favoured)),
	} {
		if r != 0 {
			return r
		}
	}
	if a.version != "" && b.version != "" {
		if r := Compare(a.version, b.version); r != 0 {
			return r
		}
	}
	if a.pkg.own == b.pkg.own {
		if r := Compare(a.pkg.Version, b.pkg.Version); r != 0 {
			return r
		}
	}
	if r := a.pkg.ProviderPriority - b.pkg.ProviderPriority; r != 0 {
		return r
	}
	return b.pkg.sources[0] - a.pkg.sources[0]
}

func diff(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// gather collects what the world really leads to among the decided names,
// and checks every dependency on the way.
func (s *solver) gather(world []Dep) []*candidate {
	var list []*candidate
	var take func(n *name)
	need := func(by *candidate, n *name, d Dep) {
		if !n.choice.meets(d) {
			s.fail(by)
		}
		take(n)
	}
	take = func(n *name) {
		if n.gathered {
			return
		}
		n.gathered = true
		c := n.choice.pkg
		if c == nil || c.gathered {
			return
		}
		c.gathered = true
		c.own.gathered = true
		for _, r := range c.depends {
			need(c, r.to, r.Dep)
		}
		list = append(list, c)
		s.gatherWaiting(c.own, take)
		for _, r := range c.provides {
			s.gatherWaiting(r.to, take)
		}
	}
	for _, d := range world {
		need(nil, s.name(d.Name), d)
	}
	return list
}

// gatherWaiting takes what installs itself now that n is there.
func (s *solver) gatherWaiting(n *name, take func(*name)) {
next:
	for _, a := range n.awaiters {
		c := a.choice.pkg
		if c == nil || a.gathered {
			continue
		}
		for _, r := range c.installIf {
			if !r.to.choice.meets(r.Dep) {
				continue next
			}
		}
		take(a)
	}
}
