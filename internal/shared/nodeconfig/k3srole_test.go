package nodeconfig

import (
	"strings"
	"testing"
)

const (
	asAgent  = "k3s: {role: agent, server: 'https://10.0.0.1:6443', token: t, "
	asServer = "k3s: {role: server, "
)

func load(t *testing.T, text string) *Document {
	t.Helper()
	d, err := Load("nodes.yaml", []byte(text), []string{"rpi4"}, false)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOptionsFitTheRole(t *testing.T) {
	for text, c := range map[string]struct{ warning, err string }{
		asAgent + "options: {kubelet-arg: [max-pods=30], kubelet-arg+: [v=2], node-ip: 10.0.0.2, snapshotter: native}}": {"", ""},
		asAgent + "options: {disable-apiserver-lb: true}}":                                                              {"", ""},
		asAgent + "options: {flannel-backend: host-gw}}": {"",
			"nodes.yaml:1: k3s.options.flannel-backend: only servers take it"},
		asAgent + "options: {tls-san+: [a]}}": {"",
			"k3s.options.tls-san+: only servers take it"},
		asAgent + "options: {flanel-iface: eth0}}": {"",
			"k3s.options.flanel-iface: k3s has no such option, and would not start"},
		asAgent + "options: {d: /tmp/x}}": {"",
			"k3s.options.d: spell it data-dir"},
		asServer + "options: {flannel-backend: host-gw, node-ip: 10.0.0.2, etcd-s3: true, secrets-encryption: true}}": {"", ""},
		asServer + "options: {flanel-backend: host-gw}}": {
			"nodes.yaml:1: k3s.options.flanel-backend: k3s has no such option; a server skips it", ""},
		asServer + "options: {disable-apiserver-lb: true}}": {"only agents take it; a server skips it", ""},
		asServer + "options: {t: secret}}": {"",
			"k3s.options.t: spell it token"},
		asServer + "shutdown-grace: 10m}": {"", ""},
		asServer + "shutdown-grace: 10m1s}": {"",
			"k3s.shutdown-grace: 10m1s: want at most 10m0s"},
	} {
		warnings, err := load(t, text).CheckK3s()
		if c.err == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got error %v, want %q", text, err, c.err)
		}
		if c.warning == "" != (len(warnings) == 0) || !strings.Contains(strings.Join(warnings, "\n"), c.warning) {
			t.Errorf("%s: got warnings %q, want %q", text, warnings, c.warning)
		}
	}
}

const clusterOptions = `defaults:
  k3s: {server: 'https://10.0.0.1:6443', token: t, options: {flannel-backend: host-gw, kubelet-arg: [max-pods=30]}}
nodes:
- {hostname: first, serial: '00000001', k3s: {role: server}}
- {hostname: second, serial: '00000002', k3s: {role: agent}}
`

// TestServerOptionsOfDefaults: an inventory's options for servers do not stop
// its agents.
func TestServerOptionsOfDefaults(t *testing.T) {
	d := load(t, clusterOptions)
	if warnings, err := d.CheckK3s(); err != nil || len(warnings) > 0 {
		t.Errorf("got %q, %v, want neither warnings nor an error", warnings, err)
	}
	for serial, want := range map[string]bool{"00000001": true, "00000002": false} {
		m := Machine{Serial: serial}
		desk, err := d.For(m, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		node, err := Over(d, m, "node.yaml", nil, false)
		if err != nil {
			t.Fatal(err)
		}
		for place, cfg := range map[string]*Config{"desk": desk, "node": node} {
			if _, has := cfg.K3s.Options["flannel-backend"]; has != want {
				t.Errorf("%s, %s: has flannel-backend: got %v, want %v", place, serial, has, want)
			}
			if _, has := cfg.K3s.Options["kubelet-arg"]; !has {
				t.Errorf("%s, %s: kubelet-arg is missing", place, serial)
			}
		}
	}
	unlisted := load(t, strings.Replace(clusterOptions, "k3s: {server:", "k3s: {role: agent, server:", 1))
	cfg, err := unlisted.For(Machine{Serial: "00000003", Unlisted: true}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, has := cfg.K3s.Options["flannel-backend"]; has {
		t.Error("a machine without an entry, an agent by defaults: got flannel-backend")
	}
}

// TestServerOptionsOfTheAgentItself: what an agent's own entry asks for is not
// dropped without a word.
func TestServerOptionsOfTheAgentItself(t *testing.T) {
	d := load(t, strings.Replace(clusterOptions, "{role: agent}", "{role: agent, options: {flannel-backend: vxlan}}", 1))
	_, err := d.CheckK3s()
	if err == nil || !strings.Contains(err.Error(), "nodes.yaml:5: k3s.options.flannel-backend: only servers take it") {
		t.Errorf("got %v, want an error with line 5", err)
	}
}

// TestNodeTakesUnknownOptions: a node goes on with the config it has, although
// the desk would refuse it.
func TestNodeTakesUnknownOptions(t *testing.T) {
	text := []byte(asAgent + "shutdown-grace: 1h, options: {flannel-backend: host-gw, of-a-later-release: 1, t: x}}")
	if _, err := Parse("node.yaml", text); err != nil {
		t.Errorf("Parse: %v", err)
	}
	if _, err := Over(nil, Machine{}, "node.yaml", text, false); err != nil {
		t.Errorf("Over: %v", err)
	}
}

func TestOptionListsAreDisjoint(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range strings.Fields(agentOptions + " " + serverOptions) {
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		seen[name] = true
	}
	for _, name := range secretOptions {
		if !seen[name] {
			t.Errorf("%s, which holds a secret, is not listed", name)
		}
	}
	for name := range own {
		if !seen[name] {
			t.Errorf("%s, which another field sets, is not listed", name)
		}
	}
}
