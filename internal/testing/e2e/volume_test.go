package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// nas is a real iSCSI target on loopback, where a guest finds it at 10.0.2.2, or
// in a network of the test's own.
type nas struct {
	t      *testing.T
	port   int
	socket string
	lan    *lan // nil for loopback
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
	return newNASIn(t, mib, nil)
}

func newNASIn(t *testing.T, mib int64, at *lan) *nas {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &nas{t: t, lan: at, port: l.Addr().(*net.TCPAddr).Port, disk: filepath.Join(t.TempDir(), "lun.img")}
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
	args, here := []string{"tgtd", "-f", "-d", "0", "-C", n.socket, "--iscsi"}, "127.0.0.1"
	if n.lan != nil {
		args, here = append([]string{"ip", "netns", "exec", n.lan.Name}, args...), vm.LANAddress
	}
	args = append(args, fmt.Sprintf("portal=%s:%d", here, n.port))
	n.cmd = exec.Command(args[0], args[1:]...)
	var said strings.Builder
	n.cmd.Stderr = &said
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	for _, args := range n.setup {
		var out []byte
		var err error
		for start := time.Now(); time.Since(start) < tooLong; time.Sleep(50 * time.Millisecond) {
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
	there := "10.0.2.2"
	if n.lan != nil {
		there = "10.77.0.1"
	}
	return fmt.Sprintf(`hostname: %s
iscsi:
  targets:
  - name: %s
    portals: ['%s:%d']
    chap: {user: attic, password: %s}
volume: {on: iscsi, lun: 1%s}
`, hostname, targetName, there, n.port, chapPassword, more)
}

// counting is a loop in the guest that appends numbers to a file of the
// volume, and says each as soon as the disk has it.
const counting = `(i=$(wc -l < /var/lib/rancher/count 2>/dev/null || echo 0); while :; do i=$((i+1)); ` +
	`echo $i >> /var/lib/rancher/count && sync /var/lib/rancher/count && echo "synced:$i"; sleep 0.05; done) &`

// lastSynced returns the last number the guest said it had on disk.
func lastSynced(t *testing.T, console string) int {
	t.Helper()
	all := regexp.MustCompile(`synced:(\d+)\r?\n`).FindAllStringSubmatch(console, -1)
	if len(all) == 0 {
		t.Fatal("nothing was written")
	}
	n, err := strconv.Atoi(all[len(all)-1][1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// counted checks in the guest that the file holds every number up to n at
// least, in order.
func (p *pi) counted(n int) {
	p.t.Helper()
	p.works(fmt.Sprintf(`awk 'NR != $1 {bad=1} END {exit bad || NR < %d}' /var/lib/rancher/count`, n))
}

// counted checks the same on the LUN, which no node has mounted.
func (n *nas) counted(last int) {
	n.t.Helper()
	b, err := exec.Command("debugfs", "-R", "cat /var/lib/rancher/count", n.disk).Output()
	if err != nil {
		n.t.Fatal(err)
	}
	lines := strings.Fields(string(b))
	for i, line := range lines {
		if line != fmt.Sprint(i+1) {
			n.t.Fatalf("line %d of the file is %q", i+1, line)
		}
	}
	if len(lines) < last {
		n.t.Errorf("the file has %d lines, and %d were synced", len(lines), last)
	}
}

// TestVolumeOnISCSI: a blank LUN is formatted and used with CHAP; what was
// synced survives a power cut; the stock stop script does not take the disk
// away; a poweroff under writes ends; another node is refused.
func TestVolumeOnISCSI(t *testing.T) {
	t.Parallel()
	n := newNAS(t, 256)
	image := sharedBuild(t, "node.yaml")
	card := cardOf(t, image)
	configure(t, card, n.config("attic", ", format: blank"))
	p := boot(t, card)
	p.prompt()
	p.run("pikeletd status", "volume  on iscsi, /dev/sda", "LOGGED_IN /dev/sda", "iqn     iqn.2026-11.io.github.pikelet-os:attic-")
	p.works(fmt.Sprintf("[ -b /dev/disk/by-path/ip-10.0.2.2:%d-iscsi-%s-lun-1 ] && df /var/lib/rancher | grep /dev/sda", n.port, targetName))
	p.works("blkid /dev/sda | grep 'LABEL=\"attic\"' && dumpe2fs -h /dev/sda 2>/dev/null | grep 'features.* mmp'")
	p.works("[ $(cat /sys/class/iscsi_session/session1/recovery_tmo) = 86400 ]")
	p.works("rc-service -D iscsid stop && ls -d /sys/class/iscsi_session/session1")
	p.works("echo still > /var/lib/rancher/there && sync /var/lib/rancher/there && rc-service -D iscsid start")
	p.run(counting, "synced:20\r")
	p.Close() // the plug
	done := lastSynced(t, p.Output())

	p = boot(t, card)
	p.prompt()
	p.counted(done)
	p.works("[ $(cat /var/lib/rancher/there) = still ]")
	p.run(counting, fmt.Sprintf("synced:%d\r", done+20))
	start := time.Now()
	p.off()
	t.Logf("a poweroff under writes took %.0f s", time.Since(start).Seconds())
	head, err := exec.Command("dumpe2fs", "-h", n.disk).Output()
	if err != nil || strings.Contains(string(head), "needs_recovery") ||
		!strings.Contains(string(head), "Filesystem state:         clean") || strings.Contains(p.Output(), "giving them up") {
		t.Errorf("the volume was not closed (%v):\n%s", err, head)
	}
	before, _, _ := strings.Cut(p.Output(), "Closing the volume")
	done = lastSynced(t, before)
	n.counted(done)

	other := cardOf(t, image)
	configure(t, other, n.config("cellar", ", format: blank"))
	p = boot(t, other)
	p.expect(`holds an ext filesystem labelled "attic", and this node's volume would be labelled cellar`)
	if !full.Tests {
		return
	}
	p.prompt()
	p.works("! mount | grep /dev/sda")
	p.Close()

	p = boot(t, card)
	p.prompt()
	p.counted(done)
	p.run("pikeletd reset --volume --yes", "and the volume on iscsi", "Restarting system")
	p.Close()
	lun := readCard(t, n.disk, 0, 16<<20)
	if bytes.Count(lun, []byte{0}) != len(lun) {
		t.Error("the LUN is not blank after a reset")
	}
}

// TestISCSIDiscovery: a portal is asked which targets it has, and all are logged in
// to. What the target says its address is leads nowhere in this network, until
// a way there is made in the guest; the daemon tries again by itself.
func TestISCSIDiscovery(t *testing.T) {
	t.Parallel()
	n := newNAS(t, 64)
	card := cardOf(t, sharedBuild(t, "node.yaml"))
	configure(t, card, fmt.Sprintf(`hostname: attic
iscsi: {discovery: [{portal: '10.0.2.2:%d', chap: {user: attic, password: %s}}]}
`, n.port, chapPassword))
	p := boot(t, card)
	p.prompt()
	p.run("pikeletd status", fmt.Sprintf("iscsi   %s at 127.0.0.1:%d: logging in:", targetName, n.port))
	p.run(fmt.Sprintf("nc -ll -p %d -e nc 10.0.2.2 %d &", n.port, n.port))
	p.works(fmt.Sprintf("until [ -b /dev/disk/by-path/ip-127.0.0.1:%d-iscsi-%s-lun-1 ]; do sleep 1; done", n.port, targetName))
	p.run("pikeletd status", targetName+" LOGGED_IN /dev/sda")
}

// TestNodeOutlivesItsNAS: a target that is down keeps no node from starting; it is
// used as soon as it is there. When it goes away under writes for minutes,
// the node neither reboots nor loses anything.
func TestNodeOutlivesItsNAS(t *testing.T) {
	t.Parallel()
	n := newNAS(t, 256)
	n.stop()
	card := cardOf(t, sharedBuild(t, "node.yaml"))
	configure(t, card, n.config("attic", ", format: blank"))
	p := boot(t, card)
	p.expect("THE VOLUME IS MISSING", "trying again in the background")
	p.prompt()
	p.run("pikeletd status", "volume  MISSING, on iscsi")
	n.start()
	p.works("until mount | grep '/dev/sda on /var/lib/rancher'; do sleep 1; done")
	p.run(counting, "synced:20\r")
	n.stop()
	time.Sleep(3 * time.Minute) // what is tested is that this does nothing
	p.run("uptime", "load average")
	before := lastSynced(t, p.Output())
	n.start()
	p.expect(fmt.Sprintf("synced:%d\r", before+20))
	p.run("kill %1", "")
	p.counted(before + 20)
	p.works("! mount | grep '/dev/sda.*[(,]ro[,)]' && ! dmesg | grep -i 'remounting filesystem read-only'")
	if p.Boots() != 1 {
		t.Errorf("the node was started %d times", p.Boots())
	}
	// A shutdown does not wait for a target that is gone.
	p.run(counting, fmt.Sprintf("synced:%d\r", before+40))
	n.stop()
	start := time.Now()
	p.run("pikeletd poweroff", "reboot: Power down")
	if err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("a poweroff under writes without the target took %.0f s", time.Since(start).Seconds())
	if !strings.Contains(p.Output(), "giving them up") {
		t.Error("the node did not say that it gave up the last writes")
	}
}

// TestVolumeOnDisk: a USB or NVMe disk that is blank is formatted and used, on the
// next boot too, and another blank one in its place is not; logs go to state where
// the config says so.
func TestVolumeOnDisk(t *testing.T) {
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
