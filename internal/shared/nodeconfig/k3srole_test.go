package nodeconfig

import (
	"errors"
	"strconv"
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
		asServer + "options: {no-deploy: [traefik]}}": {
			"k3s has had no such option since v1.26; a server skips it; want disable", ""},
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
	for _, word := range strings.Fields(bothOptions + " " + agentOptions + " " + serverOptions) {
		name, since, dated := strings.Cut(word, "@")
		if seen[name] {
			t.Errorf("%s is listed twice", name)
		}
		seen[name] = true
		if n, err := strconv.Atoi(since); dated && (err != nil || n <= firstMinor || n > 37) {
			t.Errorf("%s: want a minor version from %d to 37", word, firstMinor+1)
		}
	}
	for name := range removedOptions {
		if seen[name] {
			t.Errorf("%s, which no k3s has, is listed", name)
		}
	}
	for short, name := range shortOptions {
		if seen[short] || !seen[name] {
			t.Errorf("%s and %s: want the second alone to be listed", short, name)
		}
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

// TestOptionsFitTheRelease: options that came later than the k3s of an image.
func TestOptionsFitTheRelease(t *testing.T) {
	for _, c := range []struct {
		text         string
		minor        int
		warning, err string
	}{
		{asAgent + "options: {nonroot-devices: true, kubelet-arg: [v=2]}}", 34, "", ""},
		{asAgent + "options: {nonroot-devices: true}}", 27, "", "nodes.yaml:1: k3s.options.nonroot-devices: k3s v1.27 of the image does " +
			"not take it, and would not start as an agent; v1.28 is the first that may"},
		{asServer + "options: {etcd-s3-retention: 3}}", 31, "", ""},
		{asServer + "options: {etcd-s3-retention: 3}}", 30, "nodes.yaml:1: k3s.options.etcd-s3-retention: k3s v1.30 of the image does not " +
			"take it, and skips it; v1.31 is the first that may", ""},
		{asServer + "options: {helm-controller-arg+: [a]}}", 32, "k3s.options.helm-controller-arg+: k3s v1.32 of the image", ""},
		{asServer + "options: {of-a-later-release: 1}}", 26, "", ""},
	} {
		warnings, err := load(t, c.text).CheckK3sRelease(c.minor)
		if c.err == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got error %v, want %q", c.text, err, c.err)
		}
		if c.warning == "" != (len(warnings) == 0) || !strings.Contains(strings.Join(warnings, "\n"), c.warning) {
			t.Errorf("%s: got warnings %q, want %q", c.text, warnings, c.warning)
		}
	}
}

// TestEveryMistakeHasItsLine: on the line of the option, in a file of many.
func TestEveryMistakeHasItsLine(t *testing.T) {
	d := load(t, `defaults:
  k3s: {server: 'https://10.0.0.1:6443', token: t}
nodes:
- hostname: attic
  serial: '00000001'
  k3s:
    role: agent
    options:
      kubelet-arg: [v=2]
      flanel-iface: eth0
      tls-san: [a]
      no-flannel: true
      cluster-secret: x
      d: /tmp
      nonroot-devices: true
`)
	_, err := d.CheckK3s()
	_, later := d.CheckK3sRelease(26)
	text := errors.Join(err, later).Error()
	for _, want := range []string{
		"nodes.yaml:10: k3s.options.flanel-iface: k3s has no such option",
		"nodes.yaml:11: k3s.options.tls-san: only servers take it",
		"nodes.yaml:12: k3s.options.no-flannel: k3s has had no such option since v1.26, and would not start as an agent; want flannel-backend:",
		"nodes.yaml:13: k3s.options.cluster-secret: k3s has had no such option since v1.26, and would not start as an agent; want k3s.token",
		"nodes.yaml:14: k3s.options.d: spell it data-dir",
		"nodes.yaml:15: k3s.options.nonroot-devices: k3s v1.26 of the image does not take it",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("got\n%s\nwant %s", text, want)
		}
	}
	if n := strings.Count(text, "nodes.yaml:"); n != 6 {
		t.Errorf("got %d mistakes, want 6:\n%s", n, text)
	}
}

// TestKubeletFlags: a typing error would stop k3s on the node; the line is that
// of the argument.
func TestKubeletFlags(t *testing.T) {
	d := load(t, `k3s:
  role: server
  options:
    kubelet-arg:
    - max-pods=30
    - --fail-swap-on
    - image_gc_high_threshold=80
    - max-pod=30
    - v=2
    kubelet-arg+: eviction-hrad=memory.available<100Mi
`)
	warnings, err := d.CheckK3s()
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0], `nodes.yaml:8: k3s.options.kubelet-arg[3]: no kubelet of v1.26 to `+
		`v1.34 has the flag "max-pod"`) || !strings.Contains(warnings[1], `k3s.options.kubelet-arg+[0]: no kubelet`) {
		t.Errorf("got %v and %q", err, warnings)
	}
	if unknown := unknownKubeletFlags([]any{"feature-gates=X=true", 3, ""}); len(unknown) != 2 {
		t.Errorf("got %v, want two", unknown)
	}
}

// TestK3sMinor reads versions as k3s, Alpine and release pages write them.
func TestK3sMinor(t *testing.T) {
	for text, want := range map[string]int{
		"v1.34.4+k3s1": 34, "1.34.2.1-r6": 34, "1.9.1": 0, "2.34.1": 0, "11.34.1": 0, "": 0, "v1.x": 0, "v1.34": 0,
		"https://github.com/k3s-io/k3s/releases/download/v1.35.0%2Bk3s1/k3s-arm64": 35,
		"https://10.1.30.1/files/v1.36.2+k3s1/k3s-arm64":                           36,
		"/srv/k3s-arm64": 0,
	} {
		if got := K3sMinor(text); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
}
