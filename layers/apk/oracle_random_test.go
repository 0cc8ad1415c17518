//go:build oracle

package apk

import (
	"bytes"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
)

// synthetic is a world over repositories of made-up packages.
type synthetic struct {
	from  []Source
	world []string
}

func (s synthetic) text() string {
	var b bytes.Buffer
	for _, src := range s.from {
		fmt.Fprintf(&b, "-- repository @%s\n", src.Tag)
		for _, p := range src.Index.Packages {
			fmt.Fprintf(&b, "%s %s | %s | %s | %s | %d\n", p.Name, p.Version, joinDeps(p.Depends), joinDeps(p.Provides), joinDeps(p.InstallIf),
				p.ProviderPriority)
		}
	}
	return b.String()
}

func named(list []Dep, name string) bool {
	return slices.ContainsFunc(list, func(d Dep) bool { return d.Name == name })
}

// generator makes random packages of a few names, so that they meet often.
type generator struct {
	*mathrand.Rand
	names, virtuals []string
}

var syntheticVersions = []string{"1", "1.1", "2", "2-r1", "3_rc1", "3"}

func (g *generator) pick(list []string) string { return list[g.IntN(len(list))] }

// constraint returns a version constraint, or "".
func (g *generator) constraint() string {
	if g.IntN(3) > 0 {
		return ""
	}
	if g.IntN(6) == 0 { // apk 3's ~ (docs/platform.md 5.4); 2.14 takes 1 for ~1.1
		return "~" + g.pick([]string{"1", "2", "3"})
	}
	return g.pick([]string{"=", "<", ">", "<=", ">="}) + g.pick(syntheticVersions)
}

func randomIndexes(r *mathrand.Rand) synthetic {
	var s synthetic
	g := &generator{Rand: r}
	g.names = strings.Fields("a b c d e f g h i j k l")[:4+r.IntN(9)]
	g.virtuals = strings.Fields("u v w so:x.so.1 cmd:y /bin/z")[:1+r.IntN(6)]
	tags := []string{"", "", "edge"}
	for i := range 1 + r.IntN(3) {
		src := Source{Index: &Index{Description: "synthetic"}}
		if i > 0 {
			src.Tag = tags[r.IntN(len(tags))]
		}
		have := map[string]bool{}
		for range 3 + r.IntN(3*len(g.names)) {
			p := &Package{Name: g.pick(g.names), Version: g.pick(syntheticVersions), Arch: "x86_64", Size: 1, Installed: 1, Description: "x"}
			if have[p.String()] {
				continue
			}
			have[p.String()] = true
			p.Identity = fmt.Sprintf("Q1%027d=", r.Uint64())
			g.relate(p)
			src.Index.Packages = append(src.Index.Packages, p)
		}
		s.from = append(s.from, src)
	}
	s.world = g.world(s.from[len(s.from)-1].Tag != "")
	return s
}

// relate gives a package its dependencies and what it provides.
func (g *generator) relate(p *Package) {
	for range g.IntN(4) {
		d := Dep{Name: g.pick(g.names)}
		if g.IntN(3) == 0 {
			d.Name = g.pick(g.virtuals)
		}
		text := d.Name + g.constraint()
		if g.IntN(8) == 0 {
			text = "!" + text
		}
		if d, _ = parseDep(text); d.Name != p.Name && !named(p.Depends, d.Name) && !named(p.Provides, d.Name) {
			p.Depends = append(p.Depends, d)
		}
	}
	for range g.IntN(3) {
		d := Dep{Name: g.pick(g.virtuals)}
		if g.IntN(4) == 0 {
			d.Name = g.pick(g.names)
		}
		if g.IntN(2) == 0 {
			d.Op, d.Version = "=", g.pick(syntheticVersions)
		}
		if d.Name != p.Name && !named(p.Provides, d.Name) && !named(p.Depends, d.Name) {
			p.Provides = append(p.Provides, d)
		}
	}
	if g.IntN(4) == 0 {
		for range 1 + g.IntN(2) {
			d, _ := parseDep(g.pick(g.names) + g.constraint())
			if d.Name != p.Name && !named(p.InstallIf, d.Name) {
				p.InstallIf = append(p.InstallIf, d)
			}
		}
	}
	if g.IntN(3) == 0 {
		p.ProviderPriority = 1 + g.IntN(5)
	}
}

// world asks for a few names, one of them from the tagged repository at times.
func (g *generator) world(tagged bool) (world []string) {
	seen := map[string]bool{}
	for range 1 + g.IntN(4) {
		name := g.pick(g.names)
		if g.IntN(4) == 0 {
			name = g.pick(g.virtuals)
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		switch g.IntN(8) {
		case 0:
			world = append(world, "!"+name)
		case 1:
			if tagged {
				name += "@edge"
			}
			world = append(world, name)
		default:
			world = append(world, name+g.constraint())
		}
	}
	return world
}
