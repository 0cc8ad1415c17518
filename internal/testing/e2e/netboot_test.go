package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

var servedBoards = []string{"boards: [rpi3, vm]", "boards: [rpi3, rpi4, rpi5, vm]"}

// TestNetbootBesideDHCP: another server gives the addresses. A server that dies
// in the middle of a boot costs that boot, and no more. The node's volume is on
// a NAS, and is the same one after the next boot.
func TestNetbootBesideDHCP(t *testing.T) {
	t.Parallel()
	r, err := buildFilled(t, "node.yaml", t.TempDir(), []string{"boards: [rpi3, vm]", "boards: [rpi5, vm]"})
	if err != nil {
		t.Fatal(err)
	}
	l := newLAN(t)
	l.router("")
	rom, tap := l.pi("5", 0x52617370)
	n := newNASIn(t, 64, l)
	discovery := fmt.Sprintf("  discovery: [{portal: '10.77.0.1:%d', chap: {user: attic, password: %s}}]\n", n.port, chapPassword)
	config := strings.Replace(n.config("attic", ", format: blank"), "volume:", discovery+"volume:", 1)
	nodes := "nodes:\n- serial: '52617370'\n  " + strings.ReplaceAll(strings.TrimSpace(config), "\n", "\n  ") + "\n"
	s := l.serve(r.Artifact.Dir, nodes, "--proxy")
	p := l.bootNet(rom, tap)
	p.expect("eth0 has 10.77.0.1", "the boot server is 10.77.0.1:8069")
	s.stop()
	p.expect("waiting for ")
	l.serve(r.Artifact.Dir, nodes, "--proxy")
	p.expect("THIS BOOT FAILED", "no boot of serial 52617370 was served from here", "trying again in 15s",
		"this is attic, config from the boot server")
	p.prompt()
	// Discovery at the portal of the volume's own target leaves its session alone.
	p.works("mount | grep '/dev/sda on /var/lib/rancher' && rc-service -D iscsid stop && ls -d /sys/class/iscsi_session/session1")
	p.works("[ $(cat /sys/class/iscsi_session/session1/recovery_tmo) = 86400 ]")
	p.works("echo still > /var/lib/rancher/there && sync && rc-service -D iscsid start")
	if !full.Tests {
		return // TestVolumeOnISCSI has the next boot of a volume
	}
	p.run("reboot", "the boot server is 10.77.0.1:8069")
	p.prompt()
	p.works("[ $(cat /var/lib/rancher/there) = still ]")
}

// TestNetbootFollowsReleases: a Pi without a card, to a login with its own name and an address
// its own config asked for. Then the reference moves, and the node restarts into the new
// release by itself. That is not well there: the node says why, goes back to the
// last one that was, and stays there.
func TestNetbootFollowsReleases(t *testing.T) {
	t.Parallel()
	channel := filepath.Join(t.TempDir(), "stable")
	release := func(number, deadline, more string) {
		t.Helper()
		text := fmt.Sprintf("release: %q\nhealth: {soak: 2s, deadline: %s}\n%s", number, deadline, more)
		r, err := buildFilled(t, "small.yaml", t.TempDir(), append([]string{"release: \"1.2\"\n", text}, servedBoards...))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(r.Artifact.Dir, channel+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(channel+".new", channel); err != nil {
			t.Fatal(err)
		}
	}
	release("1.2", "10m", "")
	l := newLAN(t)
	rom, tap := l.pi("4", 0x52617370)
	s := l.serve(channel, "nodes: [{serial: '52617370', hostname: attic, upgrades: {poll: 2s}}]\n",
		"--pool", "10.77.0.50-10.77.0.99", "--poll", "1s")
	p := l.bootNet(rom, tap)
	p.expect("the boot server is 10.77.0.1:8069", "this is attic, config from the boot server",
		"small 1.2, slot net (committed), root verified")
	p.prompt()
	p.run("pikeletd status", "started without a card, by the boot server 10.77.0.1:8069")
	p.works("until ip -4 addr show dev eth0 | grep -q 10.77.0.; do sleep 1; done")
	s.expect("stage=healthy")
	release("1.3", "10s", "layers: [{folder: "+failingCheck(t)+"}]\n")
	p.expect("restarting into the release of the boot server release=1.3", "small 1.3, slot net",
		"release of the boot server is unhealthy: after 10s: fan: the fan stands still",
		"restarting into the release of the boot server release=1.2", "small 1.2, slot net")
	boots := p.Boots()
	if full.Tests {
		p.prompt()
		time.Sleep(10 * time.Second) // what is tested is that it stays there
	}
	if p.Boots() != boots || boots != 3 {
		t.Errorf("the node was started %d times, and then %d more, want 3 and none", boots, p.Boots()-boots)
	}
}

// TestTwoPi3BsGetOwnAddresses: the boot ROM of a Pi 3B takes whatever offer it hears, for all of
// them use one transaction id and none looks at the hardware address
// (raspberrypi/firmware#1067). One that listens while another is answered has an
// address of its own.
func TestTwoPi3BsGetOwnAddresses(t *testing.T) {
	t.Parallel()
	r := variant(t, servedBoards[0], servedBoards[1])
	l := newLAN(t)
	l.serve(r.Artifact.Dir, "nodes: [{serial: '00000003'}, {serial: '00000033'}]\n", "--pool", "10.77.0.50-10.77.0.99")
	first, _ := l.pi("3", 0x3)
	second, _ := l.pi("3", 0x33)
	var theirs net.IP
	ours, err := second.Address(context.Background(), func() {
		var err error
		if theirs, err = first.Address(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if ours.Equal(theirs) {
		t.Errorf("both have %v", ours)
	}
}

// TestEveryModelNetboots: the firmware of each model has all it asks for, and no more.
func TestEveryModelNetboots(t *testing.T) {
	t.Parallel()
	r := variant(t, servedBoards[0], servedBoards[1])
	l := newLAN(t)
	s := l.serve(r.Artifact.Dir, `nodes:
- {hostname: cellar}
- {serial: '00000003'}
- {serial: '00000033'}
- {serial: '00000004', network: {interfaces: [{name: eth0, addresses: [10.77.0.20/24]}]}}
- {serial: '00000005'}
- {mac: 'd8:3a:dd:00:00:44'}
`, "--pool", "10.77.0.50-10.77.0.99")
	for _, rom := range []vm.NetROM{
		{Model: "3", Serial: 0x3}, {Model: "3+", Serial: 0x33}, {Model: "4", Serial: 0x4}, {Model: "5", Serial: 0x5},
		{Model: "4", Serial: 0x44, MACPrefix: true, OldEEPROM: true},
	} {
		t.Run(fmt.Sprintf("%s %x", rom.Model, rom.Serial), func(t *testing.T) {
			in, _ := l.pi(rom.Model, rom.Serial)
			in.MACPrefix, in.OldEEPROM = rom.MACPrefix, rom.OldEEPROM
			got, err := in.Boot(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if len(got.Kernel) == 0 || len(got.Initramfs) == 0 || !strings.Contains(got.Cmdline, "pikelet.slot=net") {
				t.Errorf("%d bytes of kernel, %d of initramfs, command line %q", len(got.Kernel), len(got.Initramfs), got.Cmdline)
			}
		})
	}
	s.expect("client=10.77.0.20 file=00000004/")
	// With dnsmasq as what names the server, in its own way.
	t.Run("dnsmasq names the server", func(t *testing.T) { dnsmasqNamesIt(t, r.Artifact.Dir) })
	// A stock client gets an address, keeps it, and is told what it needs.
	t.Run("udhcpc", func(t *testing.T) {
		got := l.udhcpc()
		if !containsAll(got, "ip='10.77.0.", "mask='24'", "lease='43200'") || strings.Contains(got, "boot") {
			t.Errorf("a stock client is told\n%s", got)
		}
		if again := l.udhcpc("-V", bootapi.Class); !containsAll(again, servedToNode...) {
			t.Errorf("a node's /init is told\n%s", again)
		}
	})
	t.Run("adopted", func(t *testing.T) { unlistedPiIsAdopted(t, l, s, r.Manifest.BuildID) })
}

// unlistedPiIsAdopted starts a Pi that the inventory does not list while a hostile
// machine speaks for the same serial: the Pi waits, and boots when it is adopted.
func unlistedPiIsAdopted(t *testing.T, l *lan, s *server, build string) {
	rom, _ := l.pi("5", 0xff)
	l.hostile(build, "10.77.0.66", 0xff)
	booted := make(chan error, 1)
	go func() {
		_, err := rom.Boot(context.Background())
		booted <- err
	}()
	nodes := func(args ...string) string {
		out, err := l.Command(l.Name, append([]string{"../../../build/pikelet", "nodes"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("pikelet nodes: %v: %s", err, out)
		}
		return string(out)
	}
	for start := time.Now(); !containsAll(nodes(), "waits to be adopted", "CONFLICT"); time.Sleep(100 * time.Millisecond) {
		if time.Since(start) > tooLong {
			t.Fatalf("the machine is not shown:\n%s", nodes())
		}
	}
	got := nodes("adopt", "10000000000000FF", "--mac", "d8:3a:dd:00:00:ff", "--node", "cellar")
	if !strings.Contains(got, "000000ff is adopted") {
		t.Error(got)
	}
	if err := <-booted; err != nil {
		t.Error(err)
	}
	s.expect("adopted a machine serial=000000ff")
	b, err := os.ReadFile(filepath.Join(s.state, "adopted/000000ff.yaml"))
	if err != nil || !strings.Contains(string(b), rom.MAC.String()) {
		t.Errorf("adopted is (%v) %s", err, b)
	}
	s.untouched(t)
}
