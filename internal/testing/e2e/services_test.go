package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// TestEarlyServices boots an image whose simple services pikeletd does before
// OpenRC runs, but for one whose script has one byte more than the one known.
func TestEarlyServices(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("../../../cmd/starter/files/openrc/etc/init.d/hostname")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"init.d/hostname":        string(script) + "\n",
		"fstab":                  "/dev/root / auto ro,rshared 0 0\nscratch /mnt tmpfs nosuid,size=4m,mode=0750 0 0\n",
		"sysctl.d/50-early.conf": "vm.swappiness = 23\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := variant(t, "slot-size: 40MiB", "slot-size: 40MiB\nlayers: [{folder: "+dir+", to: etc}]")
	p := boot(t, r.Disk, func(o *vm.Options) { o.Snapshot = true })
	p.prompt()
	p.run("cat /run/pikelet/early.txt", "hostname is left to OpenRC: its script is not one of those known")
	for _, s := range strings.Fields("devfs dmesg mdev cgroups modules sysctl bootmisc localmount hostname networking syslog") {
		p.works("rc-service " + s + " status && rc-status -a -f ini | grep '^" + s + " = *started'")
	}
	p.works("[ $(rc-status -c | wc -l) = 0 ] && [ $(grep -c ' took ' /run/pikelet/early.txt) = 8 ]")
	p.works("[ $(cat /proc/sys/vm/swappiness) = 23 ] && [ $(hostname) = $(cat /etc/hostname) ] && grep ^virtio_net /proc/modules")
	for _, m := range []string{"devpts /dev/pts", "shm /dev/shm", "mqueue /dev/mqueue", "none /sys/fs/cgroup", "tmpfs /tmp"} {
		p.works("[ $(grep -c '^" + m + " ' /proc/mounts) = 1 ]")
	}
	p.works("grep '^scratch /mnt tmpfs .*nosuid.*size=4096k,mode=750' /proc/mounts && grep ' /mnt ' /proc/self/mountinfo | grep shared:")
	// OpenRC took its dependencies from the build, the same that it computes itself.
	p.works("[ -e /run/pikelet/depends.sh ] && [ ! -s /run/pikelet/depends.sh ] && cp /run/openrc/deptree /tmp/deptree")
	p.works("rc-update -u && cmp /run/openrc/deptree /tmp/deptree && grep -c swclock /tmp/deptree")
	// What is changed on the node is seen.
	p.works("sleep 1; echo rc_need=swclock > /etc/conf.d/syslog; rc-status >/dev/null; grep -A9 \"='syslog'\" /run/openrc/deptree | " +
		"grep ineed.*swclock")
	p.works("grep memory /sys/fs/cgroup/cgroup.subtree_control")
	p.works("[ $(cut -f1 /proc/sys/kernel/printk) = 4 ] && grep Linux /var/log/dmesg && [ -r /dev/stdin ]")
	for text, want := range map[string]int{
		"Setting hostname to": 1, "Starting networking": 1, "Applying kernel settings": 0, "Starting mdev": 0,
		"Mounting ": 0, "Loading modules": 0, "Preparing /tmp": 0, "Stopping": 0,
	} {
		if got := strings.Count(p.Output(), text); got != want {
			t.Errorf("the console says %q %d times, want %d", text, got, want)
		}
	}
	p.off()
}
