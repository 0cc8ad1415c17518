package checks

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/sysfs"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// What the kubelet, kube-proxy and pods need of the system besides cgroups,
// modules and mounts. Each function looks below root, "/" on a node, and says
// what is missing and what helps.

// needsChecks are those of a node with a part in a cluster. What k3s works
// without, or makes up for, is a warning: a node whose network names no name
// server must be able to take an upgrade.
func needsChecks(ctx context.Context, s state, root string) []node.Check {
	version := iptablesVersion(ctx, root)
	list := []node.Check{
		result("iptables", "works with this kernel", iptablesProblem(root, version)),
		result("conntrack", "the kernel tracks connections", conntrackProblem(root)),
		warning("resolv.conf", "name servers that pods can reach", resolvProblem(root, s.cfg.K3s)),
		warning("inotify", "enough watches for pods", inotifyProblem(root)),
		result("machine-id", "the node's own", machineIDProblem(root)),
		result("swap", "off, or of no concern to the kubelet", swapProblem(root, s.cfg.K3s)),
	}
	if list[0].OK {
		list[0] = warning("iptables", list[0].Says, iptablesDoubt(version))
	}
	if list[1].OK {
		list[1] = warning("conntrack", list[1].Says, conntrackFull(root))
	}
	return list
}

// iptablesPlaces are where k3s finds the program, by its PATH: the system's own
// first, then the one that a release bundles.
var iptablesPlaces = []string{"usr/sbin/iptables", "sbin/iptables", "usr/lib/k3s/bin/aux/iptables"}

// iptablesVersion returns what iptables says of itself, such as "iptables
// v1.8.11 (nf_tables)"; "" where there is none.
func iptablesVersion(ctx context.Context, root string) string {
	ctx, stop := context.WithTimeout(ctx, 5*time.Second)
	defer stop()
	for _, name := range iptablesPlaces {
		name = filepath.Join(root, name)
		if _, err := os.Stat(name); err != nil {
			continue
		}
		out, err := exec.CommandContext(ctx, name, "--version").Output()
		if err != nil {
			return "iptables: " + err.Error()
		}
		return strings.TrimSpace(string(out))
	}
	return ""
}

// iptablesProblem returns why iptables and kernel do not fit, "" where they do:
// kube-proxy, flannel and network policies of k3s work by it. The tables of its older kind are off by
// default from Linux 6.17 on (NETFILTER_XTABLES_LEGACY in net/netfilter/Kconfig,
// https://lore.kernel.org/r/20250807112948.1400523-1-pablo@netfilter.org).
func iptablesProblem(root, version string) string {
	var missing []string
	need := func(names ...string) {
		for _, n := range names {
			if !hasModule(root, n) {
				missing = append(missing, n)
			}
		}
	}
	switch {
	case version == "":
		return "there is no iptables: add the package iptables to the image"
	case strings.Contains(version, "(nf_tables)"):
		if need("nf_tables", "nft_compat"); len(missing) > 0 {
			return fmt.Sprintf("%s wants nf_tables, and the kernel has no module %s: take a kernel with NF_TABLES and NFT_COMPAT",
				version, strings.Join(missing, ", "))
		}
	case strings.Contains(version, "(legacy)"):
		if need("ip_tables", "iptable_filter", "iptable_nat"); len(missing) > 0 {
			return fmt.Sprintf("%s wants tables that the kernel no longer has, module %s: take an iptables of the nf_tables kind, "+
				"as Alpine's package iptables is", version, strings.Join(missing, ", "))
		}
	}
	return ""
}

// iptablesDoubt says that an iptables does not say which kind it is, as those
// before 1.8 do not.
func iptablesDoubt(version string) string {
	if strings.Contains(version, "(nf_tables)") || strings.Contains(version, "(legacy)") {
		return ""
	}
	return fmt.Sprintf("iptables does not say which kind it is (%q): take Alpine's package iptables", version)
}

// hasModule reports whether a module is loaded, built in, or can be loaded.
func hasModule(root, name string) bool {
	if _, err := os.Stat(filepath.Join(root, "sys/module", name)); err == nil {
		return true
	}
	dir := filepath.Join(root, "lib/modules", sysfs.Read(filepath.Join(root, "proc/sys/kernel/osrelease")))
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		for _, line := range strings.Split(sysfs.Read(filepath.Join(dir, list)), "\n") {
			file, _, _ := strings.Cut(line, ":")
			base, _, _ := strings.Cut(filepath.Base(file), ".ko")
			if strings.ReplaceAll(base, "-", "_") == name {
				return true
			}
		}
	}
	return false
}

// conntrackProblem returns why connections, which services need, are not tracked;
// "" where they are.
func conntrackProblem(root string) string {
	if _, err := strconv.Atoi(sysfs.Read(filepath.Join(root, conntrackMax))); err != nil {
		return "the kernel tracks no connections: the module nf_conntrack is not loaded; add it to modules of the node config"
	}
	return ""
}

// conntrackFull reports whether there is no room for more connections.
func conntrackFull(root string) string {
	most, err := strconv.Atoi(sysfs.Read(filepath.Join(root, conntrackMax)))
	count, err2 := strconv.Atoi(sysfs.Read(filepath.Join(root, conntrackCount)))
	if err != nil || err2 != nil || count < most {
		return ""
	}
	return fmt.Sprintf("all %d entries for connections are in use, and new connections are dropped: set the sysctl "+
		"net.netfilter.nf_conntrack_max higher", most)
}

// The kernel's own files (https://docs.kernel.org/networking/nf_conntrack-sysctl.html).
const (
	conntrackMax   = "proc/sys/net/netfilter/nf_conntrack_max"
	conntrackCount = "proc/sys/net/netfilter/nf_conntrack_count"
)

// resolvProblem looks at the name servers that the kubelet gives pods. k3s
// replaces a list that has one which pods cannot reach, and takes 8.8.8.8
// (k3s-io/k3s, pkg/agent/config/config.go, locateOrGenerateResolvConf): names of
// the local network are then unknown to pods, and all are without the Internet.
func resolvProblem(root string, k nodeconfig.K3s) string {
	const instead = "; k3s gives pods 8.8.8.8 instead: set network.dns in the node config"
	name := "/etc/resolv.conf"
	if own, is := k.Options["resolv-conf"].(string); is {
		name = own
	}
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		return fmt.Sprintf("there is no %s%s", name, instead)
	}
	servers := 0
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		servers++
		if ip := net.ParseIP(f[1]); ip == nil || !ip.IsGlobalUnicast() {
			return fmt.Sprintf("%s has the name server %s, which pods cannot reach%s", name, f[1], instead)
		}
	}
	if servers == 0 {
		return fmt.Sprintf("%s names no name server; does the DHCP server tell one?%s", name, instead)
	}
	return ""
}

// Each pod's log, volume and configuration is watched; with less than these,
// pods fail with "too many open files"
// (https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files).
const (
	inotifyInstances = 512
	inotifyWatches   = 65536
)

func inotifyProblem(root string) string {
	for _, s := range []struct {
		name string
		want int
	}{{"max_user_instances", inotifyInstances}, {"max_user_watches", inotifyWatches}} {
		text := sysfs.Read(filepath.Join(root, "proc/sys/fs/inotify", s.name))
		if got, err := strconv.Atoi(text); err != nil || got < s.want {
			return fmt.Sprintf("fs.inotify.%s is %q, and pods want %d: set it in sysctls of the node config, or leave it to the overlay k3s",
				s.name, text, s.want)
		}
	}
	return ""
}

var machineIDForm = regexp.MustCompile(`^[0-9a-f]{32}\n?$`)

// machineIDProblem looks at what the kubelet tells the cluster, and network
// plugins take for unique (https://www.freedesktop.org/software/systemd/man/latest/machine-id.html).
// An image that holds one is refused when it is built.
func machineIDProblem(root string) string {
	const remedy = ": pikeletd writes it on each boot from the node's seed; what does the check prepare say?"
	b, err := os.ReadFile(filepath.Join(root, "etc/machine-id"))
	switch {
	case err != nil:
		return "there is no /etc/machine-id" + remedy
	case !machineIDForm.Match(b):
		return "/etc/machine-id does not hold 32 hexadecimal digits" + remedy
	case strings.Trim(string(b), "0\n") == "":
		return "/etc/machine-id is all zeros" + remedy
	}
	return ""
}

// swapProblem looks for swap where the kubelet does not start with it: k3s lets
// it, unless it is told otherwise.
func swapProblem(root string, k nodeconfig.K3s) string {
	lines := strings.Split(sysfs.Read(filepath.Join(root, "proc/swaps")), "\n")
	if len(lines) < 2 || !failsOnSwap(k) {
		return ""
	}
	device, _, _ := strings.Cut(lines[1], " ")
	device, _, _ = strings.Cut(device, "\t")
	return fmt.Sprintf("%s is in use as swap, and kubelet-arg has fail-swap-on, with which the kubelet does not start: turn one of them off",
		device)
}

// failsOnSwap reports whether the options tell the kubelet not to start where
// there is swap.
func failsOnSwap(k nodeconfig.K3s) bool {
	var all []string
	for _, key := range []string{"kubelet-arg", "kubelet-arg+"} {
		switch v := k.Options[key].(type) {
		case string:
			all = append(all, v)
		case []any:
			for _, e := range v {
				all = append(all, fmt.Sprint(e))
			}
		}
	}
	return slices.ContainsFunc(all, func(arg string) bool {
		name, value, has := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		on, err := strconv.ParseBool(value)
		return name == "fail-swap-on" && (!has || err == nil && on)
	})
}
