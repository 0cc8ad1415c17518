package importer

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// ansibleVars lays an inventory's variables over the nodes it makes.
type ansibleVars struct {
	p       *playbook
	servers []string
	made    map[string]*nodeconfig.Node
	roles   map[string]string
	vip     string // the address that all servers answer to
	scopes  map[string][]scoped
}

// scoped is a variable, and the hosts that have it.
type scoped struct {
	entry
	hosts []string
}

// apply reads all variables. Those of a host override those of its groups, and these
// those of the group all, as Ansible has it; what is overridden is not noted.
func (v *ansibleVars) apply() {
	v.scopes = map[string][]scoped{}
	var order []string
	add := func(list []entry, hosts []string) {
		for _, e := range list {
			if v.scopes[e.key] == nil {
				order = append(order, e.key)
			}
			v.scopes[e.key] = append(v.scopes[e.key], scoped{e, hosts})
		}
	}
	p := v.p
	add(p.groups["all"].vars, p.order)
	for _, parents := range []bool{true, false} { // groups of groups first
		for _, name := range p.names {
			if g := p.groups[name]; name != "all" && (len(g.children) > 0) == parents {
				add(g.vars, p.members(name, map[string]bool{}))
			}
		}
	}
	for _, name := range p.order {
		add(p.hosts[name].vars, []string{name})
	}
	for _, key := range order {
		list := v.scopes[key]
		last := map[string]int{} // host to the entry that it has
		for i, s := range list {
			for _, h := range s.hosts {
				last[h] = i
			}
		}
		for i, s := range list {
			var nodes []*nodeconfig.Node
			for _, h := range s.hosts {
				if n := v.made[h]; n != nil && last[h] == i {
					nodes = append(nodes, n)
				}
			}
			if len(nodes) > 0 {
				v.variable(s.entry, nodes)
			}
		}
	}
	v.joins()
}

// harmless are variables that steer the playbook itself.
var harmless = map[string]string{
	"ansible_port":                 "~/.ssh/config says how a node is reached",
	"ansible_ssh_private_key_file": "~/.ssh/config says how a node is reached",
	"ansible_ssh_common_args":      "~/.ssh/config says how a node is reached",
	"ansible_connection":           "~/.ssh/config says how a node is reached",
	"ansible_become":               "users[].admin says who is an administrator",
	"ansible_become_method":        "users[].admin says who is an administrator",
	"ansible_python_interpreter":   "nothing runs Python on a node",
	"systemd_dir":                  "nodes have OpenRC",
	"kubeconfig":                   "a file of the desk; a server has /etc/rancher/k3s/k3s.yaml",
	"cluster_context":              "a name in the desk's kubeconfig",
	"user_kubectl":                 "kubectl on a node is root's",
	"api_port":                     "6443 is k3s' own; another one is https-listen-port in k3s.options, and in k3s.server of the others",
	"k3s_server_location":          "a node keeps k3s' data on its volume; volume says where that is",
	"airgap_dir":                   "the overlay k3s takes a release with its images (docs/k3s.md)",
	"extra_manifests":              "files of the desk; bring them with the overlay manifests, or through files",
	"metal_lb_ip_range":            "MetalLB is not part of a node; apply its manifest with this range to the cluster",
	"k3s_master_taint":             "a taint, where a template decides it; k3s.taints of the servers has them",
	"custom_registries":            "registries has what it turns on",
	"cluster_cidr":                 "cluster-cidr of k3s.options of the servers, where it is not k3s' own",
	"retry_count":                  "how often the playbook asks",
	"k3s_node_ip":                  "node-ip of k3s.options, where a node has several addresses",
}

// secrets are variables whose names alone are told.
var accountSecrets = []string{"ansible_password", "ansible_ssh_pass", "ansible_become_password", "ansible_become_pass"}

// variable reads one variable of some nodes.
func (v *ansibleVars) variable(e entry, nodes []*nodeconfig.Node) {
	d := v.p.d
	each := func(role string, f func(*nodeconfig.Node)) {
		for _, n := range nodes {
			if role == "" || n.K3s.Role == role {
				f(n)
			}
		}
	}
	switch e.key {
	case "ansible_user", "ansible_ssh_user":
		if name, ok := e.plain(e.key); ok && name != "" {
			each("", func(n *nodeconfig.Node) { d.user(n, name, d.options.Keys, true, e.at) })
		}
	case "ansible_host", "ansible_ssh_host":
		v.address(e)
	case "token", "k3s_token":
		if e.vault() {
			e.plain("k3s.token")
			return
		}
		each("", func(n *nodeconfig.Node) { d.secret(&n.K3s.Token, "k3s.token", strings.TrimSpace(e.text()), e.at) })
	case "api_endpoint", "apiserver_endpoint", "master_ip":
		v.endpoint(e)
	case "extra_server_args":
		v.args(e, nodes, "server")
	case "extra_agent_args":
		v.args(e, nodes, "agent")
	case "extra_args":
		d.note(e.at, e.key, "counts where extra_server_args and extra_agent_args name it, in a template; put the arguments there")
	case "server_config_yaml":
		each("server", func(n *nodeconfig.Node) { d.configFile(n, e.file, e.text(), e.inner()) })
	case "agent_config_yaml":
		each("agent", func(n *nodeconfig.Node) { d.configFile(n, e.file, e.text(), e.inner()) })
	case "registries_config_yaml", "custom_registries_yaml":
		each("", func(n *nodeconfig.Node) { d.registriesFile(n, e.file, e.text(), e.inner()) })
	case "system_timezone", "timezone":
		v.timezone(e, nodes)
	case "flannel_iface":
		if name, ok := e.plain(e.key); ok {
			each("", func(n *nodeconfig.Node) { d.option(n, "flannel-iface", name, e.at) })
		}
	case "k3s_version":
		d.version(e.key, e.text(), e.at)
	case "extra_service_envs":
		for _, item := range e.items() {
			key, val, _ := strings.Cut(item.text(), "=")
			each("", func(n *nodeconfig.Node) { d.variable(n, strings.TrimSpace(key), val, item.at()) })
		}
	case "extra_install_envs":
		d.note(e.at, e.key, "nothing is installed on a node")
	default:
		v.unknown(e)
	}
}

func (v *ansibleVars) unknown(e entry) {
	d := v.p.d
	switch why := harmless[e.key]; {
	case slices.Contains(accountSecrets, e.key):
		d.note(e.at, e.key, "nodes have no passwords; --ssh-key gives the user a key")
	case why != "":
		d.note(e.at, e.key, why)
	case addon(e.key) != "":
		d.notef(e.at, e.key, "%s is not part of a node; apply its manifest to the cluster", addon(e.key))
	default:
		d.note(e.at, "variable "+e.key, "no part of a node config that pikelet knows of")
	}
}

// addon returns what a variable's name says that it is about, "" for no add-on.
func addon(key string) string {
	for _, a := range [][2]string{
		{"kube_vip_", "kube-vip"}, {"metal_lb_", "MetalLB"}, {"metallb_", "MetalLB"}, {"cilium_", "Cilium"}, {"calico_", "Calico"},
	} {
		if strings.HasPrefix(key, a[0]) {
			return a[1]
		}
	}
	return ""
}

func (v *ansibleVars) address(e entry) {
	text, ok := e.plain(e.key)
	if !ok || text == "" {
		return
	}
	v.p.d.note(e.at, "address "+text, addressWhy)
}

// args reads arguments of k3s for the nodes of a role.
func (v *ansibleVars) args(e entry, nodes []*nodeconfig.Node, role string) {
	if e.vault() || len(e.Content) > 0 {
		e.plain(e.key)
		return
	}
	lines := v.p.d.linesOf(e.file)
	words := e.commandLine(lines)
	for _, n := range nodes {
		if n.K3s.Role == role {
			v.p.d.arguments(n, words)
		}
	}
}

// linesOf returns the lines of a file that was read before.
func (d *draft) linesOf(file string) []string {
	b, err := d.files.read(file)
	if err != nil {
		return nil
	}
	return strings.Split(string(b), "\n")
}

func (v *ansibleVars) timezone(e entry, nodes []*nodeconfig.Node) {
	zone, ok := e.plain(e.key)
	if !ok {
		return
	}
	if zone == "Your/Timezone" {
		v.p.d.note(e.at, e.key, "the sample's placeholder")
		return
	}
	for _, n := range nodes {
		v.p.d.try(n, e.key, e.at, func(c *nodeconfig.Config) { c.Time.Zone = zone })
	}
}

// endpoint reads the address that nodes join by. Where it is none of the servers, it
// is one that kube-vip or a load balancer answers for.
func (v *ansibleVars) endpoint(e entry) {
	text := strings.TrimSpace(e.text())
	switch {
	case v.vip != "":
	case strings.Contains(text, hole):
		v.p.d.note(e.at, e.key, "a template, which is not evaluated; nodes join by the first server, which is what that of the sample stands for")
	case text != "":
		v.vip = text
		if !v.isServer(text) {
			v.p.d.notef(e.at, e.key, "%.60s is the address of no server: kube-vip or a load balancer has to answer for it, and "+
				"neither is part of a node", text)
		}
	}
}

func (v *ansibleVars) isServer(text string) bool {
	return slices.ContainsFunc(v.servers, func(name string) bool { return name == text || v.addressOf(name) == text })
}

// addressOf returns where others reach a machine.
func (v *ansibleVars) addressOf(name string) string {
	for _, key := range []string{"ansible_host", "ansible_ssh_host"} {
		for _, s := range v.scopes[key] {
			if slices.Contains(s.hosts, name) && !strings.Contains(s.text(), hole) && s.text() != "" {
				return strings.TrimSpace(s.text())
			}
		}
	}
	return name
}

// joins says which server each node joins.
func (v *ansibleVars) joins() {
	if len(v.servers) == 0 {
		return
	}
	target := v.vip
	if target == "" {
		target = v.addressOf(v.servers[0])
	}
	if a, err := netip.ParseAddr(target); err == nil && a.Is6() {
		target = "[" + target + "]"
	}
	at := v.p.hosts[v.servers[0]].at
	for _, name := range v.p.order {
		n := v.made[name]
		if n == nil {
			continue
		}
		if name == v.servers[0] {
			if v.vip != "" && !v.isServer(v.vip) {
				v.p.d.option(n, "tls-san", v.vip, at)
			}
			continue
		}
		if v.vip != "" && n.K3s.Role == "server" && !v.isServer(v.vip) {
			v.p.d.option(n, "tls-san", v.vip, at)
		}
		v.p.d.option(n, "server", "https://"+target+":6443", at)
	}
}
