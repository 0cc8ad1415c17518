package iscsi

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// byPath is where CSI drivers look for the disks they logged in to. udev's
// rules make the links; mdev has none, so we do (docs/platform.md 8.3).
const byPath = "/dev/disk/by-path"

// pathName returns the name of the disk in byPath. udev's rules put an IPv6
// address there as it is, without brackets, and so the kubelet and CSI drivers
// look for it (kubernetes/kubernetes#110687, democratic-csi/democratic-csi#219).
func (l LUN) pathName() string {
	return fmt.Sprintf("ip-%s-iscsi-%s-lun-%s", l.portal, l.Target, l.Number)
}

// LinkDisks makes the links of all disks of iSCSI sessions, and takes away
// those whose disk is gone.
func LinkDisks() error {
	want := map[string]string{}
	for _, l := range LUNs() {
		name := l.pathName()
		want[name] = l.Device
		parts, _ := filepath.Glob("/sys/class/block/" + l.Device + "/" + l.Device + "*")
		for _, p := range parts {
			part := filepath.Base(p)
			want[name+"-part"+strings.TrimPrefix(strings.TrimPrefix(part, l.Device), "p")] = part
		}
	}
	if len(want) > 0 {
		if err := os.MkdirAll(byPath, 0o755); err != nil {
			return err
		}
	}
	there, _ := filepath.Glob(byPath + "/ip-*-iscsi-*")
	for _, name := range there {
		base := filepath.Base(name)
		if to, err := os.Readlink(name); err == nil && want[base] != "" && to == "../../"+want[base] {
			delete(want, base)
			continue
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	var errs []error
	for name, device := range want {
		errs = append(errs, os.Symlink("../../"+device, filepath.Join(byPath, name)))
	}
	return errors.Join(errs...)
}
