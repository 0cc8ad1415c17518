package builder

import (
	"archive/tar"
	"debug/buildinfo"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/layers/store"
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

// addK3s links the commands of k3s in an image that has the overlay, checks that the
// image has what k3s needs, and finds out which Kubernetes it brings.
func (a *assembly) addK3s(epoch time.Time) error {
	if err := linkK3s(a.Tree, epoch); err != nil {
		return err
	}
	warnings, err := checkK3s(a.Tree, a.Kernel)
	if err != nil {
		return err
	}
	a.Warnings = append(a.Warnings, warnings...)
	a.Kubernetes, warnings, err = findKubernetes(a.Tree, a.Packages)
	a.Warnings = append(a.Warnings, warnings...)
	return err
}

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
	options, known, err := kernelOptions(t, k)
	if err != nil {
		return nil, err
	}
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

// kubernetesModule is the module whose version k3s, the kubelet and the API server
// are of. k3s builds with a fork of it, under versions such as v1.34.4-k3s1
// (k3s-io/k3s, go.mod).
const kubernetesModule = "k8s.io/kubernetes"

// kubernetesPlaces are the programs that hold it: all of k3s is one.
var kubernetesPlaces = append(slices.Clone(k3sPrograms[0].places), "usr/lib/k3s/bin/kubelet", "usr/bin/kubelet")

// findKubernetes returns the version of Kubernetes that an image with the overlay
// k3s brings, as v1.34.4: by what the go command records in programs, or else by
// the version of the package k3s. "" is returned with a warning where neither
// tells, and without one where the image has no such overlay.
func findKubernetes(t *layers.Tree, packages []*apk.Installed) (version string, warnings []Warning, err error) {
	if t.Lookup(k3sService) == nil {
		return "", nil, nil
	}
	for _, name := range kubernetesPlaces {
		file, there := firstFile(t, []string{name})
		if !there {
			continue
		}
		module, err := moduleVersion(t.Lookup(file), kubernetesModule)
		if err != nil {
			return "", nil, fmt.Errorf("reading /%s: %w", file, err)
		}
		if v, err := skew.Parse(module); err == nil {
			return plainVersion(v), nil, nil
		}
	}
	for _, p := range packages {
		if p.Name != "k3s" {
			continue
		}
		if v, err := skew.Parse(p.Version); err == nil {
			return plainVersion(v), nil, nil
		}
	}
	return "", []Warning{warning("version of Kubernetes is not known, so upgrades cannot be kept from breaking the rule on version skew",
		"overlay", "k3s")}, nil
}

// plainVersion is a version of Kubernetes itself, without what a fork adds.
func plainVersion(v skew.Version) string { return fmt.Sprintf("v%d.%d.%d", v.Major, v.Minor, v.Patch) }

// moduleVersion returns the version of a module in a Go program, of the one that
// replaces it where one does; "" where the file is no such program or has no such
// module.
func moduleVersion(e *layers.Entry, module string) (string, error) {
	if e == nil || e.Typeflag != tar.TypeReg || e.Size == 0 {
		return "", nil
	}
	r := e.Content.OpenAt()
	defer r.Close()
	info, err := buildinfo.Read(r)
	switch {
	case errors.Is(err, store.ErrCorrupt):
		return "", err
	case err != nil:
		return "", nil // a script, or a program in another language
	}
	for _, m := range info.Deps {
		if m.Path == module && m.Replace != nil {
			return m.Replace.Version, nil
		}
		if m.Path == module {
			return m.Version, nil
		}
	}
	return "", nil
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
