package apk

import (
	"cmp"
	"slices"
)

// InstallOrder returns the packages of a solution in the order in which apk
// installs them for a world: what a package depends on before it, and what
// installs itself (install_if) right behind what it waited for. It depends on
// what the packages say alone, so it is the same with a lock and without.
func InstallOrder(world []Dep, list []*Package) []*Package {
	o := installOrder{owners: map[string]offered{}, awaiters: map[string][]*Package{}, changed: map[string]bool{}, seen: map[*Package]bool{}}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *Package) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range list {
		o.offer(p.Name, offered{p, p.Version})
	}
	for _, p := range list {
		for _, d := range p.Provides {
			o.offer(d.Name, offered{p, d.Version})
		}
		for _, d := range p.InstallIf {
			o.awaiters[d.Name] = append(o.awaiters[d.Name], p)
		}
	}
	world = slices.Clone(world)
	slices.SortStableFunc(world, func(a, b Dep) int { return cmp.Compare(a.Name, b.Name) })
	for _, d := range world {
		o.name(d.Name)
	}
	for _, p := range list { // what nothing leads to, of a list that is no solution
		o.visit(p)
	}
	return o.done
}

// offered is who has a name, and with which version.
type offered struct {
	*Package
	version string
}

type installOrder struct {
	owners   map[string]offered
	awaiters map[string][]*Package // whose install_if mentions the name
	changed  map[string]bool       // names that were come by
	seen     map[*Package]bool
	done     []*Package
}

// offer notes who has a name: the package that bears it, or else the provider
// with the highest priority.
func (o *installOrder) offer(name string, p offered) {
	if old, there := o.owners[name]; !there || old.Name != name && old.ProviderPriority < p.ProviderPriority {
		o.owners[name] = p
	}
}

func (o *installOrder) name(name string) {
	if o.changed[name] {
		return
	}
	o.changed[name] = true
	if p := o.owners[name].Package; p != nil {
		o.visit(p)
	}
}

func (o *installOrder) visit(p *Package) {
	if o.seen[p] {
		return
	}
	o.seen[p], o.changed[p.Name] = true, true
	for _, d := range p.Depends {
		o.name(d.Name)
	}
	o.done = append(o.done, p)
	o.awake(p.Name)
	for _, d := range p.Provides {
		o.awake(d.Name)
	}
}

// awake visits what waited for a name, and for nothing else that is missing.
func (o *installOrder) awake(name string) {
next:
	for _, p := range o.awaiters[name] {
		for _, d := range p.InstallIf {
			owner := o.owners[d.Name]
			if !o.changed[d.Name] || owner.Package == nil || d.allows(owner.version, owner.Identity) == d.Conflict {
				continue next
			}
		}
		o.visit(p)
	}
}
