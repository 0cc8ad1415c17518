// Package diskid finds disks by the names that udev gives them in
// /dev/disk/by-id, on a node without udev. It makes the names from sysfs by the
// rules of systemd's udev:
//
//   - https://github.com/systemd/systemd/blob/main/rules.d/60-persistent-storage.rules.in
//   - https://github.com/systemd/systemd/blob/main/src/udev/udev-builtin-usb_id.c
//   - https://github.com/systemd/systemd/blob/main/src/udev/scsi_id/scsi_serial.c
//   - https://github.com/systemd/systemd/blob/main/src/udev/ata_id/ata_id.c
//
// Where udev asks a disk, this package reads what the kernel asked it for: a USB
// adapter that passes no vital product data on has a usb- name only.
package diskid

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Errors of Find.
var (
	ErrNotFound  = errors.New("disk not found")
	ErrAmbiguous = errors.New("more than one disk has this name")
)

// Find returns the kernel's name, such as sda or sda1, of the disk or partition
// whose name in /dev/disk/by-id is id. sys is where sysfs is mounted. The error
// matches ErrNotFound, and then names all that there is, or ErrAmbiguous: cheap
// USB adapters share one serial number.
func Find(sys, id string) (string, error) {
	devices, err := os.ReadDir(filepath.Join(sys, "class/block"))
	if err != nil {
		return "", fmt.Errorf("finding disk %q: %w", id, err)
	}
	var found, names []string
	for _, d := range devices {
		own := Names(sys, d.Name())
		if slices.Contains(own, id) {
			found = append(found, d.Name())
		}
		names = append(names, own...)
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		slices.Sort(names)
		return "", fmt.Errorf("finding disk %q: %w; there are %s", id, ErrNotFound, strings.Join(names, ", "))
	}
	return "", fmt.Errorf("finding disk %q: %w: %s", id, ErrAmbiguous, strings.Join(found, ", "))
}

// Names returns the names that udev gives a block device in /dev/disk/by-id;
// none for a device that says nothing of itself. device is the kernel's name.
func Names(sys, device string) []string {
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, "class/block", device))
	if err != nil {
		return nil
	}
	part := attr(dir, "partition")
	if part != "" {
		dir = filepath.Dir(dir)
		part = "-part" + part
	}
	var names []string
	switch disk := filepath.Base(dir); {
	case strings.HasPrefix(disk, "nvme"):
		names = nvme(dir)
	case strings.HasPrefix(disk, "mmcblk"):
		if name, serial := attr(dir, "device/name"), attr(dir, "device/serial"); name != "" && serial != "" {
			names = []string{"mmc-" + clean(name+"_"+serial)}
		}
	case strings.HasPrefix(disk, "sd"):
		names = scsi(dir)
	}
	for i := range names {
		names[i] += part
	}
	return names
}

// nvme returns the names of an NVMe namespace.
func nvme(dir string) []string {
	var names []string
	if wwid := attr(dir, "wwid"); wwid != "" {
		names = append(names, "nvme-"+clean(wwid))
	}
	model, serial := attr(dir, "device/model"), attr(dir, "device/serial")
	if model == "" || serial == "" {
		return names
	}
	name := "nvme-" + clean(model+"_"+serial)
	names = append(names, name)
	if nsid := attr(dir, "nsid"); nsid != "" {
		names = append(names, name+"_"+nsid) // since systemd 253
	}
	return names
}

// scsi returns the names of a disk that the kernel talks SCSI to: SATA, USB and
// iSCSI ones.
func scsi(dir string) []string {
	page, _ := os.ReadFile(filepath.Join(dir, "device/vpd_pg83")) // a disk need not have one
	ids := parsePage83(page)
	var names []string
	if ids.ata != "" {
		names = append(names, "ata-"+ids.ata)
	}
	if name := usb(dir); name != "" {
		names = append(names, "usb-"+name)
	} else if ids.ata == "" {
		for _, id := range ids.scsi {
			names = append(names, "scsi-"+id)
		}
	}
	for _, wwn := range ids.wwn {
		names = append(names, "wwn-"+wwn)
	}
	return names
}

// usb returns what a USB disk is called: vendor and model of the disk, the
// serial number of the USB device, and the disk's place in it.
func usb(dir string) string {
	device := filepath.Dir(dir)
	for attr(device, "idVendor") == "" || attr(device, "idProduct") == "" {
		parent := filepath.Dir(device)
		if parent == device {
			return ""
		}
		device = parent
	}
	name := clean(attr(dir, "device/vendor")) + "_" + clean(attr(dir, "device/model"))
	serial := attr(device, "serial")
	if serial != "" && !strings.ContainsFunc(serial, func(r rune) bool { return r < ' ' || r > 0x7f || r == ',' }) {
		name += "_" + clean(serial)
	}
	place, err := filepath.EvalSymlinks(filepath.Join(dir, "device")) // HOST:CHANNEL:TARGET:LUN
	if err != nil {
		return ""
	}
	numbers := strings.Split(filepath.Base(place), ":")
	if len(numbers) != 4 {
		return ""
	}
	return name + "-" + numbers[2] + ":" + numbers[3]
}

// attr returns an attribute of a device, without the blanks and the line end
// after it, as udev reads it; "" where it has none.
func attr(dir, name string) string {
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), " \t\r\n\x00")
}

// clean makes a name of what a disk says: without blanks at its ends, with one _
// for blanks inside it, and for each other character that udev does not take
// (udev_replace_whitespace and udev_replace_chars in
// https://github.com/systemd/systemd/blob/main/src/shared/udev-util.c).
func clean(s string) string {
	s = strings.Join(strings.Fields(s), "_")
	return strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', strings.ContainsRune("#+-.:=@_", r):
			return r
		}
		return '_'
	}, s)
}
