package builder

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// k3sService is the service that the overlay k3s brings.
const k3sService = "etc/init.d/pikelet-k3s"

// k3sPrograms are what k3s and the kubelet in it execute, with where they may be
// and what brings them.
var k3sPrograms = []struct {
	name   string
	places []string
	remedy string
}{
	{"k3s", []string{"usr/lib/k3s/bin/k3s", "usr/bin/k3s", "usr/local/bin/k3s"},
		"give the overlay k3s a release, or add Alpine's package k3s"},
	{"mount", []string{"bin/mount", "usr/bin/mount"}, "add the package busybox or mount"},
	{"umount", []string{"bin/umount", "usr/bin/umount"}, "add the package busybox or umount"},
	{"iptables", iptablesPlaces, "add the package iptables"},
}

// iptablesPlaces are in the order of PATH with which k3s runs.
var iptablesPlaces = []string{"usr/sbin/iptables", "sbin/iptables", "usr/lib/k3s/bin/aux/iptables"}

// What each kind of iptables needs of the kernel. From Linux 6.17 on the older
// one's tables are off by default
// (https://lore.kernel.org/r/20250807112948.1400523-1-pablo@netfilter.org).
var (
	nftNeeds    = []string{"NF_TABLES", "NFT_COMPAT"}
	legacyNeeds = []string{"IP_NF_IPTABLES", "IP_NF_FILTER", "IP_NF_NAT"}
)

// checkK3s compares an image that has the overlay k3s with what k3s, the kubelet
// and kube-proxy need of it, besides the overlay's own kernel options.
func checkK3s(t *layers.Tree, k *kernel) (warnings []Warning, err error) {
	if t.Lookup(k3sService) == nil {
		return nil, nil
	}
	var errs []error
	for _, p := range k3sPrograms {
		if _, there := firstFile(t, p.places); !there {
			err := fmt.Errorf("overlay k3s: the image has no program %s (looked for /%s)", p.name, strings.Join(p.places, ", /"))
			errs = append(errs, hint.With(err, p.remedy))
		}
	}
	options, known := kernelOptions(t, k)
	if !known {
		return nil, errors.Join(errs...) // checkKernel warns of it
	}
	if program, there := firstFile(t, iptablesPlaces); there {
		known, err := checkIptables(program, k, options)
		errs = append(errs, err)
		if !known {
			warnings = append(warnings, warning("kernel cannot be checked for the tables of iptables", "overlay", "k3s", "program", "/"+program))
		}
	}
	// k3s-io/k3s, pkg/daemons/agent/agent_linux.go: k3s turns CPUCFSQuota off.
	if options["CFS_BANDWIDTH"] == "" {
		warnings = append(warnings, warning("kernel lacks an option",
			"package", k.Package, "kernel", k.Release, "option", "CONFIG_CFS_BANDWIDTH", "for", "CPU limits of pods"))
	}
	return warnings, errors.Join(errs...)
}

// checkIptables looks whether the kernel has the tables that an iptables wants.
// Its program is named by its kind: xtables-nft-multi or xtables-legacy-multi;
// known is false where it is not.
func checkIptables(program string, k *kernel, options map[string]string) (known bool, err error) {
	kind, needs := "nf_tables", nftNeeds
	switch base := path.Base(program); {
	case strings.Contains(base, "nft"):
	case strings.Contains(base, "legacy"):
		kind, needs = "legacy", legacyNeeds
	default:
		return false, nil
	}
	var missing []string
	for _, option := range needs {
		if v := options[option]; v != "y" && v != "m" {
			missing = append(missing, "CONFIG_"+option)
		}
	}
	if len(missing) == 0 {
		return true, nil
	}
	err = fmt.Errorf("overlay k3s: iptables is of the kind %s (/%s), and kernel %s of package %s lacks %s", kind, program, k.Release,
		k.Package, strings.Join(missing, ", "))
	if kind == "legacy" {
		return true, hint.With(err, "take an iptables of the kind nf_tables, such as Alpine's package iptables: kernels from 6.17 on have no "+
			"legacy tables unless they were asked to")
	}
	return true, hint.With(err, "take a kernel with nf_tables, such as Alpine's linux-rpi")
}

// firstFile returns the file that the first of several names there is leads to.
func firstFile(t *layers.Tree, names []string) (file string, there bool) {
	for _, name := range names {
		if t.Lookup(name) == nil {
			continue
		}
		if file, err := t.Resolve(name, true); err == nil {
			return file, true
		}
	}
	return "", false
}
