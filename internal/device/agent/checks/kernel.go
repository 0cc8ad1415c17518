package checks

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
)

// cgroupProblem looks for cgroup v2 with the controllers that k3s refuses to
// start without (docs/platform.md 6.3, 7.9).
func cgroupProblem(root string) string {
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return "cgroup v2 is not mounted at /sys/fs/cgroup: enable the service cgroups"
	}
	have := strings.Fields(string(b))
	var missing []string
	for _, want := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !slices.Contains(have, want) {
			missing = append(missing, want)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return fmt.Sprintf("the kernel has no cgroup controller %s: firmware of the Pi turns memory off unless the kernel is "+
		"told cgroup_enable=memory", strings.Join(missing, ", "))
}

// moduleProblem looks for modules that are loaded or built in.
func moduleProblem(names []string) string {
	loaded := sysfs.Read("/proc/modules")
	release := sysfs.Read("/proc/sys/kernel/osrelease")
	builtin := sysfs.Read("/lib/modules/" + release + "/modules.builtin")
	var missing []string
	for _, n := range names {
		if !strings.Contains("\n"+loaded, "\n"+n+" ") && !strings.Contains(strings.ReplaceAll(builtin, "-", "_"), "/"+n+".ko") {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return ""
	}
	return "not loaded: " + strings.Join(missing, ", ")
}

// sysctlProblem looks at what k3s and pods need of the kernel (docs/platform.md 6.4).
func sysctlProblem() string {
	var wrong []string
	for _, s := range [][2]string{{"net/ipv4/ip_forward", "1"}, {"net/bridge/bridge-nf-call-iptables", "1"}} {
		if got := sysfs.Read("/proc/sys/" + s[0]); got != s[1] {
			wrong = append(wrong, fmt.Sprintf("%s is %q, want %s", strings.ReplaceAll(s[0], "/", "."), got, s[1]))
		}
	}
	return strings.Join(wrong, "; ")
}

// propagationProblem looks whether mounts of containers are seen by others
// (docs/platform.md 8.4).
func propagationProblem() string {
	list, err := mounts.List()
	if err != nil {
		return err.Error()
	}
	private := map[string]bool{"/": true, "/var/lib/kubelet": true}
	for _, m := range list {
		if m.Shared {
			delete(private, m.Path)
		}
	}
	for path := range private {
		return path + " is not a shared mount"
	}
	return ""
}
