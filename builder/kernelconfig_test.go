package builder

import (
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/layers/kmod"
	"github.com/pikelet-os/pikelet/overlays"
)

func TestKernelMustHaveWhatAnImageNeeds(t *testing.T) {
	var good strings.Builder
	modules := kmod.Set{Modules: map[string]*kmod.Module{}}
	o := overlays.Overlay{Name: "cluster", KernelWants: []string{"IP_SET"}, WantedFor: "policies"}
	needs, err := (&Plan{Image: &spec.Image{Compression: "small"}, Overlays: []overlays.Overlay{o}}).kernelNeeds()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range needs {
		value := "y"
		if n.Module != "" {
			value = "m"
			modules.Modules[n.Module] = &kmod.Module{Name: n.Module}
		}
		good.WriteString("CONFIG_" + n.Option + "=" + value + "\n")
	}
	k := &kernel{Package: "linux-x", Image: "boot/vmlinuz-x", Release: "6.1", Modules: modules}
	for what, c := range map[string]struct{ from, to, want string }{
		"as it should be": {"", "", ""},
		"no squashfs":     {"CONFIG_SQUASHFS=m", "# CONFIG_SQUASHFS is not set", "lacks CONFIG_SQUASHFS; needed for the root"},
		"no compressor":   {"CONFIG_SQUASHFS_XZ=y", "", "lacks CONFIG_SQUASHFS_XZ; needed for the root, whose compression is small"},
		"no verity":       {"CONFIG_DM_VERITY=m", "", "lacks CONFIG_DM_VERITY"},
		"no dm":           {"CONFIG_BLK_DEV_DM=m", "", "lacks CONFIG_BLK_DEV_DM; needed for dm-linear and dm-verity"},
		"no overlayfs":    {"CONFIG_OVERLAY_FS=m", "", "lacks CONFIG_OVERLAY_FS"},
		"no memory limit": {"CONFIG_MEMCG=y", "", "lacks CONFIG_MEMCG; needed for memory limits of pods"},
		"only as module":  {"CONFIG_RD_ZSTD=y", "CONFIG_RD_ZSTD=m", "must be built in"},
	} {
		text := strings.Replace(good.String(), c.from, c.to, 1)
		warnings, err := checkKernel(treeOf(t, map[string]string{"boot/config-x": text}), k, needs)
		if len(warnings) > 0 || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; want %q", what, warnings, err, c.want)
		}
	}
	delete(modules.Modules, "dm_verity")
	if _, err := checkKernel(treeOf(t, map[string]string{"boot/config-x": good.String()}), k, needs); err == nil ||
		!strings.Contains(err.Error(), "no module dm_verity") {
		t.Errorf("a module that is configured and not there: %v", err)
	}
	without := strings.Replace(good.String(), "CONFIG_DM_VERITY=m", "CONFIG_DM_VERITY=y", 1)
	without = strings.Replace(without, "CONFIG_IP_SET=m\n", "", 1)
	warnings, err := checkKernel(treeOf(t, map[string]string{"boot/config-x": without}), k, needs)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].String(), `option="CONFIG_IP_SET" for="policies"`) {
		t.Errorf("without what is only wanted: %q, %v", warnings, err)
	}
	if warnings, err := checkKernel(treeOf(t, nil), k, needs); err != nil || len(warnings) != 1 ||
		!strings.Contains(warnings[0].String(), `missing="/boot/config-x"`) {
		t.Errorf("no configuration: %q, %v", warnings, err)
	}
}
