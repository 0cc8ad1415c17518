package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// check is the verb: all checks, a line each. It fails where one does.
func check(out io.Writer) error {
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	failed := 0
	for _, c := range runChecks(cfg) {
		if !c.OK {
			failed++
		}
		fmt.Fprintln(out, c)
	}
	if failed > 0 {
		return fmt.Errorf("%d of the checks failed", failed)
	}
	return nil
}

// cardless says that this boot had no card.
func cardless() bool {
	b, err := readBoot()
	return err == nil && b.Slot == slots.Net
}

// runChecks asks for what a node needs, and what k3s needs where it runs.
func runChecks(cfg *nodeconfig.Config) []node.Check {
	var list []node.Check
	add := func(name, good string, problem string) {
		c := node.Check{Name: name, OK: problem == "", Says: good}
		if problem != "" {
			c.Says = problem
		}
		list = append(list, c)
	}
	// beyond is add for what lies behind the network: where that is fine here,
	// it is no fault of this node's.
	beyond := func(name, good string, problem string) {
		add(name, good, problem)
		list[len(list)-1].Outside = problem != "" && networkFine(cfg.Network.Interfaces)
	}
	p, err := readPrepared()
	switch {
	case err != nil:
		add("prepare", "", "the node was not prepared: "+err.Error())
	case p.State.Memory != "" && cardless():
		add("state", "in memory: "+p.State.Memory, "")
	case p.State.Memory != "":
		add("state", "", "state is in memory: "+p.State.Memory)
	default:
		add("state", "on "+p.State.Device, "")
	}
	boot, err := readBoot()
	list = append(list, configCheck(p.Config, err == nil && boot.Kind == slots.Trial))
	v, err := readVolume()
	switch {
	case err != nil:
		add("volume", "", err.Error())
	case !v.Mounted && v.On == "iscsi" && !v.Refused:
		beyond("volume", "", v.Waiting)
	case !v.Mounted:
		add("volume", "", v.Waiting)
	default:
		add("volume", "on "+v.On, volumeProblem(v))
	}
	add("network", "there is an interface with a carrier and an address", networkProblem(cfg.Network.Interfaces))
	add("interfaces", "as the node config says", askedProblem(cfg.Network))
	list = append(list, ownChecks(checksDir, checkTime)...)
	if cfg.K3s.Role == "" {
		return list
	}
	add("cgroups", "version 2 with memory, cpu, cpuset and pids", cgroupProblem("/sys/fs/cgroup"))
	add("modules", "loaded", moduleProblem([]string{"overlay", "br_netfilter", "nf_conntrack", "vxlan"}))
	add("sysctls", "set", sysctlProblem())
	add("propagation", "/ and the kubelet's folder are shared", propagationProblem())
	add("rancher", "a filesystem containers can be laid over", rancherProblem())
	add("route", "there is a default route", routeProblem())
	if synchronised() {
		add("time", "kept by a time server", "")
	} else {
		beyond("time", "", "no time server has answered yet; is chrony in the image, and can its servers be reached?")
	}
	k := k3sStatus(cfg)
	if k.Running {
		add("kubelet", k.Says, "")
	} else {
		add("kubelet", "", k.Says+"; /var/log/k3s.log says more")
	}
	switch err := nodeReady(kubeletConfig, p.Hostname, readTrimmed("/proc/sys/kernel/random/boot_id")); {
	case err == nil:
		add("node", "the API server sees it as Ready", "")
	case errors.Is(err, errUnreachable) && cfg.K3s.Role != "server":
		beyond("node", "", err.Error())
	default:
		add("node", "", err.Error())
	}
	return list
}

// configCheck fails on the trial of an image that does not take all of the
// config, so that the node goes back to the one that does. Later it must not
// keep the node from the image that mends it: status tells of it as a problem.
func configCheck(c node.ConfigStatus, trial bool) node.Check {
	if c.Partial && trial {
		return node.Check{Name: "config", Says: "this image does not take all of the node's config: " + c.Refused +
			"; mend it and send it before the next upgrade: pikelet node send"}
	}
	return node.Check{Name: "config", OK: true, Says: "from " + c.Source}
}

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
	return fmt.Sprintf("the kernel has no cgroup controller %s: firmware of the Pi turns memory off unless the kernel is told cgroup_enable=memory", strings.Join(missing, ", "))
}

// moduleProblem looks for modules that are loaded or built in.
func moduleProblem(names []string) string {
	loaded := readTrimmed("/proc/modules")
	release := readTrimmed("/proc/sys/kernel/osrelease")
	builtin := readTrimmed("/lib/modules/" + release + "/modules.builtin")
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

// sysctlProblem looks at what k3s and pods need of the kernel
// (docs/platform.md 6.4).
func sysctlProblem() string {
	var wrong []string
	for _, s := range [][2]string{{"net/ipv4/ip_forward", "1"}, {"net/bridge/bridge-nf-call-iptables", "1"}} {
		if got := readTrimmed("/proc/sys/" + s[0]); got != s[1] {
			wrong = append(wrong, fmt.Sprintf("%s is %q, want %s", strings.ReplaceAll(s[0], "/", "."), got, s[1]))
		}
	}
	return strings.Join(wrong, "; ")
}

// propagationProblem looks whether mounts of containers are seen by others
// (docs/platform.md 8.4).
func propagationProblem() string {
	list, err := mounts()
	if err != nil {
		return err.Error()
	}
	private := map[string]bool{"/": true, "/var/lib/kubelet": true}
	for _, m := range list {
		if m.shared {
			delete(private, m.path)
		}
	}
	for path := range private {
		return path + " is not a shared mount"
	}
	return ""
}

// Filesystem types as statfs names them, from linux/magic.h.
const (
	magicExt4  = 0xef53
	magicXFS   = 0x58465342
	magicTmpfs = 0x01021994
)

func rancherProblem() string {
	var st unix.Statfs_t
	if err := unix.Statfs("/var/lib/rancher", &st); err != nil {
		return err.Error()
	}
	switch st.Type {
	case magicExt4, magicXFS, magicTmpfs:
		return ""
	}
	return fmt.Sprintf("/var/lib/rancher is on a filesystem of type %#x; k3s' overlayfs wants ext4", st.Type)
}

func routeProblem() string {
	for _, line := range strings.Split(readTrimmed("/proc/net/route"), "\n") {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "00000000" {
			return ""
		}
	}
	for _, line := range strings.Split(readTrimmed("/proc/net/ipv6_route"), "\n") {
		if f := strings.Fields(line); len(f) > 9 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
			return ""
		}
	}
	return "there is no default route, and flannel wants one; is the network up?"
}
