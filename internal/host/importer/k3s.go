package importer

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// word is a word of a command line.
type word struct {
	text string
	at   place
}

// switches are the options of k3s that stand alone on its command line
// (k3s-io/k3s, pkg/cli/cmds/agent.go and server.go).
var switches = strings.Fields(`alsologtostderr cluster-init cluster-reset debug disable-agent disable-apiserver disable-apiserver-lb
	disable-cloud-controller disable-controller-manager disable-default-registry-endpoint disable-etcd disable-helm-controller
	disable-kube-proxy disable-network-policy disable-scheduler disable-selinux docker embedded-registry enable-pprof
	etcd-disable-snapshots etcd-expose-metrics etcd-s3 etcd-s3-insecure etcd-s3-skip-ssl-verify etcd-snapshot-compress
	flannel-external-ip flannel-ipv6-masq kine-tls no-flannel prefer-bundled-bin protect-kernel-defaults rootless
	secrets-encryption selinux supervisor-metrics tls-san-security with-node-id`)

// lists are the options of k3s that take several values; of any other the last value
// counts (k3s-io/k3s, pkg/cli/cmds: StringSlice).
var lists = strings.Fields(`airgap-extra-registry cluster-cidr cluster-dns disable etcd-arg helm-controller-arg kube-apiserver-arg
	kube-cloud-controller-arg kube-cloud-controller-manager-arg kube-controller-arg kube-controller-manager-arg kube-proxy-arg
	kube-scheduler-arg kubelet-arg node-external-dns node-external-ip node-internal-dns node-ip service-cidr tls-san`)

// short are k3s' one-letter options.
var short = map[string]string{
	"c": "config", "d": "data-dir", "i": "node-ip", "l": "log", "o": "write-kubeconfig", "s": "server", "t": "token",
}

// elsewhere are options that Pikelet has another place for.
var elsewhere = map[string]string{
	"data-dir":         "a node keeps k3s' data on its volume; volume says where that is",
	"private-registry": "registries has what is in that file",
	"token-file":       "a file of the old machine; put the token into k3s.token with pikelet node encrypt",
	"agent-token-file": "a file of the old machine; put the token into k3s.agent-token with pikelet node encrypt",
	"with-node-id":     "a node keeps its name; hostname says it",
	"config":           "a file of the old machine; its options go into k3s.options",
	"no-flannel":       "k3s has had no such option since v1.26; flannel-backend: none on the servers is in its place",
	"disable-selinux":  "k3s has had no such option since v1.26, and there is no SELinux",
	"cluster-secret":   "k3s has had no such option since v1.26; k3s.token is in its place",
}

// latestMinor is a minor version of k3s that no release has: any option that
// nodeconfig knows will do.
const latestMinor = 999

// roleOf returns the role that the first word of k3s' arguments names, "" for none.
func roleOf(words []word) string {
	for _, w := range words {
		if w.text == "server" || w.text == "agent" {
			return w.text
		}
		if strings.HasPrefix(w.text, "-") {
			return ""
		}
	}
	return ""
}

// arguments reads the arguments of k3s into a node, whose role is known.
func (d *draft) arguments(n *nodeconfig.Node, words []word) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		name, isOption := strings.CutPrefix(w.text, "-")
		name = strings.TrimPrefix(name, "-")
		switch {
		case !isOption && (w.text == "server" || w.text == "agent" || w.text == "k3s" || strings.HasSuffix(w.text, "/k3s")):
			continue
		case !isOption && w.text == hole:
			d.note(w.at, "k3s arguments", "a template, which is not evaluated; put the arguments it stands for into k3s.options")
			continue
		case !isOption || name == "":
			d.notef(w.at, "k3s arguments", "%.60q is no option", strings.ReplaceAll(w.text, hole, "..."))
			continue
		}
		name, val, given := strings.Cut(name, "=")
		if long := short[name]; long != "" {
			name = long
		}
		switch {
		case given:
		case slices.Contains(switches, name):
			val = "true"
			if i+1 < len(words) && (words[i+1].text == "true" || words[i+1].text == "false") {
				i++
				val = words[i].text
			}
		case i+1 < len(words) && !strings.HasPrefix(words[i+1].text, "--"):
			i++
			val = words[i].text
		default:
			d.note(w.at, "--"+name, "has no value")
			continue
		}
		d.option(n, name, val, w.at)
	}
}

// option sets an option of k3s, as k3s itself calls it.
func (d *draft) option(n *nodeconfig.Node, name, val string, at place) {
	what := "k3s option " + name
	if strings.Contains(name, hole) {
		d.note(at, "k3s option", "a template, which is not evaluated; put what it stands for into k3s.options")
		return
	}
	switch name {
	case "token":
		d.secret(&n.K3s.Token, "k3s.token", val, at)
		return
	case "agent-token":
		d.secret(&n.K3s.AgentToken, "k3s.agent-token", val, at)
		return
	case "no-deploy":
		name = "disable"
	}
	if why := elsewhere[name]; why != "" {
		if name == "data-dir" && !strings.Contains(val, hole) {
			d.dataDir = val
		}
		d.note(at, what, why)
		return
	}
	if strings.Contains(val, hole) {
		d.note(at, what, "its value is a template, which is not evaluated; put the value into the inventory")
		return
	}
	switch name {
	case "server":
		d.try(n, what, at, func(c *nodeconfig.Config) {
			if c.K3s.Role, c.K3s.Server = n.K3s.Role, val; c.K3s.Token == "" && c != &n.Config {
				c.K3s.Token = "checked-elsewhere"
			}
		})
	case "node-name":
		d.hostname(n, val, at)
	case "node-label":
		for _, label := range strings.Split(val, ",") {
			d.label(n, label, at)
		}
	case "node-taint":
		for _, taint := range strings.Split(val, ",") {
			d.taint(n, taint, at)
		}
	default:
		d.plainOption(n, name, val, at)
	}
}

func (d *draft) label(n *nodeconfig.Node, label string, at place) {
	key, val, _ := strings.Cut(label, "=")
	if err := nodeconfig.CheckLabel(key, val); err != nil {
		d.notef(at, "label", "%v", err)
		return
	}
	if n.K3s.Labels == nil {
		n.K3s.Labels = map[string]string{}
	}
	n.K3s.Labels[key] = val
}

func (d *draft) taint(n *nodeconfig.Node, taint string, at place) {
	if slices.Contains(n.K3s.Taints, taint) {
		return
	}
	d.try(n, "taint", at, func(c *nodeconfig.Config) {
		c.K3s.Role, c.K3s.Taints = n.K3s.Role, append(slices.Clone(c.K3s.Taints), taint)
		if c != &n.Config {
			c.K3s.Server, c.K3s.Token = "https://server:6443", "checked-elsewhere"
		}
	})
}

// plainOption puts an option into k3s.options: a second value makes a list of it,
// as a second flag does on k3s' command line.
func (d *draft) plainOption(n *nodeconfig.Node, name, val string, at place) {
	what := "k3s option " + name
	role := n.K3s.Role
	switch {
	case !nodeconfig.TakesOption("server", name, latestMinor) && !nodeconfig.TakesOption("agent", name, latestMinor):
		d.note(at, what, "no k3s from v1.26 to v1.37 has it; a newer one's goes into a file below /etc/rancher/k3s/config.yaml.d, through files")
		return
	case role != "" && !nodeconfig.TakesOption(role, name, latestMinor):
		d.notef(at, what, "k3s takes it on no %s", role)
		return
	}
	if isSecret(name) {
		sealed := ""
		if d.secret(&sealed, "k3s.options."+name, val, at); sealed == "" {
			return
		}
		val = sealed
	}
	if n.K3s.Options == nil {
		n.K3s.Options = nodeconfig.Options{}
	}
	var v any = val
	if slices.Contains(switches, name) && (val == "true" || val == "false") {
		v = val == "true"
	}
	if !slices.Contains(lists, name) {
		n.K3s.Options[name] = v
		return
	}
	switch old := n.K3s.Options[name].(type) {
	case nil:
		n.K3s.Options[name] = v
	case []any:
		if !slices.Contains(old, v) {
			n.K3s.Options[name] = append(old, v)
		}
	default:
		if old != v {
			n.K3s.Options[name] = []any{old, v}
		}
	}
}

// isSecret reports whether the value of an option of k3s is secret.
func isSecret(name string) bool {
	c := nodeconfig.Config{K3s: nodeconfig.K3s{Options: nodeconfig.Options{name: "x"}}}
	return len(c.Secrets()) > 0
}

// variables are the options that k3s takes from its environment
// (k3s-io/k3s, pkg/cli/cmds).
var variables = map[string]string{
	"K3S_TOKEN": "token", "K3S_AGENT_TOKEN": "agent-token", "K3S_URL": "server", "K3S_NODE_NAME": "node-name",
	"K3S_DATASTORE_ENDPOINT": "datastore-endpoint", "K3S_KUBECONFIG_MODE": "write-kubeconfig-mode",
	"K3S_KUBECONFIG_OUTPUT": "write-kubeconfig", "K3S_RESOLV_CONF": "resolv-conf", "K3S_TOKEN_FILE": "token-file",
	"K3S_AGENT_TOKEN_FILE": "agent-token-file", "K3S_DATA_DIR": "data-dir", "K3S_CONFIG_FILE": "config",
	"K3S_CLUSTER_SECRET": "cluster-secret", "K3S_CLUSTER_INIT": "cluster-init",
}

// variable reads a variable of k3s' environment, or of its installer's.
func (d *draft) variable(n *nodeconfig.Node, name, val string, at place) {
	option := variables[name]
	switch {
	case option != "":
		d.option(n, option, val, at)
	case name == "INSTALL_K3S_VERSION" || name == "INSTALL_K3S_CHANNEL":
		d.version(name, val, at)
	case strings.HasPrefix(name, "INSTALL_K3S_"):
		d.note(at, name, "k3s is part of the image, and nothing is installed on a node")
	case strings.HasSuffix(strings.ToLower(name), "_proxy"):
		d.note(at, name, "nodes have no proxy setting for k3s; a mirror in registries needs none")
	default:
		d.notef(at, "environment "+name, "a node config sets no variables for k3s")
	}
}

// version tells where the version of k3s is chosen.
func (d *draft) version(what, val string, at place) {
	const where = "the image decides which k3s nodes have: overlays: [k3s], or with its release (docs/k3s.md)"
	if strings.Contains(val, hole) || val == "" || len(val) > 40 {
		d.note(at, what, where)
		return
	}
	d.notef(at, what, "%s; this one is %s", where, val)
}

// configFile reads a config.yaml of k3s, which begins below line base of a file.
func (d *draft) configFile(n *nodeconfig.Node, file string, text string, base int) {
	v, err := d.parse(file, []byte(text), base)
	if err != nil {
		d.notef(place{file, base + 1}, "config.yaml of k3s", "no YAML as it stands: %v", err)
		return
	}
	if v.Kind != yaml.MappingNode && v.Tag != "!!null" {
		d.note(v.at(), "config.yaml of k3s", "no options")
		return
	}
	for _, e := range v.entries() {
		name := strings.TrimSuffix(e.key, "+")
		if long := short[name]; long != "" {
			name = long
		}
		if d.overrides && !strings.HasSuffix(e.key, "+") {
			delete(n.K3s.Options, name)
		}
		if e.Kind == yaml.MappingNode {
			d.note(e.at, "k3s option "+name, "not a single value or a list of them")
		}
		for _, item := range e.items() {
			if item.Kind != yaml.ScalarNode {
				d.note(item.at(), "k3s option "+name, "not a single value or a list of them")
				continue
			}
			d.option(n, name, truth(name, item), item.at())
		}
	}
}

// truth returns an option's value as k3s reads it: its files are YAML 1.1, where
// yes and on are true.
func truth(name string, v value) string {
	text := strings.TrimSpace(v.text())
	if !slices.Contains(switches, name) || v.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		return text
	}
	switch strings.ToLower(text) {
	case "y", "yes", "on":
		return "true"
	case "n", "no", "off":
		return "false"
	}
	return strings.ToLower(text)
}

// registriesFile reads a registries.yaml of k3s, which begins below line base of a
// file.
func (d *draft) registriesFile(n *nodeconfig.Node, file, text string, base int) {
	v, err := d.parse(file, []byte(text), base)
	if err != nil {
		d.notef(place{file, base + 1}, "registries.yaml", "no YAML as it stands: %v", err)
		return
	}
	for _, e := range v.entries() {
		switch e.key {
		case "mirrors":
			for _, m := range e.entries() {
				d.mirror(n, m)
			}
		case "configs":
			for _, c := range e.entries() {
				d.registry(n, c)
			}
		default:
			d.note(e.at, "registries.yaml: "+e.key, "k3s has no such field there")
		}
	}
}

func (d *draft) mirror(n *nodeconfig.Node, e entry) {
	var m nodeconfig.Mirror
	for _, f := range e.entries() {
		switch f.key {
		case "endpoint", "endpoints":
			m.Endpoint = f.texts("mirror " + e.key)
		case "rewrite":
			m.Rewrite = map[string]string{}
			for _, r := range f.entries() {
				if to, ok := r.plain("rewrite of " + e.key); ok {
					m.Rewrite[r.key] = to
				}
			}
		default:
			d.note(f.at, "mirror "+e.key+": "+f.key, "k3s has no such field there")
		}
	}
	d.try(n, "mirror "+e.key, e.at, func(c *nodeconfig.Config) {
		if c.Registries.Mirrors == nil {
			c.Registries.Mirrors = map[string]nodeconfig.Mirror{}
		}
		c.Registries.Mirrors[e.key] = m
	})
}

func (d *draft) registry(n *nodeconfig.Node, e entry) {
	var r nodeconfig.Registry
	field := fmt.Sprintf("registries.configs.%s.auth.", e.key)
	for _, part := range e.entries() {
		for _, f := range part.entries() {
			val := strings.TrimSpace(f.text())
			switch part.key + "." + f.key {
			case "auth.username":
				r.Auth.Username, _ = f.plain(field + "username")
			case "auth.password":
				d.secret(&r.Auth.Password, field+"password", val, f.at)
			case "auth.auth":
				d.secret(&r.Auth.Auth, field+"auth", val, f.at)
			case "auth.identity_token":
				d.secret(&r.Auth.IdentityToken, field+"identity_token", val, f.at)
			case "tls.insecure_skip_verify":
				r.TLS.InsecureSkipVerify = val == "true"
			case "tls.ca_file", "tls.cert_file", "tls.key_file":
				to := map[string]*string{"ca_file": &r.TLS.CAFile, "cert_file": &r.TLS.CertFile, "key_file": &r.TLS.KeyFile}[f.key]
				*to, _ = f.plain(f.key)
				d.note(f.at, "registry "+e.key+": "+f.key, "the path is kept, the file is not; bring it through files")
			default:
				d.note(f.at, "registry "+e.key+": "+part.key+"."+f.key, "k3s has no such field there")
			}
		}
	}
	if n.Registries.Configs == nil {
		n.Registries.Configs = map[string]nodeconfig.Registry{}
	}
	n.Registries.Configs[e.key] = r
}
