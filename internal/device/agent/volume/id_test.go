package volume

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/device/diskid"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// TestBlankDiskInPlaceOfAVolume: where the node had a volume, a blank disk of the
// same name is not formatted (DietPi/DietPi#4499).
func TestBlankDiskInPlaceOfAVolume(t *testing.T) {
	name := filepath.Join(t.TempDir(), "node/volume.json")
	had, err := readID(name)
	if err != nil || had != (identity{}) {
		t.Fatalf("at first: %+v, %v", had, err)
	}
	blank := content{Blank: true}
	if err := had.missing("/dev/vdb", blank, "/dev/vdb", ""); err != nil {
		t.Errorf("a first volume: %v", err)
	}
	for range 2 {
		if err := (identity{"/dev/vdb", "u-1"}).remember(name); err != nil {
			t.Fatal(err)
		}
	}
	if had, err = readID(name); err != nil {
		t.Fatal(err)
	}
	err = had.missing("/dev/vdb", blank, "/dev/vdb", "/dev/vdc")
	if err == nil || !strings.Contains(err.Error(), "is not formatted") || !strings.Contains(err.Error(), "it is on /dev/vdc now") ||
		!strings.Contains(strings.Join(hint.Of(err), ""), "set device: UUID=u-1") {
		t.Errorf("a blank disk in its place: %v, hints %q", err, hint.Of(err))
	}
	if err := had.missing("/dev/vdb", blank, "/dev/vdb", ""); err == nil || !strings.Contains(err.Error(), "no disk here holds it") {
		t.Errorf("a volume that is gone: %v", err)
	}
	if err := had.missing("/dev/nvme0n1", blank, "/dev/nvme0n1", ""); err != nil {
		t.Errorf("a volume in another place, as a new config has it: %v", err)
	}
	if got := had.another("/dev/vdb", "u-1") + had.another("/dev/vdc", "u-2") + (identity{}).another("/dev/vdb", "u-1"); got != "" {
		t.Error(got)
	}
	if got := had.another("/dev/vdb", "u-2"); !strings.Contains(got, "want u-1") {
		t.Errorf("a filesystem of an earlier installation: %q", got)
	}
}

func TestNamedDisk(t *testing.T) {
	disks := map[string]content{"/dev/sda": {Ext4: true, Label: "attic", UUID: "0000abcd"}, "/dev/sdb": {What: "swap space", Label: "attic"}}
	find := func(fits func(content) bool) string {
		for name, c := range disks {
			if fits(c) {
				return name
			}
		}
		return ""
	}
	for device, want := range map[string]string{
		"LABEL=attic": "/dev/sda", "UUID=0000ABCD": "/dev/sda", "/dev/nvme0n1": "/dev/nvme0n1", "LABEL=cellar": "", "UUID=attic": "",
	} {
		if got, err := namedDisk(device, find); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: %s (%v), want %s", device, got, err, want)
		}
	}
	if _, err := namedDisk("/dev/disk/by-id/usb-no-such-disk=1", find); !errors.Is(err, diskid.ErrNotFound) {
		t.Errorf("a name in /dev/disk/by-id: %v", err)
	}
}

func TestMayWipe(t *testing.T) {
	for _, c := range []content{{Blank: true}, {Ext4: true, Label: "attic"}, {Ext4: true, Label: makingLabel}} {
		if err := c.mayWipe("/dev/sda", "attic"); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, c := range []content{{What: "swap space"}, {Ext4: true, Label: "photos"}, {Ext4: true}} {
		if c.mayWipe("/dev/sda", "attic") == nil {
			t.Errorf("%+v may be wiped", c)
		}
	}
}
