package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// sshKey makes a key and returns its file and its public half.
func sshKey(t *testing.T) (file, public string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	b, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.TrimSpace(string(b))
}

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

// control returns where a file of the control partition lies on a card.
func control(t *testing.T, card, name string) int64 {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	at, _, err := slots.ControlFile(f, table, name)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// readCard returns size bytes of a card.
func readCard(t *testing.T, card string, at, size int64) []byte {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

// enlarge makes a card larger than the image, as real ones are.
func enlarge(t *testing.T, card string, mib int64) {
	t.Helper()
	if err := os.Truncate(card, mib<<20); err != nil {
		t.Fatal(err)
	}
}

// flashCard writes an image onto a card with pikelet flash.
func flashCard(t *testing.T, r *builder.Result, card string, more ...string) {
	t.Helper()
	out, err := exec.Command("../../../build/pikelet", append([]string{"flash", r.Artifact.Dir, card, "--yes"}, more...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("flashing %v: %v\n%s", more, err, out)
	}
}

// freePort returns a port of loopback nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// login is a way into a guest over SSH.
type login struct {
	t         *testing.T
	port      int
	key, host string // files
	user      string
}

// sshTo returns a login that trusts one host key only. bootWith makes the
// guest's SSH reachable.
func sshTo(t *testing.T, user, key, hostKey string) (l login, bootWith func(*vm.Options)) {
	t.Helper()
	l = login{t: t, port: freePort(t), key: key, user: user, host: filepath.Join(t.TempDir(), "known_hosts")}
	if err := os.WriteFile(l.host, []byte(fmt.Sprintf("[127.0.0.1]:%d %s\n", l.port, hostKey)), 0o600); err != nil {
		t.Fatal(err)
	}
	return l, func(o *vm.Options) { o.Forward = map[int]int{l.port: 22} }
}

// run runs a command on the guest. It tries until the server answers.
func (l login) run(command string, options ...string) (string, error) {
	args := append([]string{"-F", "/dev/null", "-i", l.key, "-p", fmt.Sprint(l.port), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=" + l.host, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10"}, options...)
	args = append(args, l.user+"@127.0.0.1", command)
	for start := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		out, err := exec.Command("ssh", args...).CombinedOutput()
		waiting := strings.Contains(string(out), "Connection closed") || strings.Contains(string(out), "Connection reset") || strings.Contains(string(out), "timed out") || strings.Contains(string(out), "kex_exchange")
		if err == nil || !waiting || time.Since(start) > tooLong {
			return string(out), err
		}
	}
}

// must runs a command that has to work, and returns what it said.
func (l login) must(command string) string {
	l.t.Helper()
	out, err := l.run(command)
	if err != nil {
		l.t.Fatalf("%s over SSH: %v\n%s", command, err, out)
	}
	return out
}

const clusterSecret = "a secret of a cluster that nobody guesses"

// TestFirstBootMakesANode: a fresh card becomes named, keyed and grown, lets
// its admin in by key and nobody by password, is the same after a reflash that
// keeps state, but for the name that a config sent before gave it, and after
// one that wipes state.
func TestFirstBootMakesANode(t *testing.T) {
	t.Parallel()
	image := sharedBuild(t, "node.yaml")
	key, public := sshKey(t)
	inventory := "cluster-secret: " + clusterSecret + "\ndefaults:\n  users: [{name: anna, admin: true, keys: ['" + public + "']}]\n" +
		"  time: {zone: Asia/Tokyo}\n  files: [{path: /etc/secret, content: hush-hush, secret: true}]\nnodes:\n- {hostname: attic, serial: '52617370'}\n- {hostname: cellar, serial: '00000001'}\n"
	cfg := configOf(t, inventory, "attic")
	nodes, card := filepath.Join(t.TempDir(), "nodes.yaml"), filepath.Join(t.TempDir(), "card")
	if err := os.WriteFile(nodes, []byte(inventory), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(card, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	enlarge(t, card, 600)
	flashCard(t, image, card, "--inventory", nodes, "--node", "attic")
	id, _, err := provision.Identity(cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	anna, with := sshTo(t, "anna", key, id.PublicKey())
	p := boot(t, card, with)
	p.expect("this is a first boot", "this is attic, config from the control partition", id.Fingerprint())
	p.prompt()
	p.works("[ $(hostname) = attic ] && [ $(cat /etc/machine-id) = " + id.MachineID + " ] && grep -q Tokyo /etc/timezone && date | grep JST")
	p.works("[ $(stat -c %a /etc/secret) = 600 ] && [ $(stat -c %a /var/lib/pikelet/state/node/node.yaml) = 600 ]")
	p.works("[ $(df -m /var/lib/rancher | tail -1 | awk '{print $2}') -gt 300 ]") // the card has 600 MiB
	if got := anna.must("hostname; id -un; cat /etc/machine-id"); got != "attic\nanna\n"+id.MachineID+"\n" {
		t.Errorf("over SSH: %q", got)
	}
	if got := anna.must("doas pikeletd status && doas /usr/sbin/pikeletd check"); !strings.Contains(got, "node    attic, config from the control partition") || !strings.Contains(got, "state   on /dev/vda4") {
		t.Errorf("pikeletd status says\n%s", got)
	}
	status, err := node.DecodeStatus([]byte(anna.must("doas pikeletd status --json")))
	if err != nil || status.Node.Hostname != "attic" || !status.Node.State.Made || !status.Node.State.Grown || !status.Volume.Mounted || status.Boot.Slot != slots.A ||
		status.Node.HostKey != id.PublicKey() || status.Node.IQN != id.IQN || status.Node.Config.Source != node.FromCard || status.CardWritten == 0 || status.Space.Size < 300e6 {
		t.Errorf("status --json says %+v (%v)", status, err)
	}
	for _, command := range []string{"doas id", "doas /bin/sh -c id", "cat /var/lib/pikelet/state/node/node.yaml", "cat /etc/secret", "/usr/sbin/pikeletd reset --yes"} {
		if out, err := anna.run(command); err == nil {
			t.Errorf("anna may run %s: %s", command, out)
		}
	}
	if out, err := anna.run("true", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password,keyboard-interactive", "-o", "BatchMode=no", "-o", "NumberOfPasswordPrompts=0"); err == nil || !strings.Contains(out, "(publickey)") {
		t.Errorf("another way in than by key: %v %s", err, out)
	}
	sshConfig := filepath.Join(t.TempDir(), "ssh_config")
	text := fmt.Sprintf("Host attic\n HostName 127.0.0.1\n Port %d\n User anna\n IdentityFile %s\n IdentitiesOnly yes\n UserKnownHostsFile %s\n", anna.port, key, anna.host)
	if err := os.WriteFile(sshConfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	desktop := func(args ...string) (string, error) {
		out, err := exec.Command("../../../build/pikelet", append(args, "--ssh-config", sshConfig)...).CombinedOutput()
		return string(out), err
	}
	wipe := func(options ...string) (string, error) {
		return desktop(append([]string{"wipe", "attic"}, options...)...)
	}
	sent := filepath.Join(t.TempDir(), "sent.yaml")
	renamed, err := cfg.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sent, []byte(strings.Replace(string(renamed), "hostname: attic", "hostname: roof", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := desktop("node", "send", sent, "attic"); err != nil || !strings.Contains(out, "it counts from the next boot on") {
		t.Errorf("sending a config: %v\n%s", err, out)
	}
	p.works("hostname | grep attic")
	p.off()
	onCard := readCard(t, card, control(t, card, slots.NodeFile), slots.NodeSize)
	if bytes.Contains(onCard, []byte("hush")) || bytes.Contains(onCard, []byte(cfg.Seed)) || !bytes.HasPrefix(onCard, []byte(nodeconfig.Taken)) {
		t.Errorf("the control partition still holds the config: %.300q", onCard)
	}

	flashCard(t, image, card, "--keep-state")
	p = boot(t, card, with)
	p.expect("this is roof, config from state, SSH host key " + id.Fingerprint())
	if strings.Contains(p.Output(), "first boot") {
		t.Error("the second boot took itself for a first one")
	}
	p.prompt()
	anna.must("true")
	p.works("[ $(df -m /var/lib/rancher | tail -1 | awk '{print $2}') -gt 300 ]")
	if out, err := wipe(); err == nil || !strings.Contains(out, "this forgets the node config, the seed and the clock, and reboots") {
		t.Errorf("wipe without --yes: %v\n%s", err, out)
	}
	p.works("echo kept > /var/lib/rancher/kept && sync /var/lib/rancher/kept")
	if out, err := wipe("--yes"); err != nil {
		t.Errorf("wipe: %v\n%s", err, out)
	}
	p.expect("this is lab-52617370, config from nowhere")
	if !full.Tests {
		return
	}
	p.prompt()
	p.works("grep kept /var/lib/rancher/kept") // --volume was not said
	p.Close()

	flashCard(t, image, card, "--inventory", nodes, "--node", "attic")
	p = boot(t, card, with)
	p.expect("this is a first boot", "this is attic, config from the control partition, SSH host key "+id.Fingerprint())
}

// TestConfigAndClock: a config with mistakes is not taken; the node comes up as
// it was, and says why on console, card and in its status. A mended one takes
// effect on the boot that brings it. On a machine that woke up in 2001 it is
// never before the node last knew the time, and a time server is believed. The
// network is what the config says, and a check says what of it is not there.
// (That it is never before the image was built is in TestRaspi3bReachesLogin.)
func TestConfigAndClock(t *testing.T) {
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
	scribble(t, card, "hostname: cellar\nsysctls: {vm.swappiness: '17'}\nmodules: [dummy]\nnetwork:\n  interfaces:\n  - {name: eth0, addresses: [10.0.2.77/24, 10.9.9.9/32], gateway: 10.0.2.2, routes: [{to: 10.50.0.0/16, via: 10.0.2.9}]}\n"+
		"  - {name: eth0.20, dhcp: false}\n  - {name: br0, bridge: {ports: [eth0.20]}, addresses: [10.30.0.5/24]}\n  - {name: lo, addresses: [10.40.0.5/32]}\n  - {name: eth9, addresses: [10.60.0.5/24]}\n  dns: [10.0.2.3]\n  search: [lan]\nvolume: {on: memory, size: 32MiB}\n"+
		"time: {servers: [10.0.2.2]}\n")
	p = boot(t, card, in2001)
	p.expect("this is cellar, config from the control partition")
	p.prompt()
	p.works("[ $(cat /proc/sys/vm/swappiness) = 17 ] && grep -q ^dummy /proc/modules")
	p.works("ip addr show eth0 | grep -q 10.0.2.77/24 && ip addr show eth0 | grep -q 10.9.9.9/32 && ip route | grep 'default via 10.0.2.2'")
	p.works("ip addr show br0 | grep 10.30.0.5/24 && ls /sys/class/net/br0/brif/eth0.20 && grep -q 'VID: 20' /proc/net/vlan/eth0.20 && ip addr show lo | grep 10.40.0.5/32 && ip route | grep '10.50.0.0/16 via 10.0.2.9'")
	p.run("pikeletd check", "MISSING interfaces", "eth9")
	p.works("grep -x 'nameserver 10.0.2.3' /etc/resolv.conf && ping -c 1 -W 5 10.0.2.2")
	p.works("cat /proc/sys/kernel/hostname | grep -x cellar")
	p.works("df -m /var/lib/rancher | grep 'tmpfs *32'")
	// The server says it is 2042: only from there can the clock have that.
	p.works("until [ $(date +%Y) = 2042 ]; do sleep 1; done")
	p.works(`until pikeletd status --json | grep '"timeSynchronised": true'; do sleep 5; done`)
}

// attic is a node of that name on a card of 400 MiB, at the prompt of its
// first boot.
func attic(t *testing.T) *pi {
	t.Helper()
	return ready(t, sharedBuild(t, "node.yaml"), "hostname: attic\n", 400)
}

// TestDamagedStateIsLeftAlone: a state that was made and cannot be mounted is
// never made anew by itself. The node comes up with state in memory.
func TestDamagedStateIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := attic(t)
	p.unplug()
	card := p.card
	state := partitionOf(t, card, disk.State)
	overwrite(t, card, state.Start, bytes.Repeat([]byte("damage! "), 256<<10))
	p = boot(t, card)
	p.expect("state is in memory, and forgotten at the next boot", "made once, so it is left as it is")
	p.prompt()
	if got := readCard(t, card, state.Start, 8); string(got) != "damage! " {
		t.Errorf("the damaged state was written to: %q", got)
	}
	p.run("pikeletd reset", "pikeletd reset --volume makes it anew")
	p.run("pikeletd reset --volume", "Say --yes to do it")
	p.run("pikeletd reset --volume --yes", "this is a first boot: state was made on /dev/vda4")
}

// TestNodeLearnsNothingOfOthers: nothing that one node holds leads to what
// another derives, nor to the cluster's secret.
func TestNodeLearnsNothingOfOthers(t *testing.T) {
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
	for what, text := range map[string]string{"the cluster secret": clusterSecret, "cellar's seed": cellar.Seed, "cellar's password": other.NodePassword} {
		if bytes.Contains(held, []byte(text)) {
			t.Errorf("attic holds %s", what)
		}
	}
	if forged.NodePassword == other.NodePassword || forged.PublicKey() == other.PublicKey() || forged.MachineID == other.MachineID || forged.IQN == other.IQN {
		t.Error("attic's seed makes what is cellar's")
	}
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
	ahead := time.Until(time.Date(2042, 6, 1, 0, 0, 0, 0, time.UTC))
	stamp := func(b []byte) { // seconds since 1900, in 32.32 bits (RFC 5905 6)
		now := time.Now().Add(ahead)
		binary.BigEndian.PutUint32(b, uint32(now.Unix()+2208988800))
		binary.BigEndian.PutUint32(b[4:], uint32(uint64(now.Nanosecond())<<32/1e9))
	}
	go func() {
		b := make([]byte, 128)
		for {
			n, from, err := l.ReadFrom(b)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			r := make([]byte, 48)
			r[0], r[1], r[2], r[3] = 0x24, 1, b[2], 0xec // server of version 4, stratum 1, a microsecond
			copy(r[12:], "TEST")
			stamp(r[16:])
			copy(r[24:32], b[40:48]) // what the client sent comes back
			stamp(r[32:])
			stamp(r[40:])
			l.WriteTo(r, from)
		}
	}()
}

// TestVolumeOnADisk: a USB or NVMe disk that is blank is formatted and used,
// on the next boot too, and another blank one in its place is not; logs go to state where the config says so.
func TestVolumeOnADisk(t *testing.T) {
	t.Parallel()
	second := filepath.Join(t.TempDir(), "second.img")
	if err := os.WriteFile(second, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	enlarge(t, second, 200)
	with := func(o *vm.Options) { o.Second = second }
	card := cardOf(t, sharedBuild(t, "node.yaml"))
	configure(t, card, "hostname: attic\nlogs: state\nvolume: {on: disk, device: /dev/vdb, format: blank}\n")
	p := boot(t, card, with)
	p.prompt()
	p.works("mount | grep '/dev/vdb on /var/lib/rancher type ext4' && mount | grep '/dev/vda4 on /var/log type ext4'")
	p.works("echo kept > /var/lib/rancher/kept && echo line > /var/log/kept && blkid /dev/vdb | grep attic")
	if !full.Tests {
		p.off()
		if out, err := exec.Command("debugfs", "-R", "cat /var/lib/rancher/kept", second).Output(); err != nil || string(out) != "kept\n" {
			t.Errorf("the disk keeps %q (%v)", out, err)
		}
		another := filepath.Join(t.TempDir(), "another.img")
		if err := os.WriteFile(another, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		enlarge(t, another, 200)
		p = boot(t, card, func(o *vm.Options) { o.Second = another })
		p.expect("/dev/vdb is blank, and is not formatted: this node had a volume there")
		return // TestVolumeOnISCSI has the next boot of a volume
	}
	p.run("sync; reboot", "config from state")
	p.prompt()
	p.works("grep kept /var/lib/rancher/kept && grep line /var/log/kept")
}
