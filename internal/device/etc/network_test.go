package etc

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
)

// written returns one of the files that a config makes of /etc.
func written(t *testing.T, name, text string) string {
	t.Helper()
	in := input(t, text, everything...)
	modules := strings.Join([]string{
		"kernel/net/8021q/8021q.ko.xz:", "kernel/drivers/net/bonding/bonding.ko:", "kernel/net/bridge/bridge.ko:",
		"kernel/drivers/net/dummy.ko.xz:", "",
	}, "\n")
	in.Root.(fstest.MapFS)["lib/modules/6.12/modules.dep"] = &fstest.MapFile{Data: []byte(modules)}
	files, problems := Files(in)
	if len(problems) > 0 {
		t.Errorf("%s: %q", text, problems)
	}
	for _, f := range files {
		if f.Path == name {
			return f.Content
		}
	}
	return ""
}

// networks are configs, with commands that busybox' ifup must run for them, in
// this order.
var networks = map[string][]string{
	"network: {interfaces: [{name: eth0, mtu: 9000}]}": {
		"ip link set dev eth0 mtu 9000", "ip link set eth0 up", "udhcpc "},
	"network: {interfaces: [{name: eth0}, {name: lo, addresses: [192.168.0.21/32, 'fd00::1/128']}]}": {
		"ip addr replace 192.168.0.21/32 dev lo", "ip addr replace fd00::1/128 dev lo", "ip link set lo up", "udhcpc "},
	"network: {interfaces: [{name: eth0, addresses: [192.168.1.2/24, 'fd00::2/64', 10.0.0.2/8], gateway: 192.168.1.1, gateway6: " +
		"'fe80::1'}]}": {
		"ip addr add 192.168.1.2/24", "ip route add default via 192.168.1.1 dev eth0", "ip addr add fd00::2/64 dev eth0",
		"ip addr add 10.0.0.2/8 dev eth0", "ip route replace ::/0 dev eth0 via fe80::1\n"},
	"network: {interfaces: [{name: eth0, addresses: [203.0.113.5/32], gateway: 203.0.113.1}]}": {
		"ip addr add 203.0.113.5/32", "ip route replace 0.0.0.0/0 dev eth0 via 203.0.113.1 onlink\n"},
	"network: {interfaces: [{name: eth0, dhcp: true, addresses: ['fd00::5/64'], gateway: 'fd00::1'}]}": {
		"udhcpc ", "ip addr add fd00::5/64 dev eth0", "ip route replace ::/0 dev eth0 via fd00::1\n"},
	"network: {interfaces: [{name: eth0.20, addresses: [10.20.0.5/24], gateway: 10.20.0.1}]}": {
		"ip link set dev eth0 up", "ip link add link eth0 name eth0.20 type vlan id 20\n", "ip addr add 10.20.0.5/24",
		"ip route add default via 10.20.0.1 dev eth0.20"},
	"network: {interfaces: [{name: store, vlan: 7, parent: eth1, mtu: 1400}]}": {
		"ip link set dev eth1 up", "ip link add link eth1 name store type vlan id 7\n", "ip link set dev store mtu 1400", "udhcpc "},
	"network: {interfaces: [{name: bond0, bond: {ports: [eth0, eth1], mode: 802.3ad}, addresses: [10.0.0.2/8]}]}": {
		"modprobe -q bonding max_bonds=0", "ip link add name bond0 type bond\n", "echo 802.3ad >/sys/class/net/bond0/bonding/mode",
		"ip link set dev eth0 down && ip link set dev eth0 master bond0", "ip link set dev eth1 master bond0", "ip addr add 10.0.0.2/8"},
	"network: {interfaces: [{name: eth0.5, dhcp: false}, {name: br0, bridge: {ports: [eth0.5, eth1]}}]}": {
		"type vlan id 5", "ip link set dev eth0.5 up", "ip link add name br0 type bridge\n", "ip link set dev eth0.5 master br0",
		"ip link set dev eth1 up", "udhcpc "},
	"network: {interfaces: [{name: eth0}, {name: dummy0, dummy: true, addresses: [203.0.113.254/31], routes: [{to: 0.0.0.0/0, " +
		"via: 203.0.113.255, metric: 1000}]}]}": {
		"udhcpc ", "modprobe -q dummy numdummies=0", "ip link add name dummy0 type dummy\n", "ip addr add 203.0.113.254/31",
		"ip route replace 0.0.0.0/0 dev dummy0 via 203.0.113.255 metric 1000\n"},
	"network: {interfaces: [{name: eth1, dhcp: false}, {name: eth0}]}": {
		"ip link set dev eth1 up\n", "udhcpc "},
	"network: {interfaces: [{name: eth0, slaac: true}]}": {
		"echo 2 >/proc/sys/net/ipv6/conf/eth0/accept_ra\n", "ip link set dev eth0 up\n"},
	"network: {interfaces: [{name: eth0, addresses: [10.0.0.2/8], routes: [{to: 0.0.0.0/0}, {to: 192.168.0.0/16, via: 10.0.0.9, " +
		"metric: 5}, {to: 'fd00::/8', via: 'fe80::9'}]}]}": {
		"ip addr add 10.0.0.2/8", "ip route replace 0.0.0.0/0 dev eth0\n", "ip route replace 192.168.0.0/16 dev eth0 via 10.0.0.9 metric 5\n",
		"ip route replace fd00::/8 dev eth0 via fe80::9\n"},
}

// TestIfup has busybox' own ifup say what it would do.
func TestIfup(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs the starter repository")
	}
	busybox := unpack(t, "busybox").command("bin/busybox")
	for text, want := range networks {
		file := filepath.Join(t.TempDir(), "interfaces")
		if err := os.WriteFile(file, []byte(written(t, "/etc/network/interfaces", text)), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(busybox[0], append(busybox[1:], "ifup", "-n", "-f", "-a", "-i", file)...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: ifup: %v\n%s", text, err, out)
		}
		rest := out
		for _, line := range want {
			i := bytes.Index(rest, []byte(line))
			if i < 0 {
				t.Errorf("%s: no %q in its place in\n%s", text, line, out)
				break
			}
			rest = rest[i+len(line):]
		}
	}
}

// TestInterfacesFile asks the same of the file, without ifup: all commands but
// ifup's own are in it.
func TestInterfacesFile(t *testing.T) {
	for text, want := range networks {
		got := written(t, "/etc/network/interfaces", text)
		if strings.Count(got, "auto lo\n") != 1 || strings.Count(got, "iface lo ") != 1 {
			t.Errorf("%s: lo is not there once in\n%s", text, got)
		}
		for _, line := range want {
			own := strings.HasPrefix(line, "udhcpc") || strings.HasPrefix(line, "ip route add default") || line == "ip link set eth0 up" ||
				line == "ip link set lo up" ||
				strings.HasPrefix(line, "ip addr add") && !strings.Contains(line, " dev ") || line == "ip addr add fd00::2/64 dev eth0"
			if !own && !strings.Contains(got, line) {
				t.Errorf("%s: no %q in\n%s", text, line, got)
			}
		}
	}
}

func TestModulesOfLinks(t *testing.T) {
	in := input(t, "network: {interfaces: [{name: eth0.20}, {name: eth0}]}", everything...)
	_, problems := Files(in)
	if len(problems) != 1 || !strings.Contains(problems[0], "eth0.20 needs the kernel module 8021q") {
		t.Errorf("%q", problems)
	}
}

// TestSearchDomains runs what udhcpc's script reads.
func TestSearchDomains(t *testing.T) {
	conf := written(t, "/etc/udhcpc/udhcpc.conf", "network: {search: [lab.example, lan]}")
	cmd := exec.Command("sh", "-c", "eval \"$1\"; echo $search; echo $domain", "sh", conf)
	cmd.Env = []string{"search=of.the.lease", "domain=of.the.lease"}
	if out, err := cmd.Output(); err != nil || string(out) != "lab.example lan\nlab.example lan\n" {
		t.Errorf("%s makes %q (%v)", conf, out, err)
	}
	if got := written(t, "/etc/resolv.conf", "network: {dns: [10.0.0.1], search: [lan]}"); !strings.Contains(got,
		"search lan\nnameserver 10.0.0.1\n") {
		t.Error(got)
	}
}
