// Package early does, in one process, what the simple services of the
// runlevels sysinit and boot do by shell scripts, and marks them as started
// before OpenRC runs. A process costs a Pi milliseconds, and a script dozens
// of processes.
//
// Only services whose script is known by its digest are done, and only where
// all that the script would read is understood. Everything else, and whatever
// fails, is left unmarked, and OpenRC starts it as if this package did not
// exist. What comes after a service that was left, by runlevel or by the
// scripts' own words, is left as well: nothing changes its order.
//
// New reads and decides, and touches nothing; Plan.Run acts.
package early

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// levels are the runlevels this package knows, in the order OpenRC enters
// them.
var levels = []string{"sysinit", "boot"}

// Service is one service of a plan.
type Service struct {
	Name  string
	After []string // services of the plan that must be done before it
	Steps []Step
}

// Plan is what is done before OpenRC runs.
type Plan struct {
	Services []Service         // in their order
	Left     map[string]string // services OpenRC starts as always, and why
}

// New says what can be done on a machine. Of root it reads /etc, /lib and
// /usr, and what the kernel says in /proc and /sys.
func New(root fs.FS) *Plan {
	in := input{root}
	p := &Plan{Left: map[string]string{}}
	nodes := in.enabled()
	if reason := in.refusal(); reason != "" {
		for _, n := range nodes {
			p.Left[n.name] = reason
		}
		return p
	}
	nodes = in.withNeeded(nodes)
	for _, n := range nodes {
		if n.left == "" {
			n.steps, n.left = in.steps(n)
		}
	}
	relate(nodes)
	leaveFollowers(nodes)
	p.Services = ordered(nodes)
	for _, n := range nodes {
		if n.left != "" {
			p.Left[n.name] = n.left
		}
	}
	return p
}

// String returns the plan as text, for tests and for who looks at a node.
func (p *Plan) String() string {
	var b strings.Builder
	for _, s := range p.Services {
		fmt.Fprintf(&b, "%s:\n", s.Name)
		for _, step := range s.Steps {
			fmt.Fprintf(&b, "\t%s\n", step)
		}
	}
	b.WriteString(leftText(p.Left))
	return b.String()
}

func leftText(left map[string]string) string {
	lines := make([]string, 0, len(left))
	for name, reason := range left {
		lines = append(lines, fmt.Sprintf("%s is left to OpenRC: %s\n", name, reason))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// input is the machine as it is read.
type input struct{ root fs.FS }

// read returns a file, or "" where there is none.
func (in input) read(name string) string {
	b, err := fs.ReadFile(in.root, name)
	if err != nil {
		return ""
	}
	return string(b)
}

func (in input) exists(name string) bool {
	_, err := fs.Stat(in.root, name)
	return err == nil
}

// glob returns the files that patterns of the shell mean, sorted for each.
func (in input) glob(patterns ...string) []string {
	var list []string
	for _, pattern := range patterns {
		names, _ := fs.Glob(in.root, pattern) // the patterns are well-formed
		for _, name := range names {
			if strings.HasPrefix(path.Base(name), ".") {
				continue
			}
			if i, err := fs.Stat(in.root, name); err == nil && i.Mode().IsRegular() {
				list = append(list, name)
			}
		}
	}
	return list
}

// refusal says why nothing at all can be done, or "".
func (in input) refusal() string {
	if !strings.Contains(in.read("etc/inittab"), "/sbin/openrc -n sysinit\n") {
		return "/etc/inittab does not start sysinit with openrc -n, which would stop what is marked"
	}
	if names := in.glob("etc/rc.conf.d/*.conf"); len(names) > 0 {
		return "/" + names[0] + " may change how services start"
	}
	if _, err := settings(in.read("etc/rc.conf"), rcConf); err != nil {
		return "/etc/rc.conf: " + err.Error()
	}
	return ""
}

// steps returns what a service's script would do, or why it is left.
func (in input) steps(n *node) ([]Step, string) {
	if n.script == nil {
		return nil, "its script is not one of those known"
	}
	if names := in.glob("etc/conf.d/" + n.name + ".*"); len(names) > 0 {
		return nil, "/" + names[0] + " is for one runlevel"
	}
	conf, err := settings(in.read("etc/conf.d/"+n.name), n.script.keys)
	if err != nil {
		return nil, "/etc/conf.d/" + n.name + ": " + err.Error()
	}
	steps, err := n.script.plan(in, conf)
	if err != nil {
		return nil, err.Error()
	}
	return steps, ""
}
