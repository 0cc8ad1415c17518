package importer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// The groups that inventories for k3s have, of both generations of k3s-io/k3s-ansible,
// of techno-tim/k3s-ansible, and of their forks.
var (
	serverGroups = []string{"server", "servers", "master", "masters", "multiserver", "additional_master", "k3s_server", "k3s_servers",
		"k3s_master", "k3s_masters", "k3s_control", "control", "controlplane", "control_plane", "control_nodes", "k3s_control_node"}
	agentGroups = []string{"agent", "agents", "node", "nodes", "worker", "workers", "k3s_agent", "k3s_agents", "k3s_node", "k3s_nodes",
		"k3s_worker", "k3s_workers", "worker_nodes"}
)

// host is a machine of an Ansible inventory.
type host struct {
	name string
	at   place
	vars []entry
}

// hostGroup is a group of an Ansible inventory.
type hostGroup struct {
	name     string
	at       place
	hosts    []string
	children []string
	vars     []entry
}

// playbook is an Ansible inventory, with the variables beside it.
type playbook struct {
	d      *draft
	hosts  map[string]*host
	order  []string // of hosts
	groups map[string]*hostGroup
	names  []string // of groups, in order
}

func (p *playbook) group(name string, at place) *hostGroup {
	g := p.groups[name]
	if g == nil {
		g = &hostGroup{name: name, at: at}
		p.groups[name] = g
		p.names = append(p.names, name)
	}
	return g
}

func (p *playbook) host(g *hostGroup, name string, at place) *host {
	h := p.hosts[name]
	if h == nil {
		if len(p.hosts) >= maxNodes {
			p.d.fail(fmt.Errorf("%w: more than %d machines", ErrTooLarge, maxNodes))
			return &host{}
		}
		h = &host{name: name, at: at}
		p.hosts[name] = h
		p.order = append(p.order, name)
	}
	if !slices.Contains(g.hosts, name) {
		g.hosts = append(g.hosts, name)
	}
	return h
}

// ansible reads an inventory for one of the k3s-ansible playbooks.
func (d *draft) ansible(name string) error {
	b, err := d.files.read(name)
	if err != nil {
		return err
	}
	p := &playbook{d: d, hosts: map[string]*host{}, groups: map[string]*hostGroup{}}
	if isINI(name, b) {
		p.readINI(name, b)
	} else {
		err = p.readYAML(name, b)
	}
	if err != nil {
		return err
	}
	if err := p.readVariables(path.Dir(name)); err != nil {
		return err
	}
	p.build()
	return nil
}

// isINI reports whether an inventory is of Ansible's older form.
func isINI(name string, b []byte) bool {
	switch path.Ext(name) {
	case ".yml", ".yaml":
		return false
	case ".ini":
		return true
	}
	for _, line := range bytes.Split(b, []byte("\n")) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && line[0] != ';' {
			return line[0] == '[' || !bytes.HasSuffix(line, []byte(":")) && !bytes.HasPrefix(line, []byte("---"))
		}
	}
	return true
}

func (p *playbook) readYAML(name string, b []byte) error {
	v, err := p.d.parse(name, b, 0)
	if err != nil {
		return err
	}
	for _, e := range v.entries() {
		p.yamlGroup(e)
	}
	return nil
}

func (p *playbook) yamlGroup(e entry) {
	g := p.group(e.key, e.at)
	for _, f := range e.entries() {
		switch f.key {
		case "hosts":
			for _, h := range f.entries() {
				for _, name := range p.expand(h.key, h.at) {
					found := p.host(g, name, h.at)
					found.vars = append(found.vars, h.entries()...)
				}
			}
		case "children":
			for _, c := range f.entries() {
				g.children = append(g.children, c.key)
				p.yamlGroup(c)
			}
		case "vars":
			g.vars = append(g.vars, f.entries()...)
		default:
			p.d.note(f.at, f.key, "a group has hosts, children and vars")
		}
	}
}

// readINI reads Ansible's older form of inventories.
func (p *playbook) readINI(name string, b []byte) {
	g, kind := p.group("ungrouped", place{name, 1}), ""
	for i, line := range strings.Split(string(b), "\n") {
		at := place{name, i + 1}
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if section, is := strings.CutPrefix(line, "["); is {
			section, _, _ = strings.Cut(section, "]")
			section, kind, _ = strings.Cut(section, ":")
			g = p.group(strings.TrimSpace(section), at)
			continue
		}
		switch kind {
		case "children":
			g.children = append(g.children, strings.Fields(line)[0])
		case "vars":
			key, val, ok := strings.Cut(line, "=")
			if !ok {
				p.d.notef(at, "vars of "+g.name, "no variable and value with = between them")
				continue
			}
			g.vars = append(g.vars, p.variable(strings.TrimSpace(key), strings.TrimSpace(val), at))
		default:
			p.iniHost(g, line, at)
		}
	}
}

func (p *playbook) iniHost(g *hostGroup, line string, at place) {
	if i := strings.Index(line, " #"); i >= 0 {
		line = line[:i]
	}
	words := splitWords(holes(line), func(int) place { return at })
	if len(words) == 0 {
		return
	}
	for _, name := range p.expand(words[0].text, at) {
		h := p.host(g, name, at)
		for _, w := range words[1:] {
			key, val, ok := strings.Cut(w.text, "=")
			if !ok {
				p.d.notef(at, "host "+name, "%.40q is no variable with its value", strings.ReplaceAll(w.text, hole, "..."))
				continue
			}
			h.vars = append(h.vars, p.variable(key, val, at))
		}
	}
}

// variable makes what a YAML file would have of a variable of the older form.
func (p *playbook) variable(key, val string, at place) entry {
	if len(val) > 1 && (val[0] == '"' || val[0] == '\'') && val[len(val)-1] == val[0] {
		val = val[1 : len(val)-1]
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: strings.ReplaceAll(val, hole, "{{ }}"), Line: at.line}
	return entry{key, at, value{Node: n, d: p.d, file: at.file}}
}

// expand returns the machines that a range stands for, such as 10.0.0.[11:13].
func (p *playbook) expand(pattern string, at place) []string {
	before, rest, ranged := strings.Cut(pattern, "[")
	bounds, after, closed := strings.Cut(rest, "]")
	lowText, highText, pair := strings.Cut(bounds, ":")
	if !ranged || !closed || !pair {
		if strings.Contains(pattern, ":") && !strings.Contains(pattern, "::") { // with a port
			pattern, _, _ = strings.Cut(pattern, ":")
			p.d.note(at, "host "+pattern, "its SSH port is not carried: ~/.ssh/config says how a node is reached")
		}
		return []string{pattern}
	}
	low, high := -1, -1
	if n, err := fmt.Sscanf(lowText+" "+highText, "%d %d", &low, &high); err != nil || n != 2 || low < 0 || high < low ||
		high-low >= maxNodes {
		p.d.notef(at, "host "+pattern, "no range of numbers with at most %d of them; write its machines one by one", maxNodes)
		return nil
	}
	var list []string
	for i := low; i <= high; i++ {
		list = append(list, fmt.Sprintf("%s%0*d%s", before, len(lowText), i, after))
	}
	return list
}

// readVariables reads group_vars and host_vars beside the inventory.
func (p *playbook) readVariables(dir string) error {
	for _, name := range append([]string{"all"}, p.names...) {
		if name == "all" {
			p.group("all", place{})
		}
		err := p.variableFiles(path.Join(dir, "group_vars", name), func(list []entry) {
			p.groups[name].vars = append(p.groups[name].vars, list...)
		})
		if err != nil {
			return err
		}
	}
	for _, name := range p.order {
		if !fs.ValidPath(path.Join(dir, "host_vars", name)) {
			continue
		}
		err := p.variableFiles(path.Join(dir, "host_vars", name), func(list []entry) { p.hosts[name].vars = append(p.hosts[name].vars, list...) })
		if err != nil {
			return err
		}
	}
	return nil
}

// variableFiles reads NAME.yml, NAME.yaml, NAME, or all files in a directory NAME.
func (p *playbook) variableFiles(base string, add func([]entry)) error {
	names := []string{base, base + ".yml", base + ".yaml"}
	if list, err := fs.ReadDir(p.d.files.fsys, base); err == nil {
		names = names[1:]
		for _, e := range list {
			if ext := path.Ext(e.Name()); !e.IsDir() && (ext == ".yml" || ext == ".yaml") {
				names = append(names, path.Join(base, e.Name()))
			}
		}
	}
	for _, name := range names {
		if st, err := fs.Stat(p.d.files.fsys, name); err != nil || st.IsDir() {
			continue
		}
		b, err := p.d.files.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if strings.HasPrefix(string(b), "$ANSIBLE_VAULT") {
			p.d.note(place{name, 1}, "the file", "encrypted by ansible-vault, and not read; ansible-vault decrypt a copy of it, and import again")
			continue
		}
		v, err := p.d.parse(name, b, 0)
		if err != nil {
			return err
		}
		add(v.entries())
	}
	return nil
}

// members returns the hosts of a group and of its children.
func (p *playbook) members(name string, seen map[string]bool) (list []string) {
	g := p.groups[name]
	if g == nil || seen[name] {
		return nil
	}
	seen[name] = true
	list = append(list, g.hosts...)
	for _, c := range g.children {
		list = append(list, p.members(c, seen)...)
	}
	return list
}

// build makes nodes of all machines that are in one of the groups for k3s.
func (p *playbook) build() {
	roles := map[string]string{}
	for role, groups := range map[string][]string{"server": serverGroups, "agent": agentGroups} {
		for _, group := range groups {
			for _, name := range p.members(group, map[string]bool{}) {
				if roles[name] != "server" {
					roles[name] = role
				}
			}
		}
	}
	var servers, agents []string
	for _, name := range p.order {
		switch h := p.hosts[name]; roles[name] {
		case "server":
			servers = append(servers, name)
		case "agent":
			agents = append(agents, name)
		default:
			p.d.note(h.at, "host "+name, "in no group of k3s servers or agents; add it to nodes by hand if it is to be one")
		}
	}
	if len(servers)+len(agents) == 0 && len(p.order) > 0 {
		p.d.fail(hint.With(fmt.Errorf("%w in a group of k3s servers or agents; its groups are %s", ErrNothing, strings.Join(p.names, ", ")),
			"call the groups server and agent, as k3s-io/k3s-ansible does"))
	}
	used := map[string]bool{}
	made := map[string]*nodeconfig.Node{}
	for i, name := range append(slices.Clone(servers), agents...) {
		n := p.d.node()
		made[name] = n
		n.K3s.Role = roles[name]
		p.name(n, p.hosts[name], used)
		if n.K3s.Role == "server" && i == 0 && len(servers) > 1 {
			n.K3s.Options = nodeconfig.Options{"cluster-init": true}
		}
	}
	v := &ansibleVars{p: p, servers: servers, made: made, roles: roles}
	v.apply()
}

// name gives a node its hostname, and notes where Ansible reached it.
func (p *playbook) name(n *nodeconfig.Node, h *host, used map[string]bool) {
	text := h.name
	p.d.hostname(n, text, h.at)
	if used[n.Hostname] && n.Hostname != "" {
		for i := 2; ; i++ {
			if next := fmt.Sprintf("%s-%d", n.Hostname, i); !used[next] {
				p.d.notef(h.at, "hostname", "another machine is %s already; this one became %s", n.Hostname, next)
				n.Hostname = next
				break
			}
		}
	}
	if n.Hostname == "" {
		n.Hostname = fmt.Sprintf("node-%d", len(used)+1)
		p.d.notef(h.at, "hostname", "none to be made of the inventory's; it became %s", n.Hostname)
	}
	used[n.Hostname] = true
	if _, err := netip.ParseAddr(h.name); err == nil {
		p.d.note(h.at, "address "+h.name, addressWhy)
	}
}

const addressWhy = "an inventory of Ansible has no prefix and no router; reserve the address with your DHCP server, or write it into " +
	"network.interfaces"
