package volume

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/diskid"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// readDisk returns what lies on a disk, and how many bytes it has.
func readDisk(dev string) (content, int64, error) {
	f, err := os.Open(dev)
	if err != nil {
		return content{}, 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return content{}, 0, err
	}
	if size == 0 {
		return content{}, 0, fmt.Errorf("%s has no size yet", dev)
	}
	c, err := identify(f, size)
	if err != nil {
		return content{}, 0, fmt.Errorf("reading %s: %w", dev, err)
	}
	return c, size, nil
}

// device returns the device the volume is on.
func device(cfg *nodeconfig.Config) (string, error) {
	if cfg.Volume.Place() == nodeconfig.OnDisk {
		dev, err := namedDisk(cfg.Volume.Device, diskWith)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(dev); err != nil {
			return "", hint.Withf(fmt.Errorf("disk %s: %w", dev, err), "the disks of this node are %s", strings.Join(diskNames(), ", "))
		}
		if b, err := runfiles.Boot(); err == nil && strings.HasPrefix(dev, b.Disk) {
			return "", hint.With(fmt.Errorf("%s is on the disk that this node was started from", dev), "set volume: {on: state}")
		}
		return dev, nil
	}
	t, err := cfg.VolumeTarget()
	if err != nil {
		return "", err
	}
	for _, l := range iscsi.LUNs() {
		if l.Target == t.Name && l.Number == fmt.Sprint(cfg.Volume.LUN) {
			return "/dev/" + l.Device, nil
		}
	}
	return "", hint.With(fmt.Errorf("target %s shows this node no LUN %d", t.Name, cfg.Volume.LUN), "allow the node's IQN there")
}

func diskNames() []string {
	all, _ := filepath.Glob("/sys/class/block/*")
	var list []string
	for _, n := range all {
		name := filepath.Base(n)
		if !strings.HasPrefix(name, "loop") && !strings.HasPrefix(name, "ram") && !strings.HasPrefix(name, "dm-") {
			list = append(list, "/dev/"+name)
		}
	}
	return list
}

// diskWith returns the first disk or partition whose ext4 or LUKS fits.
func diskWith(fits func(content) bool) string {
	for _, dev := range diskNames() {
		if c, err := contentOf(dev); err == nil && fits(c) {
			return dev
		}
	}
	return ""
}

// contentOf returns what a disk says it holds, by its beginning.
func contentOf(dev string) (content, error) {
	f, err := os.Open(dev)
	if err != nil {
		return content{}, err
	}
	defer f.Close()
	head := make([]byte, extHead)
	if _, err := io.ReadFull(f, head); err != nil {
		return content{}, err
	}
	c, _ := knownContent(head)
	return c, nil
}

// namedDisk returns the disk that LABEL=... or UUID=... names, as fstab(5) has it,
// or a name in /dev/disk/by-id; any other text is the name of a device itself.
func namedDisk(device string, find func(func(content) bool) string) (string, error) {
	if id, ok := strings.CutPrefix(device, nodeconfig.ByID); ok {
		name, err := diskid.Find("/sys", id)
		return "/dev/" + name, err
	}
	kind, value, ok := strings.Cut(device, "=")
	if !ok {
		return device, nil
	}
	dev := find(func(c content) bool {
		return (c.Ext4 || c.LUKS) && (kind == "LABEL" && c.Label == value || kind == "UUID" && strings.EqualFold(c.UUID, value))
	})
	if dev == "" {
		return "", hint.Withf(fmt.Errorf("no disk holds an ext4 or LUKS with %s", device),
			"the disks of this node are %s", strings.Join(diskNames(), ", "))
	}
	return dev, nil
}
