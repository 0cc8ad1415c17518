package apk

// queueChanged has n looked at again before the next choice.
func (s *solver) queueChanged(n *name) {
	if n.changed || n.decided || n.needs == 0 && !n.newIf {
		return
	}
	n.changed = true
	s.changed = append(s.changed, n)
}

func (s *solver) nextChanged() *name {
	for len(s.changed) > 0 {
		n := s.changed[0]
		s.changed = s.changed[1:]
		n.changed = false
		if !n.decided {
			return n
		}
	}
	return nil
}

// dependsAnew has everything that depends on n check whether it still can be.
func (s *solver) dependsAnew(n *name) {
	for _, d := range n.dependers {
		if d.known {
			d.newDeps = true
			s.queueChanged(d)
		}
	}
}

// installIfAnew has everything that waits for n check whether it is time.
func (s *solver) installIfAnew(n *name) {
	for _, a := range n.awaiters {
		if a.known {
			a.newIf = true
			s.queueChanged(a)
		}
	}
}

// ruleOut says that c cannot be part of the result.
func (s *solver) ruleOut(c *candidate, why reason) {
	c.possible = false
	if c.ruledOut == nil {
		c.ruledOut = &why
	}
	s.dependsAnew(c.own)
	s.installIfAnew(c.own)
	for _, r := range c.provides {
		s.dependsAnew(r.to)
		s.installIfAnew(r.to)
	}
}

// satisfiable reports whether d can still be met.
func (n *name) satisfiable(d Dep) bool {
	if n.decided {
		return n.choice.meets(d)
	}
	if n.needs == 0 && d.Conflict {
		return true
	}
	for _, o := range n.offers {
		if o.pkg.possible && o.meets(d) {
			return true
		}
	}
	return false
}

// constrain applies a dependency that certainly holds: of the world where by
// is nil, of a package otherwise.
func (s *solver) constrain(by *candidate, n *name, d Dep) {
	if !d.Conflict {
		n.needs++
		if n.needs == 1 {
			s.needed(n)
		}
	}
	for _, o := range n.offers {
		if o.meets(d) {
			s.inherit(o.pkg, by, d.Tag)
			continue
		}
		o.pkg.conflicts++
		if o.pkg.possible {
			s.ruleOut(o.pkg, reason{against: d, by: by})
		}
	}
}

// needed says that n is wanted for the first time.
func (s *solver) needed(n *name) {
	s.queueOpen(n)
	s.installIfAnew(n)
	s.queueChanged(n)
}

// inherit hands the tags that may be used down from what depends on c.
func (s *solver) inherit(c, by *candidate, tag string) {
	if by != nil {
		c.allowed |= by.allowed
		return
	}
	bit, ok := s.tags[tag]
	if !ok {
		return
	}
	c.allowed |= 1 << bit
	c.favoured = 1 << bit
}

// reconsider looks at the candidates of n again: those that cannot be any
// more are ruled out, and what all that remain have in common holds.
func (s *solver) reconsider(n *name) {
	newDeps, newIf := n.newDeps, n.newIf
	n.newDeps, n.newIf = false, false
	n.triggered = false
	var group []*candidate
	for _, o := range n.offers {
		c := o.pkg
		c.shared = false
		if newDeps && c.possible {
			s.checkDepends(c)
		}
		if !c.possible {
			continue
		}
		if newIf {
			s.checkInstallIf(c)
		}
		n.triggered = n.triggered || c.ifMet
		if n.needs == 0 {
			continue
		}
		c.shared = true
		k := len(group)
		for _, r := range c.depends {
			if !r.Conflict && r.to.mergeDepends == k {
				r.to.mergeDepends = k + 1
			}
		}
		mergeProvided(c.own, k, o.version)
		for _, r := range c.provides {
			mergeProvided(r.to, k, r.Version)
		}
		group = append(group, c)
	}
	s.spread(n, group)
	s.queueOpen(n)
}

func mergeProvided(n *name, k int, version string) {
	if n.mergeProvides == k {
		n.mergeProvides = k + 1
		n.mergeVirtual = n.mergeVirtual || version == ""
	}
}

func (s *solver) checkDepends(c *candidate) {
	for _, r := range c.depends {
		if !r.to.satisfiable(r.Dep) {
			s.ruleOut(c, reason{unmet: r.Dep, by: c})
			return
		}
	}
}

func (s *solver) checkInstallIf(c *candidate) {
	if !c.ifMet && !c.ifFailed {
		c.ifMet = true
		for _, r := range c.installIf {
			if !r.to.decided {
				c.ifMet = false
				break
			}
			if !r.to.choice.meets(r.Dep) {
				c.ifMet, c.ifFailed = false, true
				break
			}
		}
	}
	if c.ifMet {
		for _, r := range c.installIf {
			if r.to.choice.pkg != nil {
				s.inherit(c, r.to.choice.pkg, "")
			}
		}
	}
}

// spread applies what the remaining candidates of n have in common.
func (s *solver) spread(n *name, group []*candidate) {
	if len(group) == 0 {
		return
	}
	first, k := group[0], len(group)
	for _, o := range n.offers {
		o.pkg.wasShared = o.pkg.shared
	}
	for _, r := range first.depends {
		common := r.to.mergeDepends == k
		r.to.mergeDepends = 0
		switch {
		case !common:
		case k == 1:
			s.constrain(first, r.to, r.Dep)
		case r.to.needs == 0:
			r.to.needs++
			s.needed(r.to)
			for _, o := range r.to.offers {
				s.inherit(o.pkg, first, "")
			}
		}
	}
	for _, c := range group[1:] {
		for _, r := range c.depends {
			r.to.mergeDepends = 0
		}
	}
	if first.own.mergeProvides == k {
		s.onlyProvidersOf(first.own, n)
	}
	for _, r := range first.provides {
		if r.to.mergeProvides == k {
			s.onlyProvidersOf(r.to, n)
		}
	}
	for _, c := range group {
		c.own.mergeProvides, c.own.mergeVirtual = 0, false
		for _, r := range c.provides {
			r.to.mergeProvides, r.to.mergeVirtual = 0, false
		}
	}
}

// onlyProvidersOf rules out what has the name common but not n: every
// candidate for n has both, so common's holder must be one of them.
func (s *solver) onlyProvidersOf(common, n *name) {
	if common == n {
		return
	}
	virtual := common.mergeVirtual
next:
	for _, o := range common.offers {
		c := o.pkg
		if c.own == n || !c.possible || virtual && o.version == "" {
			continue
		}
		for _, r := range c.provides {
			if r.to == n || virtual && r.Version == "" && (true) {
				continue next
			}
		}
		s.ruleOut(c, reason{taken: common})
	}
}
