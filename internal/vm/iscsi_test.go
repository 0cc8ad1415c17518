package vm_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// nas is a real iSCSI target on loopback; a guest finds it at 10.0.2.2.
type nas struct {
	t      *testing.T
	port   int
	socket string
	disk   string
	cmd    *exec.Cmd
	setup  [][]string
}

const (
	targetName   = "iqn.2026-01.lan.nas:attic"
	chapPassword = "not-so-secret-1"
)

// newNAS starts a target with one blank LUN of mib MiB that wants CHAP.
func newNAS(t *testing.T, mib int64) *nas {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nas{t: t, port: l.Addr().(*net.TCPAddr).Port, disk: filepath.Join(t.TempDir(), "lun.img")}
	l.Close()
	// tgtd and tgtadm meet at a socket whose name holds this number.
	n.socket = fmt.Sprint(n.port % 30000)
	if err := os.WriteFile(n.disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(n.disk, mib<<20); err != nil {
		t.Fatal(err)
	}
	n.setup = [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "-T", targetName},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", n.disk},
		{"--op", "new", "--mode", "account", "--user", "attic", "--password", chapPassword},
		{"--op", "bind", "--mode", "account", "--tid", "1", "--user", "attic"},
		{"--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"},
	}
	n.start()
	t.Cleanup(n.stop)
	return n
}

// start starts the target, again after a stop.
func (n *nas) start() {
	n.t.Helper()
	n.cmd = exec.Command("tgtd", "-f", "-d", "0", "-C", n.socket, "--iscsi", fmt.Sprintf("portal=127.0.0.1:%d", n.port))
	var said strings.Builder
	n.cmd.Stderr = &said
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	for _, args := range n.setup {
		var out []byte
		var err error
		for start := time.Now(); time.Since(start) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
			if out, err = exec.Command("tgtadm", append([]string{"-C", n.socket, "--lld", "iscsi"}, args...)...).CombinedOutput(); err == nil {
				break
			}
		}
		if err != nil {
			n.t.Fatalf("tgtadm %v: %v: %s\n%s", args, err, out, said.String())
		}
	}
}

// stop takes the target away as pulling its plug would.
func (n *nas) stop() {
	n.cmd.Process.Kill()
	n.cmd.Wait()
	os.Remove("/var/run/tgtd.ipc_abstract_namespace." + n.socket)
	os.Remove("/var/run/tgtd.ipc_abstract_namespace." + n.socket + ".lock")
}

// config is a node config with its volume on the LUN.
func (n *nas) config(hostname, more string) string {
	return fmt.Sprintf(`hostname: %s
iscsi:
  targets:
  - name: %s
    portals: ['10.0.2.2:%d']
    chap: {user: attic, password: %s}
volume: {on: iscsi, lun: 1%s}
`, hostname, targetName, n.port, chapPassword, more)
}

func TestVolumeOnISCSI(t *testing.T) {
	t.Parallel()
	n := newNAS(t, 256)
	card := cardOf(t, sharedBuild(t, "node.yaml"))
	configure(t, card, n.config("attic", ", format: blank"))
	p := boot(t, card)
	p.prompt()
	p.run("cat /run/pikelet/volume.json; ls -l /dev/disk/by-path; mount | grep /dev/sd; iscsiadm -m session; dmesg | tail -20; free -m", "Mem:")
	p.off()
	t.Log(p.Output())
}
