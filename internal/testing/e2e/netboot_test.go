package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// lan is a network of a test's own.
type lan struct {
	t *testing.T
	*vm.LAN
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	short(t)
	l, err := vm.NewLAN()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return &lan{t, l}
}

// in runs a command in a namespace.
func (l *lan) in(name string, command ...string) {
	l.t.Helper()
	if err := l.In(name, command...); err != nil {
		l.t.Fatal(err)
	}
}

// pi plugs a machine in.
func (l *lan) pi(model string, serial uint32) (*vm.NetROM, string) {
	l.t.Helper()
	rom, tap, err := l.Pi(model, serial)
	if err != nil {
		l.t.Fatal(err)
	}
	return rom, tap
}

// joins plugs another machine in, and returns its namespace.
func (l *lan) joins() string {
	l.t.Helper()
	name, err := l.Join(nil)
	if err != nil {
		l.t.Fatal(err)
	}
	return name
}

// server is a pikelet serve in a network.
type server struct {
	t   *testing.T
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer

	state string // its directory
}

func (s *server) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(b)
}

func (s *server) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// says waits for text in what the server prints.
func (s *server) says(text string) {
	s.t.Helper()
	for start := time.Now(); time.Since(start) < tooLong; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(s.said(), text) {
			return
		}
	}
	s.t.Fatalf("the server did not say %q", text)
}

func (s *server) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// serve starts a server for an inventory.
func (l *lan) serve(image, nodes string, more ...string) *server {
	l.t.Helper()
	dir := l.t.TempDir()
	file := filepath.Join(dir, "nodes.yaml")
	if err := os.WriteFile(file, []byte(nodes), 0o600); err != nil {
		l.t.Fatal(err)
	}
	s := &server{t: l.t, state: filepath.Join(dir, "state")}
	s.cmd = l.Command(l.Name, append([]string{"../../../build/pikelet", "serve", image, "--inventory", file, "--interface", "br0", "--cache", dir, "--state", s.state}, more...)...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		s.stop()
		if l.t.Failed() {
			l.t.Logf("the server said:\n%s", s.said())
		}
	})
	s.says("serving ")
	return s
}

var (
	storm      = flag.Int("storm", 12, "how many Pis boot at once")
	lossyStorm = flag.Int("lossy-storm", 4, "how many of them where packets are lost")
)

// TestBootStorm: power comes back to twelve Pis; and to four behind a cable that
// loses one packet in a hundred each way; make soak has a hundred and twenty.
// Another machine speaks for each of them all the while. Each has all its files,
// and is not told of anything that is not there. The log says how long the
// slowest file took, of which the firmware has 30 s.
func TestBootStorm(t *testing.T) {
	r := variant(t, servedBoards[0], servedBoards[1])
	for _, c := range []struct {
		pis  int
		loss float64
	}{{*storm, 0}, {*lossyStorm, 0.01}} {
		t.Run(fmt.Sprintf("%d Pis, %g lost", c.pis, c.loss), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			l := newLAN(t)
			nodes := "nodes:\n"
			var all []*vm.NetROM
			var serials []uint32
			for i := range c.pis {
				rom, _ := l.pi([]string{"3", "4", "5", "4"}[i%4], uint32(0x1000+i))
				rom.Loss, rom.Rand = c.loss, rand.New(rand.NewPCG(seed, uint64(i)))
				nodes += fmt.Sprintf("- {serial: '%08x', mac: '%s'}\n", rom.Serial, rom.MAC)
				all, serials = append(all, rom), append(serials, rom.Serial)
			}
			s := l.serve(r.Artifact.Dir, nodes, "--pool", "10.77.0.50-10.77.0.250")
			l.hostile(r.Manifest.BuildID, "10.77.0.66", serials...)
			start := time.Now()
			var done sync.WaitGroup
			var tries atomic.Int32
			slowest := make([]time.Duration, len(all))
			for i, rom := range all {
				done.Add(1)
				go func() {
					defer done.Done()
					// BOOT_ORDER's f: who finds nothing begins again. What a Pi 3
					// does then is another boot ROM's matter: it is given power anew.
					for try := range 10 {
						tries.Add(1)
						got, err := rom.Boot(context.Background())
						if err == nil {
							if len(got.Kernel) == 0 || len(got.Initramfs) == 0 {
								t.Errorf("%08x has no kernel", rom.Serial)
							}
							slowest[i] = got.SlowestFile
							return
						}
						if !strings.Contains(err.Error(), "no boot server") || try == 9 {
							t.Error(err)
							return
						}
					}
				}()
			}
			done.Wait()
			s.untouched(t)
			t.Logf("%d Pis had all they need after %.1f s, in %d tries, the slowest file after %.1f s; the firmware gives it 30 s",
				c.pis, time.Since(start).Seconds(), tries.Load(), slices.Max(slowest).Seconds())
		})
	}
}

var servedBoards = []string{"boards: [rpi3, vm]", "boards: [rpi3, rpi4, rpi5, vm]"}

// bootNet starts a machine without a card.
func (l *lan) bootNet(rom *vm.NetROM, tap string) *pi {
	l.t.Helper()
	return boot(l.t, "", func(o *vm.Options) {
		o.Net, o.Tap, o.Namespace = rom, tap, l.Name
		o.Serial = fmt.Sprintf("10000000%08x", rom.Serial)
	})
}

// udhcpc is what a machine that joins is told by DHCP: busybox' client, and
// what it hands to its script.
func (l *lan) udhcpc(more ...string) string {
	l.t.Helper()
	script := filepath.Join(l.t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ $1 != bound ] || set\n"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	args := append([]string{"udhcpc", "-i", "eth0", "-f", "-q", "-n", "-O", "43", "-s", script}, more...)
	cmd := l.Command(l.joins(), args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH")} // the script prints these too
	out, err := cmd.Output()
	if err != nil {
		l.t.Errorf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// router is another machine of the network: its DHCP server, dnsmasq, which
// knows nothing of booting but what lines say.
func (l *lan) router(lines string) {
	l.t.Helper()
	name := l.joins()
	l.in(name, "ip", "addr", "add", "10.77.0.254/24", "dev", "eth0")
	conf := filepath.Join(l.t.TempDir(), "dnsmasq.conf")
	if err := os.WriteFile(conf, []byte(lines), 0o644); err != nil {
		l.t.Fatal(err)
	}
	cmd := l.Command(name, "dnsmasq", "--keep-in-foreground", "--conf-file="+conf, "--port=0", "--interface=eth0", "--pid-file=",
		"--dhcp-leasefile="+filepath.Join(l.t.TempDir(), "leases"), "--dhcp-range=10.77.0.100,10.77.0.120,1h", "--no-ping", "--user=root", "--log-facility=-")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("dnsmasq said:\n%s", said.String())
		}
	})
}

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
	nodes := "nodes:\n- serial: '52617370'\n  " + strings.ReplaceAll(strings.TrimSpace(strings.Replace(n.config("attic", ", format: blank"), "volume:",
		fmt.Sprintf("  discovery: [{portal: '10.77.0.1:%d', chap: {user: attic, password: %s}}]\nvolume:", n.port, chapPassword), 1)), "\n", "\n  ") + "\n"
	s := l.serve(r.Artifact.Dir, nodes, "--proxy")
	p := l.bootNet(rom, tap)
	p.expect("eth0 has 10.77.0.1", "the boot server is 10.77.0.1:8069")
	s.stop()
	p.expect("waiting for ")
	l.serve(r.Artifact.Dir, nodes, "--proxy")
	p.expect("THIS BOOT FAILED", "no boot of serial 52617370 was served from here", "trying again in 15s", "this is attic, config from the boot server")
	p.prompt()
	// Discovery at the portal of the volume's own target leaves its session alone.
	p.works("mount | grep '/dev/sda on /var/lib/rancher' && rc-service -D iscsid stop && ls -d /sys/class/iscsi_session/session1")
	p.works("[ $(cat /sys/class/iscsi_session/session1/recovery_tmo) = 86400 ] && echo still > /var/lib/rancher/there && sync && rc-service -D iscsid start")
	if !full.Tests {
		return // TestVolumeOnISCSI has the next boot of a volume
	}
	p.run("reboot", "the boot server is 10.77.0.1:8069")
	p.prompt()
	p.works("[ $(cat /var/lib/rancher/there) = still ]")
}

// TestNetboot: a Pi without a card, to a login with its own name and an address
// its own config asked for. Then the reference moves, and the node restarts into the new
// release by itself. That is not well there: the node says why, goes back to the
// last one that was, and stays there.
func TestNetboot(t *testing.T) {
	t.Parallel()
	sick := filepath.Join(t.TempDir(), "usr/lib/pikelet/checks.d")
	if err := os.MkdirAll(sick, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sick, "fan"), []byte("#!/bin/sh\necho the fan stands still\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	channel := filepath.Join(t.TempDir(), "stable")
	release := func(number, deadline, more string) {
		t.Helper()
		r, err := buildFilled(t, "small.yaml", t.TempDir(), append([]string{"release: \"1.2\"\n", "release: \"" + number + "\"\nhealth: {soak: 2s, deadline: " + deadline + "}\n" + more}, servedBoards...))
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
	s := l.serve(channel, "nodes: [{serial: '52617370', hostname: attic, upgrades: {poll: 2s}}]\n", "--pool", "10.77.0.50-10.77.0.99", "--poll", "1s")
	p := l.bootNet(rom, tap)
	p.expect("the boot server is 10.77.0.1:8069", "this is attic, config from the boot server", "small 1.2, slot net (committed), root verified")
	p.prompt()
	p.run("pikeletd status", "started without a card, by the boot server 10.77.0.1:8069")
	p.works("until ip -4 addr show dev eth0 | grep -q 10.77.0.; do sleep 1; done")
	s.says("stage=healthy")
	release("1.3", "10s", "layers: [{folder: "+strings.TrimSuffix(sick, "/usr/lib/pikelet/checks.d")+"}]\n")
	p.expect("restarting into the release of the boot server release=1.3", "small 1.3, slot net",
		"this release is not well here: after 10s: fan: the fan stands still", "restarting into the release of the boot server release=1.2", "small 1.2, slot net")
	boots := p.Boots()
	if full.Tests {
		p.prompt()
		time.Sleep(10 * time.Second) // what is tested is that it stays there
	}
	if p.Boots() != boots || boots != 3 {
		t.Errorf("it was started %d times, and then %d more", boots, p.Boots()-boots)
	}
}

// TestTwo3Bs: the boot ROM of a Pi 3B takes whatever offer it hears, for all of
// them use one transaction id and none looks at the hardware address
// (raspberrypi/firmware#1067). One that listens while another is answered has an
// address of its own.
func TestTwo3Bs(t *testing.T) {
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

// TestNetROMs: the firmware of each model has all it asks for, and no more.
func TestNetROMs(t *testing.T) {
	t.Parallel()
	r := variant(t, servedBoards[0], servedBoards[1])
	l := newLAN(t)
	s := l.serve(r.Artifact.Dir, "nodes: [{hostname: cellar}, {serial: '00000003'}, {serial: '00000033'}, {serial: '00000004', network: {interfaces: [{name: eth0, addresses: [10.77.0.20/24]}]}}, {serial: '00000005'}, {mac: 'd8:3a:dd:00:00:44'}]\n", "--pool", "10.77.0.50-10.77.0.99")
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
				t.Errorf("%d bytes of kernel, %d of initramfs, words %q", len(got.Kernel), len(got.Initramfs), got.Cmdline)
			}
		})
	}
	s.says("client=10.77.0.20 file=00000004/")
	// With dnsmasq as what names the server, in its own way.
	t.Run("dnsmasq names it", func(t *testing.T) { dnsmasqNamesIt(t, r.Artifact.Dir) })
	// A stock client gets an address, keeps it, and is told what it needs.
	t.Run("udhcpc", func(t *testing.T) {
		got := l.udhcpc()
		if !strings.Contains(got, "ip='10.77.0.") || !strings.Contains(got, "mask='24'") || !strings.Contains(got, "lease='43200'") || strings.Contains(got, "boot") {
			t.Errorf("it is told\n%s", got)
		}
		if again := l.udhcpc("-V", bootapi.Class); !strings.Contains(again, "siaddr='"+vm.LANAddress+"'") || !strings.Contains(again, "opt43='01021f85'") {
			t.Errorf("a node's /init is told\n%s", again)
		}
	})
	// One that the inventory does not list waits, and boots when it is adopted.
	t.Run("adopted", func(t *testing.T) {
		rom, _ := l.pi("5", 0xff)
		l.hostile(r.Manifest.BuildID, "10.77.0.66", 0xff)
		booted := make(chan error, 1)
		go func() {
			_, err := rom.Boot(context.Background())
			booted <- err
		}()
		pikelet := func(args ...string) string {
			out, err := l.Command(l.Name, append([]string{"../../../build/pikelet", "nodes"}, args...)...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			return string(out)
		}
		for start := time.Now(); !strings.Contains(pikelet(), "waits to be adopted") || !strings.Contains(pikelet(), "CONFLICT"); time.Sleep(100 * time.Millisecond) {
			if time.Since(start) > tooLong {
				t.Fatalf("it is not shown:\n%s", pikelet())
			}
		}
		if got := pikelet("adopt", "10000000000000FF", "--mac", "d8:3a:dd:00:00:ff", "--node", "cellar"); !strings.Contains(got, "000000ff is adopted") {
			t.Error(got)
		}
		if err := <-booted; err != nil {
			t.Error(err)
		}
		s.says("msg=\"adopted a machine\" serial=000000ff")
		if b, err := os.ReadFile(filepath.Join(s.state, "adopted/000000ff.yaml")); err != nil || !strings.Contains(string(b), rom.MAC.String()) {
			t.Errorf("adopted is (%v) %s", err, b)
		}
		s.untouched(t)
	})
}
