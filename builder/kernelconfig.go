package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers"
)

// kernelNeed is an option a kernel must be built with.
type kernelNeed struct {
	Option string // without CONFIG_
	Module string // that brings it where it is m; "" where only y will do
	For    string // what cannot work without it
	Wanted bool   // an image can do without For
}

// kernelNeeds are what every image needs. dm-linear is in the core of device
// mapper, so it comes with BLK_DEV_DM.
var kernelNeeds = []kernelNeed{
	{Option: "BLK_DEV_INITRD", Module: "", For: "the initramfs"},
	{Option: "RD_ZSTD", Module: "", For: "the initramfs, which is compressed with zstd"},
	{Option: "DEVTMPFS", Module: "", For: "/dev"},
	{Option: "TMPFS", Module: "", For: "/run"},
	{Option: "SQUASHFS", Module: "squashfs", For: "the root"},
	{Option: "BLK_DEV_DM", Module: "dm_mod", For: "dm-linear and dm-verity, which check the root"},
	{Option: "DM_VERITY", Module: "dm_verity", For: "the check of the root"},
	{Option: "OVERLAY_FS", Module: "overlay", For: "a writable /etc and /var"},
	{Option: "EXT4_FS", Module: "ext4", For: "the state partition"},
	{Option: "MEMCG", Module: "", For: "memory limits of pods"},
}

// maxKernelConfig bounds /boot/config-*; Debian's has 330 kB.
const maxKernelConfig = 4 << 20

// checkKernel compares a kernel's own configuration and modules with what is
// needed of it. A kernel without a configuration is a warning: its modules
// alone do not say what is built in.
func checkKernel(t *layers.Tree, k *kernel, needs []kernelNeed) (warnings []Warning, err error) {
	options, known, err := kernelOptions(t, k)
	if err != nil {
		return nil, err
	}
	if !known {
		return []Warning{warning("kernel options cannot be checked", "package", k.Package, "missing", "/"+k.configFile())}, nil
	}
	var errs []error
	for _, n := range needs {
		switch value := options[n.Option]; {
		case value == "y":
		case value == "m" && (n.Module == anyModule || n.Module != "" && k.Modules.Has(n.Module)):
		case value == "m" && n.Module != "":
			errs = append(errs, fmt.Errorf("kernel %s of package %s: CONFIG_%s=m, but the package has no module %s; needed for %s", k.Release,
				k.Package, n.Option, n.Module, n.For))
		case value == "m":
			errs = append(errs, fmt.Errorf("kernel %s of package %s: CONFIG_%s=m; it must be built in (=y) for %s", k.Release, k.Package,
				n.Option, n.For))
		case n.Wanted:
			warnings = append(warnings, warning("kernel lacks an option",
				"package", k.Package, "kernel", k.Release, "option", "CONFIG_"+n.Option, "for", n.For))
		default:
			errs = append(errs, fmt.Errorf("kernel %s of package %s lacks CONFIG_%s; needed for %s", k.Release, k.Package, n.Option, n.For))
		}
	}
	return warnings, hint.With(errors.Join(errs...),
		"take a kernel that has it, such as Alpine's linux-rpi: kernel.package in the spec names the package")
}

// kernelOptions returns how a kernel was built, by options without CONFIG_;
// known is false where its package does not say.
func kernelOptions(t *layers.Tree, k *kernel) (options map[string]string, known bool, err error) {
	text, err := t.ReadFile(k.configFile(), maxKernelConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	options = map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		if key, value, ok := strings.Cut(line, "="); ok {
			options[strings.TrimPrefix(key, "CONFIG_")] = value
		}
	}
	return options, true, nil
}

// kernelNeeds are those of every image, of the root's compression and of the
// overlays.
func (p *Plan) kernelNeeds() ([]kernelNeed, error) {
	compression, err := squashfs.FindCompression(p.Image.Compression)
	if err != nil {
		return nil, err
	}
	needs := append(slices.Clone(kernelNeeds),
		kernelNeed{Option: compression.KernelOption(), For: "the root, whose compression is " + compression.Name})
	for _, o := range p.Overlays {
		for _, option := range o.Kernel {
			needs = append(needs, kernelNeed{Option: option, Module: anyModule, For: "the overlay " + o.Name})
		}
		for _, option := range o.KernelWants {
			needs = append(needs, kernelNeed{Option: option, Module: anyModule, For: o.WantedFor, Wanted: true})
		}
	}
	return needs, nil
}

// anyModule stands for a module whose name is not known: m will do.
const anyModule = "*"
