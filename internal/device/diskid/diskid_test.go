package diskid

import (
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Places of disks in sysfs, as Raspberry Pis have them.
const (
	usbHost = "devices/platform/scb/fd500000.pcie/0000:01:00.0/usb2/2-1/"
	usbDisk = usbHost + "2-1:1.0/host0/target0:0:0/0:0:0:0/block/sda"
	sata    = "devices/platform/axi/1000110000.pcie/0001:01:00.0/ata1/host1/target1:0:0/1:0:0:0/block/sdb"
	lun     = "devices/platform/host2/session1/target2:0:0/2:0:0:1/block/sdc"
	nvmeSSD = "devices/platform/axi/1000110000.pcie/0001:01:00.0/nvme/nvme0/nvme0n1"
	sdCard  = "devices/platform/emmc2bus/fe340000.mmc/mmc_host/mmc0/mmc0:aaaa/block/mmcblk0"
)

// page returns a page 83 of descriptors in hexadecimal digits.
func page(t *testing.T, descriptors ...string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(descriptors, ""))
	if err != nil {
		t.Fatal(err)
	}
	return "\x00\x83" + string([]byte{byte(len(b) >> 8), byte(len(b))}) + string(b)
}

// ataDescriptor returns the T10 descriptor of an ATA disk.
func ataDescriptor(model, serial string) string {
	value := "ATA     " + model + strings.Repeat(" ", 40-len(model)) + strings.Repeat(" ", 20-len(serial)) + serial
	return "02010044" + hex.EncodeToString([]byte(value))
}

// sysfs makes a tree with the files given below each disk, and the links of
// class/block and device.
func sysfs(t *testing.T, disks map[string]map[string]string) string {
	t.Helper()
	sys := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		name = filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		t.Helper()
		name = filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, name); err != nil {
			t.Fatal(err)
		}
	}
	for dir, files := range disks {
		write(dir+"/size", "1\n")
		for name, content := range files {
			write(filepath.Join(dir, name), content)
		}
		link("../../"+dir, "class/block/"+filepath.Base(dir))
		switch {
		case strings.Contains(dir, "/block/") && files["partition"] == "":
			link("../../../"+filepath.Base(filepath.Dir(filepath.Dir(dir))), dir+"/device")
		case strings.Contains(dir, "/nvme/") && files["partition"] == "":
			link("../../nvme0", dir+"/device")
		}
	}
	return sys
}

func everyDisk(t *testing.T) map[string]map[string]string {
	const scsiDevice = "../../" // of DISK/device, where the files below are written before the link is
	return map[string]map[string]string{
		usbDisk: {
			scsiDevice + "vendor": "Samsung \n", scsiDevice + "model": "Portable SSD T5 \n",
			"/../../../../../../../serial": "1234567C5E5B\n", "/../../../../../../../idVendor": "04e8\n",
			"/../../../../../../../idProduct": "61f5\n",
		},
		usbDisk + "/sda1": {"partition": "1\n"},
		sata: {
			scsiDevice + "vendor": "ATA     \n", scsiDevice + "model": "Samsung SSD 850 \n",
			scsiDevice + "vpd_pg83": page(t, ataDescriptor("Samsung SSD 850 EVO 250GB", "S21PNSAG123456X"), "010300085002538d41234567",
				"019300085002538d41234568"),
		},
		lun: {
			scsiDevice + "vendor": "LIO-ORG \n", scsiDevice + "model": "attic           \n",
			scsiDevice + "vpd_pg83": page(t, "0103001060014054f3a1c2d3e4f5061728394a5b", "020100084c494f2d4f524700"),
		},
		nvmeSSD: {
			"wwid": "eui.0025385b71b01234\n", "nsid": "1\n",
			"../model": "Samsung SSD 970 EVO Plus 250GB          \n", "../serial": "S4EUNJ0N123456A     \n",
		},
		nvmeSSD + "/nvme0n1p2":        {"partition": "2\n"},
		sdCard:                        {scsiDevice + "name": "SC64G\n", scsiDevice + "serial": "0x9876abcd\n"},
		sdCard + "/mmcblk0p4":         {"partition": "4\n"},
		"devices/virtual/block/loop0": {},
	}
}

// TestUdevNames checks a disk of each kind against the names that udev's rules make.
func TestUdevNames(t *testing.T) {
	sys := sysfs(t, everyDisk(t))
	for device, want := range map[string][]string{
		"sda":  {"usb-Samsung_Portable_SSD_T5_1234567C5E5B-0:0"},
		"sda1": {"usb-Samsung_Portable_SSD_T5_1234567C5E5B-0:0-part1"},
		"sdb":  {"ata-Samsung_SSD_850_EVO_250GB_S21PNSAG123456X", "wwn-0x5002538d41234567"},
		"sdc":  {"scsi-360014054f3a1c2d3e4f5061728394a5b", "wwn-0x60014054f3a1c2d3e4f5061728394a5b"},
		"nvme0n1": {"nvme-eui.0025385b71b01234", "nvme-Samsung_SSD_970_EVO_Plus_250GB_S4EUNJ0N123456A",
			"nvme-Samsung_SSD_970_EVO_Plus_250GB_S4EUNJ0N123456A_1"},
		"nvme0n1p2": {"nvme-eui.0025385b71b01234-part2", "nvme-Samsung_SSD_970_EVO_Plus_250GB_S4EUNJ0N123456A-part2",
			"nvme-Samsung_SSD_970_EVO_Plus_250GB_S4EUNJ0N123456A_1-part2"},
		"mmcblk0":   {"mmc-SC64G_0x9876abcd"},
		"mmcblk0p4": {"mmc-SC64G_0x9876abcd-part4"},
		"loop0":     nil,
		"sdz":       nil,
	} {
		if got := Names(sys, device); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", device, got, want)
		}
	}
}

func TestFind(t *testing.T) {
	sys := sysfs(t, everyDisk(t))
	for id, want := range map[string]string{
		"usb-Samsung_Portable_SSD_T5_1234567C5E5B-0:0-part1": "sda1",
		"wwn-0x5002538d41234567":                             "sdb",
		"nvme-eui.0025385b71b01234":                          "nvme0n1",
	} {
		if got, err := Find(sys, id); err != nil || got != want {
			t.Errorf("%s: got %s, %v; want %s", id, got, err, want)
		}
	}
	_, err := Find(sys, "nvme-eui.0")
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "mmc-SC64G_0x9876abcd, ") {
		t.Errorf("a disk that is not there: %v", err)
	}
	if _, err := Find(t.TempDir(), "nvme-eui.0"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no sysfs: %v", err)
	}
}

// TestFindAmbiguous has two USB disks in adapters with one serial number.
func TestFindAmbiguous(t *testing.T) {
	disks := map[string]map[string]string{}
	for i, name := range []string{"sda", "sdb"} {
		port := "devices/usb2/2-" + string(rune('1'+i)) + "/"
		disks[port+"2-1:1.0/host0/target0:0:0/0:0:0:0/block/"+name] = map[string]string{
			"../../vendor": "JMicron \n", "../../model": "Generic         \n",
			"../../../../../../serial": "DD56419883891\n", "../../../../../../idVendor": "152d\n", "../../../../../../idProduct": "0578\n",
		}
	}
	if got, err := Find(sysfs(t, disks), "usb-JMicron_Generic_DD56419883891-0:0"); !errors.Is(err, ErrAmbiguous) ||
		!strings.HasSuffix(err.Error(), "sda, sdb") {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"  WDC  WD10 ": "WDC_WD10", "a/b\\c,d": "a_b_c_d", "x#+-.:=@_y": "x#+-.:=@_y", "Größe": "Gr__e",
	} {
		if got := clean(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

// FuzzPage83 has pages from disks that lie about lengths.
func FuzzPage83(f *testing.F) {
	f.Add([]byte("\x00\x83\x00\x0c\x01\x03\x00\x08\x50\x02\x53\x8d\x41\x23\x45\x67"))
	f.Add([]byte("\x00\x83\xff\xff\x01\x03\x00\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, id := range append(parsePage83(b).scsi, parsePage83(b).ata) {
			if strings.ContainsAny(id, "/ \n\x00") {
				t.Errorf("%q", id)
			}
		}
	})
}
