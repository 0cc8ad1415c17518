package e2e

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
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

// bootNet starts a machine without a card.
func (l *lan) bootNet(rom *vm.NetROM, tap string, change ...func(*vm.Options)) *pi {
	l.t.Helper()
	return boot(l.t, "", append(change, func(o *vm.Options) {
		o.Net, o.Tap, o.Namespace = rom, tap, l.Name
		o.Serial = fmt.Sprintf("10000000%08x", rom.Serial)
	})...)
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

// servedToNode are parts of what udhcpc prints where DHCP names the boot server to
// a node's /init: the server's address, and the port of its HTTP API in option 43.
var servedToNode = []string{"siaddr='" + vm.LANAddress + "'", "opt43='01021f85'"}

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
		"--dhcp-leasefile="+filepath.Join(l.t.TempDir(), "leases"), "--dhcp-range=10.77.0.100,10.77.0.120,1h", "--no-ping",
		"--user=root", "--log-facility=-")
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("dnsmasq logged:\n%s", said.String())
		}
	})
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

func (s *server) output() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// expect waits for text in what the server prints.
func (s *server) expect(text string) {
	s.t.Helper()
	for start := time.Now(); time.Since(start) < tooLong; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(s.output(), text) {
			return
		}
	}
	s.t.Fatalf("the server did not print %q", text)
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
	args := []string{"../../../build/pikelet", "serve", image, "--inventory", file, "--interface", "br0", "--cache", dir, "--state", s.state}
	s.cmd = l.Command(l.Name, append(args, more...)...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := s.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		s.stop()
		if l.t.Failed() {
			l.t.Logf("the server printed:\n%s", s.output())
		}
	})
	s.expect("serving ")
	return s
}

// peak is the most memory a server had, MiB.
func (s *server) peak() int {
	s.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if found == nil {
		s.t.Fatalf("no VmHWM in %s", b)
	}
	kib, err := strconv.Atoi(string(found[1]))
	if err != nil {
		s.t.Fatal(err)
	}
	return kib / 1024
}
