package early

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// node is a service that a runlevel starts.
type node struct {
	name   string
	level  int // index into levels
	script *script
	words  map[string][]string // what its script says of its order, by keyword
	steps  []Step
	before map[*node]bool // those that must be done before it
	left   string         // why it is left to OpenRC; "" where it is not
}

// enabled returns what the runlevels start. An entry that is not a plain link
// to a script, such as another runlevel, is a node that is left.
func (in input) enabled() []*node {
	var nodes []*node
	for level, name := range levels {
		entries, _ := fs.ReadDir(in.root, "etc/runlevels/"+name)
		for _, e := range entries {
			n := in.node(e.Name(), level)
			if to, err := fs.ReadLink(in.root, "etc/runlevels/"+name+"/"+e.Name()); err != nil || to != "/etc/init.d/"+e.Name() {
				n.left = "its entry in the runlevel is not a link to /etc/init.d/" + e.Name()
			}
			nodes = append(nodes, n)
		}
	}
	return nodes
}

func (in input) node(name string, level int) *node {
	n := &node{name: name, level: level, before: map[*node]bool{}}
	text := in.read("etc/init.d/" + name)
	sum := sha256.Sum256([]byte(text))
	n.script = known(name, hex.EncodeToString(sum[:]))
	if i, err := fs.Stat(in.root, "etc/init.d/"+name); err != nil || i.Mode().Perm()&0o111 == 0 {
		n.left = "its script is missing, or not executable"
	}
	n.words = orderWords(text + "\n" + in.read("etc/conf.d/"+name))
	return n
}

// withNeeded adds the services that no runlevel names, but that those which
// can be done need: OpenRC would start them too.
func (in input) withNeeded(nodes []*node) []*node {
	for i := 0; i < len(nodes); i++ {
		n := nodes[i]
		if n.script == nil || n.left != "" {
			continue
		}
		for _, name := range append(slices.Clone(n.words["need"]), n.words["want"]...) {
			if slices.ContainsFunc(nodes, func(o *node) bool { return o.is(name) }) {
				continue
			}
			if in.exists("etc/init.d/" + name) {
				nodes = append(nodes, in.node(name, n.level))
			} else if slices.Contains(n.words["need"], name) {
				n.left = "it needs " + name + ", which no script here is"
			}
		}
	}
	return nodes
}

// orderWord finds dependencies in scripts that are not known as well, written
// any way; too many make services start as they always did.
var orderWord = regexp.MustCompile(`(?m)(?:^|[;{&|])[ \t]*(?:rc_)?(need|use|want|after|before|provide)[ \t="']+([^;}\n]*)`)

// orderWords returns what a script says of its order. A word the shell would
// expand counts as "*".
func orderWords(text string) map[string][]string {
	words := map[string][]string{}
	for _, m := range orderWord.FindAllStringSubmatch(strings.ReplaceAll(text, "\\\n", " "), -1) {
		list, _, _ := strings.Cut(m[2], "#")
		for _, w := range strings.Fields(strings.Trim(list, "\"' ")) {
			if strings.ContainsAny(w, "$`*?[") {
				w = "*"
			}
			words[m[1]] = append(words[m[1]], w)
		}
	}
	return words
}

// is reports whether a word of a dependency means this service.
func (n *node) is(word string) bool {
	return word == n.name || slices.Contains(n.words["provide"], word) || slices.Contains(n.words["provide"], "*")
}

// names reports whether a service names another by one of these keywords.
// everything reports whether "*" counts.
func (n *node) names(other *node, everything bool, keywords ...string) bool {
	for _, k := range keywords {
		for _, w := range n.words[k] {
			if other.is(w) || everything && w == "*" {
				return true
			}
		}
	}
	return false
}

// relate puts all services in relation: by runlevel, and by what their scripts
// say.
func relate(nodes []*node) {
	for _, n := range nodes {
		for _, o := range nodes {
			if n == o || o.level > n.level {
				continue
			}
			if o.level < n.level || n.names(o, false, "need", "use", "want", "after") || o.names(n, false, "before") {
				n.before[o] = true
				continue
			}
			explicit := o.names(n, false, "need", "use", "want", "after") || n.names(o, false, "before")
			if !explicit && (n.names(o, true, "after") || o.names(n, true, "before")) {
				n.before[o] = true
			}
		}
	}
}

// leaveFollowers leaves whatever comes after a service that is left.
func leaveFollowers(nodes []*node) {
	for again := true; again; {
		again = false
		for _, n := range nodes {
			if n.left != "" {
				continue
			}
			for _, o := range nodes {
				if n.before[o] && o.left != "" {
					n.left, again = "it comes after "+o.name+", which is left", true
					break
				}
			}
		}
	}
}

// ordered returns what is done, in an order that keeps all relations.
// Services that wait for each other are left.
func ordered(nodes []*node) []Service {
	var list []Service
	done := map[*node]bool{}
	for again := true; again; {
		again = false
		for _, n := range nodes {
			if n.left != "" || done[n] || !allOf(n.before, done) {
				continue
			}
			s := Service{Name: n.name, Steps: n.steps}
			for o := range n.before {
				s.After = append(s.After, o.name)
			}
			slices.Sort(s.After)
			list, done[n], again = append(list, s), true, true
		}
	}
	for _, n := range nodes {
		if n.left == "" && !done[n] {
			n.left = "it waits for a service that waits for it"
		}
	}
	return list
}

func allOf(want, have map[*node]bool) bool {
	for n := range want {
		if !have[n] {
			return false
		}
	}
	return true
}
