package nodeconfig

import (
	"fmt"
	"strings"
	"testing"

	yaml2 "gopkg.in/yaml.v2"

	"go.yaml.in/yaml/v3"
)

const (
	otherKey = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAwDBAQ== x"
	ecdsaKey = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAECAwQFBgcICQoLDA0ODxAREhMU" +
		"FRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A="
)

// TestKeys takes the lines of authorized_keys that dropbear takes, and no
// others: who has only such a key is locked out (mkj/dropbear#212,
// raspberrypi/rpi-imager#316, #626, #629).
func TestKeys(t *testing.T) {
	for _, line := range []string{
		key, otherKey, ecdsaKey, strings.TrimSuffix(key, " a@b"),
		`command="exec ssh-agent sh" ` + key,
		`no-port-forwarding,command="echo \"a,b\"",no-pty ` + key,
		`no-port-forwarding,command="echo 'a, b'",no-pty ` + key + ` the "desk"`,
		`restrict,permitopen="10.0.0.1:80" ` + key,
		"no-touch-required " + key,
	} {
		if err := checkKey(line); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
	for line, want := range map[string]string{
		key[:60]:                              "damaged or cut off",
		key[:40] + " " + key[40:]:             "damaged or cut off",
		key[:12] + "AAAA":                     "damaged or cut off",
		key + " " + key:                       "two keys on one line",
		"host.example " + key:                 `option "host.example"`,
		strings.Replace(key, " ", "  ", 1):    "exactly one blank between ssh-ed25519 and the key",
		"  " + key:                            "a blank too many",
		"no-pty  " + key:                      "a blank too many",
		strings.Replace(key, " ", "\t", 1):    "contains a tab",
		`from="10.0.0.0/8" ` + key:            "dropbear",
		"no-pty,no-user-rc,restrict " + key:   `option "no-user-rc,restrict"`,
		`expiry-time="20990101" ` + key:       "dropbear",
		"cert-authority " + key:               "dropbear",
		"pty " + key:                          "dropbear",
		`environment="A=b" ` + key:            "dropbear",
		`command="echo \"a, b\"" ` + key:      `a blank between \" and \"`,
		"command=sh " + key:                   "a value in quotes",
		`command="sh ` + key:                  "a quote that is not closed",
		"no-pty, " + key:                      "a comma between them",
		"no-ptyrestrict " + key:               "a comma between them",
		"ssh-ed25519":                         "exactly one blank between ssh-ed25519 and the key",
		"ssh-dss AAAAB3NzaC1kc3M= a":          "want a public key",
		"ssh-ed25519-cert-v01@openssh.com AA": "want a public key",
		"-----BEGIN OPENSSH PRIVATE KEY-----": "private key",
		key + strings.Repeat("x", maxKeyLine): "reads at most 4200",
		"github:anna":                         "which https://github.com/anna.keys lists",
		"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA" + "IAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA you@desk": "placeholder",
	} {
		if err := checkKey(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", shorten(line), err, want)
		}
	}
}

// TestLabels has the kubelet's own rule: it exits, and k3s with it, when it is
// to give itself another label in a namespace of Kubernetes (k3s-io/k3s#10916).
func TestLabels(t *testing.T) {
	for _, key := range []string{
		"room", "a.b_c-D", "openebs.io/engine", "node.kubernetes.io/role", "topology.kubernetes.io/zone",
		"kubelet.kubernetes.io/x", "foo.node.kubernetes.io/x", "kubernetes.io/arch", "mykubernetes.io/x", strings.Repeat("a", 63),
	} {
		if err := CheckLabel(key, "true"); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, key := range []string{
		"node-role.kubernetes.io/worker", "node-role.kubernetes.io/control-plane", "kubernetes.io/role", "k8s.io/x",
		"node-restriction.kubernetes.io/x", "foo.k8s.io/x", "topology.kubernetes.io/rack", "a..b/x", "a.-b/x", "a/b/c", "/x", "x/", "",
		"-x", "x-", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a/x",
	} {
		if CheckLabel(key, "true") == nil {
			t.Errorf("%s is taken", key)
		}
	}
	for _, value := range []string{"a b", "-a", "a/b", strings.Repeat("a", 64)} {
		if CheckLabel("x", value) == nil {
			t.Errorf("the value %s is taken", value)
		}
	}
	if err := CheckLabel("x", ""); err != nil {
		t.Error(err)
	}
}

func TestTaints(t *testing.T) {
	for _, good := range []string{"a=b:NoSchedule", "a:NoExecute", "a=:PreferNoSchedule", "example.com/a=b:NoSchedule",
		"node-role.kubernetes.io/master=true:NoSchedule"} {
		if _, err := checkTaint(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"-x=y:NoSchedule", "a/b/c=d:NoSchedule", strings.Repeat("a", 70) + ":NoSchedule", "a=b:Never", "a",
		":NoSchedule", "a=b c:NoSchedule", "a=b:NoSchedule:x"} {
		if _, err := checkTaint(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	_, err := Parse("n.yaml", []byte("k3s: {role: server, taints: ['a=b:NoSchedule', 'a=c:NoSchedule', 'a=b:NoExecute']}"))
	if err == nil || !strings.Contains(err.Error(), "taints[1]: there is a taint with the same key and effect above") ||
		strings.Contains(err.Error(), "taints[2]") {
		t.Errorf("two taints with one key and effect: %v", err)
	}
}

// TestServerAddresses are those of k3s-io/k3s#1101 and #2168.
func TestServerAddresses(t *testing.T) {
	for _, good := range []string{"https://10.0.0.10:6443", "https://k3s.lan:6443", "https://k3s.lan", "https://[fd00::1]:6443",
		"https://k3s.lan:6443/"} {
		if err := checkServer(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"http://a:6443", "a:6443", "https://:6443", "https://a:", "https://a:99999", "https://a:0", "https://u:pw@a:6443", `https://"10.0.0.1"`,
		"https://a:6443/x", "https://a:6443?x=y", "https://a:6443#x", "https://fd00::1:6443", "https://[10.0.0.1]:6443", "https://a b",
		"https://10.0.0.256:6443",
	} {
		if checkServer(bad) == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if err := checkServer("https://u:S3cret@a:6443"); err == nil || strings.Contains(err.Error(), "S3cret") {
		t.Errorf("an address with a password: %v", err)
	}
}

// TestOptionsAsK3sReadsThem parses what is written with the parser that k3s
// uses, YAML 1.1, and makes text of it, as k3s does for its flags.
func TestOptionsAsK3sReadsThem(t *testing.T) {
	for written, want := range map[string]string{
		"0640": "0640", `"0640"`: "0640", "0o640": "0o640", "0x1F": "0x1F", "1_000": "1_000", "1.10": "1.10", "1e3": "1e3", "10": "10",
		"-1": "-1", "1.5": "1.5",
		"yes": "true", "no": "false", "on": "true", "Off": "false", "true": "true", "False": "false", `"yes"`: "yes", "'no'": "no",
		"10:30": "10:30", "190:20:30": "190:20:30", "2026-01-01": "2026-01-01", "10.42.0.0/16": "10.42.0.0/16",
		"max-pods=30": "max-pods=30", "'~'": "~",
		"123456789012345678901234567890": "123456789012345678901234567890",
	} {
		for _, list := range []bool{false, true} {
			text := "k3s: {role: server, options: {x: " + written + "}}"
			if list {
				text = "k3s: {role: server, options: {x: [" + written + "]}}"
			}
			cfg, err := Parse("n.yaml", []byte(text))
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			// A node reads it again from what the desk encodes, twice.
			for range 2 {
				b, err := cfg.Encode()
				if err != nil {
					t.Fatal(err)
				}
				if cfg, err = Parse("n.yaml", b); err != nil {
					t.Fatal(err)
				}
			}
			b, err := yaml.Marshal(map[string]any(cfg.K3s.Options))
			if err != nil {
				t.Fatal(err)
			}
			var read map[string]any
			if err := yaml2.Unmarshal(b, &read); err != nil {
				t.Fatal(err)
			}
			if l, is := read["x"].([]any); is {
				read["x"] = l[0]
			}
			if got := fmt.Sprint(read["x"]); got != want {
				t.Errorf("%s: k3s reads %q of %s, want %q", text, got, b, want)
			}
		}
	}
}

// TestTargetNames are names that targets have by default: Synology's and
// StarWind's (NetApp/trident#1135). iscsiadm logs in by the name as it is.
func TestTargetNames(t *testing.T) {
	for _, name := range []string{
		"iqn.2000-01.com.synology:NAS.Target-1.0123456789a", "iqn.2008-08.com.starwindsoftware:nas-lun_1",
		"iqn.2005-10.org.freenas.ctl:k3s_vol", "iqn.2026-01.lan", "eui.02004567A425678D",
	} {
		text := "iscsi: {targets: [{name: '" + name + "', portals: [10.0.0.5]}]}\nvolume: {on: iscsi}"
		cfg, err := Parse("n.yaml", []byte(text))
		if err != nil {
			t.Error(err)
			continue
		}
		if got, err := cfg.VolumeTarget(); err != nil || got.Name != name {
			t.Errorf("%s became %s (%v)", name, got.Name, err)
		}
	}
	for _, name := range []string{"iqn.2026-01.lan:", "iqn.2026.lan:a", "iqn.2026-01.lan:a b", "iqn.2026-01.lan:a/b",
		"iqn.2026-01.lan:../x", "IQN.2026-01.lan:a", "lan:a"} {
		if _, err := Parse("n.yaml", []byte("iscsi: {targets: [{name: '"+name+"', portals: [10.0.0.5]}]}")); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestRegistryAuth(t *testing.T) {
	for _, good := range []string{"{username: a, password: b}", "{auth: YTpi}", "{identity_token: t}", "{}"} {
		if _, err := Parse("n.yaml", []byte("registries: {configs: {r: {auth: "+good+"}}}")); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for bad, want := range map[string]string{
		"{token: t}":    "token: there is no such field",
		"{username: a}": "auth.password: missing",
		"{username: a, password: b, identity_token: t}": "only one of them",
		"{auth: YWI=}":  "auth.auth: want base64 of USERNAME:PASSWORD",
		"{auth: 'a:b'}": "auth.auth: want base64 of USERNAME:PASSWORD",
	} {
		if _, err := Parse("n.yaml", []byte("registries: {configs: {r: {auth: "+bad+"}}}")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
