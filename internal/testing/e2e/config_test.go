package e2e

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

const clusterSecret = "a secret of a cluster that cannot be guessed"

// configOf makes the config of a node of an inventory, as the desk does.
func configOf(t *testing.T, inventory, name string) *nodeconfig.Config {
	t.Helper()
	d, err := nodeconfig.Load("nodes.yaml", []byte(inventory), boards.Names(), false)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := provision.Config(d, nodeconfig.Machine{Name: name}, "", &provision.Keys{})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// configure puts the config of a node onto a card, as text.
func configure(t *testing.T, card, text string) {
	t.Helper()
	cfg, err := nodeconfig.Parse("node.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := provision.Write(card, cfg); err != nil {
		t.Fatal(err)
	}
}

// scribble overwrites the node config on a card with any text.
func scribble(t *testing.T, card, text string) {
	t.Helper()
	at := control(t, card, slots.NodeFile)
	overwrite(t, card, at, []byte(text+strings.Repeat("\n", slots.NodeSize-len(text))))
}

// TestConfigTakesEffectOnNextBoot: a config with mistakes is not taken; the node comes up as
// it was, and says why on console, card and in its status. A mended one takes
// effect on the boot that brings it. On a machine that woke up in 2001 it is
// never before the node last knew the time, and a time server is believed. The
// network is what the config says, and a check says what of it is not there.
// (That it is never before the image was built is in TestRaspi3bBootsToLogin.)
func TestConfigTakesEffectOnNextBoot(t *testing.T) {
	t.Parallel()
	serveTime(t)
	in2001 := func(o *vm.Options) { o.Clock = "2001-01-01T00:00:00" }
	p := attic(t)
	p.works("date -s 2040-01-01")
	p.off() // which saves the time
	card := p.card
	enlarge(t, card, 900) // the same card, copied to a larger one
	scribble(t, card, "hostname: cellar\nusers:\n- name: eve\n  password: x\n")
	p = boot(t, card, in2001)
	p.expect("a config was not taken: node.yaml:4: password: there is no such field", "this is attic, config from state")
	p.prompt()
	p.works("[ $(df -m /var/lib/pikelet/state | tail -1 | awk '{print $2}') -gt 600 ] && [ $(date +%Y) = 2040 ]")
	p.run("pikeletd status", "node    attic, config from state", "PROBLEM a config was not taken: node.yaml:4: password")
	p.unplug()
	report := string(readCard(t, card, control(t, card, slots.ReportFile), slots.ReportSize))
	if !strings.Contains(report, "PROBLEM: a config was not taken: node.yaml:4: password: there is no such field") {
		t.Errorf("report.txt: %s", strings.TrimSpace(report))
	}
	scribble(t, card, `hostname: cellar
sysctls: {vm.swappiness: '17'}
modules: [dummy]
network:
  interfaces:
  - name: eth0
    addresses: [10.0.2.77/24, 10.9.9.9/32]
    gateway: 10.0.2.2
    routes: [{to: 10.50.0.0/16, via: 10.0.2.9}]
  - {name: eth0.20, dhcp: false}
  - {name: br0, bridge: {ports: [eth0.20]}, addresses: [10.30.0.5/24]}
  - {name: lo, addresses: [10.40.0.5/32]}
  - {name: eth9, addresses: [10.60.0.5/24]}
  dns: [10.0.2.3]
  search: [lan]
volume: {on: memory, size: 32MiB}
time: {servers: [10.0.2.2]}
`)
	p = boot(t, card, in2001)
	p.expect("this is cellar, config from the control partition")
	p.prompt()
	p.works("[ $(cat /proc/sys/vm/swappiness) = 17 ] && grep -q ^dummy /proc/modules")
	p.works("ip addr show eth0 | grep -q 10.0.2.77/24 && ip addr show eth0 | grep -q 10.9.9.9/32 && ip route | grep 'default via 10.0.2.2'")
	p.works("ip addr show br0 | grep 10.30.0.5/24 && ls /sys/class/net/br0/brif/eth0.20 && grep -q 'VID: 20' /proc/net/vlan/eth0.20")
	p.works("ip addr show lo | grep 10.40.0.5/32 && ip route | grep '10.50.0.0/16 via 10.0.2.9'")
	p.run("pikeletd check", "MISSING interfaces", "eth9")
	p.works("grep -x 'nameserver 10.0.2.3' /etc/resolv.conf && ping -c 1 -W 5 10.0.2.2")
	p.works("cat /proc/sys/kernel/hostname | grep -x cellar")
	p.works("df -m /var/lib/rancher | grep 'tmpfs *32'")
	// The server says it is 2042: only from there can the clock have that.
	p.works("until [ $(date +%Y) = 2042 ]; do sleep 1; done")
	p.works(`until pikeletd status --json | grep '"timeSynchronised": true'; do sleep 5; done`)
}

// serveTime answers NTP on loopback, which guests find at 10.0.2.2, with a
// clock that shows the year 2042.
func serveTime(t *testing.T) {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:123")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go vm.AnswerTime(l, time.Until(time.Date(2042, 6, 1, 0, 0, 0, 0, time.UTC)))
}

// TestNodeCannotDeriveOtherIdentities: nothing that one node holds leads to what
// another derives, nor to the cluster's secret.
func TestNodeCannotDeriveOtherIdentities(t *testing.T) {
	inventory := "cluster-secret: " + clusterSecret + "\nnodes: [{hostname: attic}, {hostname: cellar}]\n"
	attic, cellar := configOf(t, inventory, "attic"), configOf(t, inventory, "cellar")
	held, err := attic.Encode()
	if err != nil {
		t.Fatal(err)
	}
	other, err := node.NewIdentity("cellar", cellar.Seed)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := node.NewIdentity("cellar", attic.Seed) // the best root on attic can do
	if err != nil {
		t.Fatal(err)
	}
	for secret, text := range map[string]string{
		"the cluster secret": clusterSecret, "cellar's seed": cellar.Seed, "cellar's password": other.NodePassword,
	} {
		if bytes.Contains(held, []byte(text)) {
			t.Errorf("attic holds %s", secret)
		}
	}
	if forged.NodePassword == other.NodePassword || forged.PublicKey() == other.PublicKey() ||
		forged.MachineID == other.MachineID || forged.IQN == other.IQN {
		t.Error("attic's seed makes what is cellar's")
	}
}
