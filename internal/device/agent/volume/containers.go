package volume

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

const cgroupRoot = "/sys/fs/cgroup"

// defaultPodGrace is how long pods get to end after SIGTERM: the
// terminationGracePeriodSeconds that Kubernetes gives a pod that names none.
const defaultPodGrace = 30 * time.Second

// podGrace returns the grace period of the node's config. Stopping goes on
// without a config.
func podGrace() time.Duration {
	cfg, err := runfiles.Config()
	if err != nil {
		return defaultPodGrace
	}
	return graceOf(cfg)
}

// graceOf returns how long pods get to end: no longer than the desk lets
// anybody ask for, whatever config a node has.
func graceOf(cfg *nodeconfig.Config) time.Duration {
	if g := time.Duration(cfg.K3s.ShutdownGrace); g > 0 {
		return min(g, nodeconfig.MaxShutdownGrace)
	}
	return defaultPodGrace
}

// EndContainers ends every pod, on a node where k3s has stopped for good.
func EndContainers(out io.Writer) { endContainers(cgroupRoot, podGrace(), out) }

// endContainers ends every pod: k3s leaves them running when it stops, for
// itself to find them again, but their files are on the volume. Their processes
// get SIGTERM and grace to end by themselves; what is left then is killed. root
// is where cgroups are mounted.
func endContainers(root string, grace time.Duration, out io.Writer) {
	var groups []string
	for _, pattern := range []string{"kubepods*", "k8s.io", "default"} {
		found, _ := filepath.Glob(filepath.Join(root, pattern, "cgroup.kill"))
		for _, g := range found {
			groups = append(groups, filepath.Dir(g))
		}
	}
	for _, pid := range processesIn(groups) {
		unix.Kill(pid, unix.SIGTERM)
	}
	for deadline := time.Now().Add(grace); len(processesIn(groups)) > 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			fmt.Fprintf(out, "pikelet: containers did not end within %v of SIGTERM; killing them\n", grace)
			break
		}
	}
	for _, g := range groups {
		os.WriteFile(filepath.Join(g, "cgroup.kill"), []byte("1"), 0)
	}
}

// processesIn returns the processes of cgroups and of all below them, without
// those that have ended and wait for their parent: with k3s gone, shims may be
// late to do so.
func processesIn(groups []string) []int {
	var list []int
	for _, g := range groups {
		filepath.WalkDir(g, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() != "cgroup.procs" {
				return nil // a cgroup may go at any time
			}
			text, _ := os.ReadFile(p)
			for _, f := range strings.Fields(string(text)) {
				// 0 is a process of another PID namespace; as a target it would
				// mean this process' own group.
				if pid, err := strconv.Atoi(f); err == nil && pid > 1 && alive(pid) {
					list = append(list, pid)
				}
			}
			return nil
		})
	}
	return list
}

// alive reports whether a process runs: it is there and no zombie.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The state is behind the name, which may hold any character but is in
	// parentheses (proc_pid_stat(5)).
	_, state, found := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), ") ")
	return found && !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}
