package nodeconfig

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAybm0CJp03lfWCx6KDH+bSOjkyF0vEOKCcIp0ekn+0K a@b"

// TestZonesAreInterfaces: an address may say on which interface it is.
func TestZonesAreInterfaces(t *testing.T) {
	text := "network: {dns: ['fe80::1%eth0']}\ntime: {servers: ['fe80::1%wlan0', 10.0.0.1, pool.example]}\n" +
		"iscsi: {targets: [{name: 'iqn.2026-01.lan:a', portals: ['fe80::1%eth0', '[fe80::2%eth0]:860']}]}\n"
	if _, err := Parse("n.yaml", []byte(text)); err != nil {
		t.Error(err)
	}
}

// TestErrorsQuoteNoSecret: a secret that is written without quotes, or stands
// in the wrong place, is in no error: they go to consoles and to report.txt.
func TestErrorsQuoteNoSecret(t *testing.T) {
	const secret = "S3cretToken"
	inventory, err := Load("i.yaml", []byte("nodes: [{board: vm}]"), []string{"vm"}, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		"k3s: {token: *" + secret + "}",
		"k3s: {token: !" + secret + "}",
		"volume: {lun: !" + secret + "}",
		"volume: {lun: !!int " + secret + "}",
		"volume: {lun: " + secret + "}",
		"users: " + secret,
		"users: [" + secret + "]",
		"users: [[" + secret + "]]",
		"k3s: {options: {a: &" + secret + " [*" + secret + "]}}",
		"k3s: {options: {? [" + secret + "] : x}}",
		"seed: !!binary '" + secret + "!'",
		"k3s: {token: @" + secret + "}",
		"k3s: {token: %" + secret + "}",
		"k3s: {token: '" + secret,
		"k3s: {token: [" + secret + ", b]}",
	} {
		for _, lenient := range []bool{false, true} {
			if _, err := Over(inventory, Machine{Board: "vm"}, "node.yaml", []byte(text), lenient); err == nil && !lenient {
				t.Errorf("%s: no error", text)
			} else if err != nil && strings.Contains(err.Error(), "S3") {
				t.Errorf("%s, lenient %v: %v", text, lenient, err)
			}
		}
		if _, err := Load("i.yaml", []byte("nodes:\n- {hostname: a, "+text+"}"), []string{"vm"}, true); err != nil &&
			strings.Contains(err.Error(), "S3") {
			t.Errorf("in an inventory, %s: %v", text, err)
		}
	}
}

const lab = `cluster-secret: 0123456789abcdef0123456789abcdef
defaults:
  console: root
  users: [{name: anna, keys: ['` + key + `']}]
  k3s: {role: agent, server: 'https://10.0.0.1:6443', token: t, labels: {site: lab}}
nodes:
- hostname: one
  serial: 100000000000abcd
  k3s: {role: server, server: "", labels: {disk: fast}}
- hostname: two
  mac: dc:a6:32:01:02:03
  users: [{name: eve, keys: ['` + key + `']}]
- board: rpi4
`

func TestFindAndMerge(t *testing.T) {
	d, err := Load("lab.yaml", []byte(lab), []string{"rpi4"}, false)
	if err != nil {
		t.Fatal(err)
	}
	same := func(s string) (string, error) { return s, nil }
	for _, c := range []struct {
		m    Machine
		want string
	}{
		{Machine{Serial: "100000000000abcd", MAC: "dc:a6:32:01:02:03", Board: "rpi4"}, "one"},
		{Machine{Serial: "1000000000000001", MAC: "dc:a6:32:01:02:03", Board: "rpi4"}, "two"},
		{Machine{Serial: "1000000000000001", Board: "rpi4"}, ""},
		{Machine{Name: "two"}, "two"},
	} {
		cfg, err := d.For(c.m, "lab-1", same)
		if err != nil || cfg.Hostname != c.want || len(cfg.Seed) != 64 {
			t.Errorf("%+v: %q, seed of %d (%v), want %q", c.m, cfg.Hostname, len(cfg.Seed), err, c.want)
		}
	}
	if _, err := d.For(Machine{Serial: "1"}, "x", same); err == nil || !strings.Contains(err.Error(), "no node of it fits") {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := d.For(Machine{Name: "three"}, "x", same); err == nil || err.Error() != `lab.yaml: it has no node "three"; it has one, two` {
		t.Errorf("an unknown name: %v", err)
	}
	one, _ := d.For(Machine{Name: "one"}, "", same)
	if one.K3s.Role != "server" || one.K3s.Server != "" || one.K3s.Token != "t" || one.K3s.Labels["site"] != "lab" ||
		one.K3s.Labels["disk"] != "fast" || one.Users[0].Name != "anna" {
		t.Errorf("one: %+v", one)
	}
	two, _ := d.For(Machine{Name: "two"}, "", same)
	if len(two.Users) != 1 || two.Users[0].Name != "eve" || two.K3s.Role != "agent" {
		t.Errorf("two: %+v", two)
	}
	// A node's own config lies over the image's inventory, without its seed.
	over, err := Over(d, Machine{Serial: "100000000000abcd"}, "node.yaml",
		[]byte("k3s: {token: u}\nsysctls: {a.b: '1'}\n"+strings.Repeat("\n", 100)+"\x00\x00"), false)
	if err != nil || over.Hostname != "one" || over.K3s.Token != "u" || over.K3s.Role != "server" || over.Sysctls["a.b"] != "1" ||
		over.Seed != "" {
		t.Errorf("over: %+v (%v)", over, err)
	}
	if _, err := Over(d, Machine{}, "node.yaml", []byte("k3s: {rolle: x}"), false); err == nil {
		t.Error("a mistake passes")
	}
	// What a newer image took, an older one still understands.
	old, err := Over(nil, Machine{}, "node.yaml", []byte("hostname: attic\nhologram: {on: roof}\nusers: [{name: anna, keys: "+
		"['"+key+"'], face: round}]\n"), true)
	if err != nil || old.Hostname != "attic" || len(old.Users) != 1 {
		t.Errorf("with fields of the future: %+v (%v)", old, err)
	}
}

func TestPublic(t *testing.T) {
	d, err := Load("lab.yaml", []byte(lab), []string{"rpi4"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Public(); err == nil || !strings.Contains(err.Error(), "lab.yaml holds secrets (cluster-secret, defaults.k3s.token)") {
		t.Errorf("%v", err)
	}
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d, err = Load("full.yaml", full, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	want := "seed, network.wifi.networks[0].password, network.wifi.networks[2].eap.password, k3s.token, k3s.agent-token, " +
		"backup.secret-key, restore.key, registries.configs.mirror.lan:5000.auth.password, " +
		"iscsi.targets[0].chap.password, iscsi.targets[0].chap.mutual-password, iscsi.discovery[0].chap.password, files[1].content"
	if err := d.Public(); err == nil || !strings.Contains(err.Error(), "("+want+")") {
		t.Errorf("got %v\nwant %s", err, want)
	}
	// What an image may hold: everything but the secrets, which come later.
	d, err = Load("p.yaml", []byte("defaults: {k3s: {role: agent, server: 'https://a'}}\nnodes: [{hostname: a}]"), nil, true)
	if err != nil || d.Public() != nil {
		t.Errorf("%v", err)
	}
}

// TestSeedGolden: seeds must never change, or nodes lose their identity.
func TestSeedGolden(t *testing.T) {
	got, err := SeedOf("0123456789abcdef0123456789abcdef", "attic")
	if err != nil || got != seedGolden {
		t.Errorf("%s (%v)", got, err)
	}
}

const seedGolden = "99df274686b0d36a7de23a3b0c4e55906dbb92da2d5729169645a41cd3160071"

// FuzzConfig: whatever is read, is written and read again as the same.
func FuzzConfig(f *testing.F) {
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		f.Fatal(err)
	}
	cfg, err := Parse("full.yaml", full)
	if err != nil {
		f.Fatal(err)
	}
	got, err := cfg.Encode()
	if err != nil {
		f.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/full.golden.yaml")
	if *update {
		if err := os.WriteFile("testdata/full.golden.yaml", got, 0o644); err != nil {
			f.Fatal(err)
		}
	} else if err != nil || !bytes.Equal(got, golden) {
		f.Fatalf("the full config is written as\n%s", got)
	}
	f.Add(full)
	f.Add([]byte(Taken))
	f.Add([]byte("hostname: a\n\x00\x00"))
	f.Add([]byte("k3s: {role: server, options: {disable: [a, 1, true]}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		cfg, err := Parse("x", b)
		if err != nil {
			return
		}
		text, err := cfg.Encode()
		if err != nil {
			return // too long
		}
		again, err := Parse("x", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if more, err := again.Encode(); err != nil || !bytes.Equal(more, text) {
			t.Fatalf("%s\nbecame (%v)\n%s", text, err, more)
		}
	})
}

func FuzzInventory(f *testing.F) {
	f.Add([]byte(lab))
	f.Add([]byte("defaults: &d {hostname: a}\nnodes: [*d]"))
	f.Add([]byte("a: &a [*a]\nnodes: []"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Load("x", b, []string{"rpi4"}, false)
		if err != nil {
			return
		}
		d.Public()
		d.For(Machine{Board: "rpi4"}, "x", func(s string) (string, error) { return s, nil })
	})
}

// TestAnchors: keys that begin with x- hold what anchors name.
func TestAnchors(t *testing.T) {
	const text = "x-net: &net {dns: [10.0.0.1]}\nx-any: [1, {hostnam: a}]\nnodes:\n- {hostname: a, network: *net}\n- {hostname: " +
		"b, network: {<<: *net, search: [lan]}}\n"
	d, err := Load("i.yaml", []byte(text), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, search := range map[string]int{"a": 0, "b": 1} {
		cfg, err := d.For(Machine{Name: name}, name, nil)
		if err != nil || len(cfg.Network.DNS) != 1 || len(cfg.Network.Search) != search {
			t.Errorf("%s: %+v (%v)", name, cfg, err)
		}
	}
	if _, err := Load("i.yaml", []byte("nodes: [{hostname: a}]\ny-net: {}\n"), nil, false); err == nil ||
		err.Error() != "i.yaml:2: y-net: there is no such field; is it misspelt or indented wrongly?" {
		t.Errorf("another key: %v", err)
	}
}
