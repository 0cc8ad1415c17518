package apk

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// reason says why a candidate was ruled out: one of its first three fields.
type reason struct {
	against Dep   // something certain that it does not meet
	unmet   Dep   // a dependency of its own that nothing can meet any more
	taken   *name // a name of its that another has
	by      *candidate
}

// explainer tells a failed solution in terms of what a person wrote.
type explainer struct {
	*solver
	parent map[*candidate]*candidate // what first led to a package; nil for the world
	told   map[string]bool
	errs   []error
}

// explain walks from the world through what was chosen and says what does not
// fit, each thing once, with what needed it.
func (s *solver) explain(world []Dep) error {
	e := &explainer{solver: s, parent: map[*candidate]*candidate{}, told: map[string]bool{}}
	var queue []*candidate
	follow := func(by *candidate, n *name, d Dep) {
		c := n.choice.pkg
		if c == nil || d.Conflict {
			return
		}
		if _, seen := e.parent[c]; !seen {
			e.parent[c] = by
			queue = append(queue, c)
		}
	}
	for _, d := range world {
		follow(nil, s.name(d.Name), d)
	}
	for i := 0; i < len(queue); i++ {
		for _, r := range queue[i].depends {
			follow(queue[i], r.to, r.Dep)
		}
	}
	for _, d := range world {
		if n := s.name(d.Name); !n.choice.meets(d) {
			e.tell(nil, e.unmet(n, d, nil))
		}
	}
	for _, c := range queue {
		for _, r := range c.depends {
			if !r.to.choice.meets(r.Dep) {
				e.tell(c, e.unmet(r.to, r.Dep, c))
			}
		}
	}
	if len(e.errs) > 0 {
		return errors.Join(e.errs...)
	}
	for _, c := range queue {
		if c.failed {
			e.tell(e.parent[c], e.failure(c))
		}
	}
	if len(e.errs) == 0 {
		return hint.With(errors.New("these packages cannot be had together"), "leave some out to see which")
	}
	return errors.Join(e.errs...)
}

func (e *explainer) tell(by *candidate, text string) {
	if text != "" && !e.told[text] {
		e.told[text] = true
		e.errs = append(e.errs, errors.New(text+e.chain(by)))
	}
}

// chain says what needed a package, up to the world.
func (e *explainer) chain(c *candidate) string {
	var b strings.Builder
	for range 20 { // deep enough to be understood
		if c == nil {
			break
		}
		b.WriteString(", needed by " + c.Name)
		c = e.parent[c]
	}
	return b.String()
}

// unmet says why nothing meets d.
func (e *explainer) unmet(n *name, d Dep, by *candidate) string {
	got := n.choice.pkg
	if d.Conflict {
		if by == nil {
			return fmt.Sprintf("%s is unwanted, but %s is needed", d.Name, got) + e.chain(e.parent[got])
		}
		return fmt.Sprintf("%s does not go together with %s, which is also needed", by.Name, got) + e.chain(e.parent[got])
	}
	if len(n.offers) == 0 {
		return "no package " + d.String()
	}
	fits := slices.ContainsFunc(n.offers, func(o offer) bool { return o.meets(d) })
	if got != nil && fits {
		return fmt.Sprintf("%s is wanted, but %s was already chosen", d, got)
	}
	var versions, silent, tags []string
	for _, o := range n.offers {
		switch {
		case !o.meets(d):
			versions = appendNew(versions, o.String(n))
		case !o.selfSelects():
			silent = appendNew(silent, o.pkg.Name)
		case !e.tagged(o.pkg, o.pkg.allowed):
			tags = appendNew(tags, e.tagText(o.pkg))
		default:
			if text := e.failure(o.pkg); text != "" {
				return text
			}
		}
	}
	switch {
	case len(tags) > 0:
		return fmt.Sprintf("%s is in tagged repositories only; write %s@%s", d, d.Name, strings.Join(tags, " or @"))
	case len(silent) > 0:
		slices.Sort(silent)
		return fmt.Sprintf("%s can be had from %s; add the one you want to packages", d, strings.Join(silent, " or "))
	case len(versions) > 0:
		return fmt.Sprintf("no version of %s fits; the repositories have %s", d, strings.Join(versions, ", "))
	}
	return fmt.Sprintf("%s cannot be had", d)
}

// String names an offer for n: a version of the package itself, or the
// package that provides it.
func (o offer) String(n *name) string {
	if o.pkg.own == n {
		return o.version
	}
	return o.pkg.String()
}

func (s *solver) tagText(c *candidate) string {
	for text, bit := range s.tags {
		if bit == s.tagOf[c.sources[0]] {
			return text
		}
	}
	return ""
}

// failure says why a package that had to be taken cannot be.
func (e *explainer) failure(c *candidate) string {
	r := c.ruledOut
	switch {
	case !e.tagged(c, c.allowed):
		return fmt.Sprintf("%s is in a tagged repository only; write %s@%s", c, c.Name, e.tagText(c))
	case r == nil:
		return ""
	case r.taken != nil && r.by != nil:
		return fmt.Sprintf("%s and %s are both needed, but only one can provide %s", c, r.by, r.taken.text)
	case r.taken != nil:
		return fmt.Sprintf("%s is not among the packages that can provide %s", c, r.taken.text)
	case r.unmet.Name != "":
		return fmt.Sprintf("%s needs %s, which cannot be had", c, r.unmet) + e.because(r.unmet)
	case r.by == nil && r.against.Conflict:
		return fmt.Sprintf("%s is unwanted (!%s), but needed", c, r.against.Name)
	case r.by == nil:
		return fmt.Sprintf("no version of %s fits; the repositories have %s", r.against, e.versions(r.against))
	case r.against.Conflict:
		return fmt.Sprintf("%s does not go together with %s", r.by, c)
	}
	return fmt.Sprintf("%s does not fit: %s is needed by %s", c, r.against, r.by)
}

// because adds why a dependency cannot be had where that is short to say.
func (e *explainer) because(d Dep) string {
	n := e.names[d.Name]
	switch {
	case d.Conflict && n.choice.pkg != nil:
		return fmt.Sprintf(": %s is needed too", n.choice.pkg) + e.chain(e.parent[n.choice.pkg])
	case d.Conflict:
		return ""
	case len(n.offers) == 0:
		return ": no repository has it"
	}
	return ": the repositories have " + e.versions(d)
}

func (e *explainer) versions(d Dep) string {
	n := e.names[d.Name]
	var list []string
	for _, o := range n.offers {
		list = appendNew(list, o.String(n))
	}
	return strings.Join(list, ", ")
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}
