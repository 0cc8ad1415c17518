package initramfs

import (
	"strings"
	"testing"
	"time"
)

func TestChooseBootedDisk(t *testing.T) {
	at := func(devs string) (list []*card) {
		for _, d := range strings.Fields(devs) {
			list = append(list, &card{dev: "/dev/" + d})
		}
		return list
	}
	const soon, settled, late = 100 * time.Millisecond, otherWait + 1, slotWait + 1
	for name, c := range map[string]struct {
		mode         uint32
		exact, other string
		waited       time.Duration
		want         string // device; "" for none yet
		err          string
	}{
		"card":                                     {1, "mmcblk0", "", soon, "mmcblk0", ""},
		"card of a virtual Pi":                     {1, "vda", "", soon, "vda", ""},
		"card beside an NVMe disk":                 {1, "mmcblk0 nvme0n1", "", soon, "mmcblk0", ""},
		"NVMe disk sooner than the card":           {1, "nvme0n1", "", settled, "", ""},
		"NVMe disk without the card":               {1, "nvme0n1", "", late, "", "booted from the SD card (boot-mode 1)"},
		"NVMe disk beside a card":                  {6, "mmcblk0 nvme0n1", "", soon, "nvme0n1", ""},
		"USB disk may be followed by another":      {4, "sda", "", soon, "", ""},
		"USB disk":                                 {4, "sda", "", settled, "sda", ""},
		"two USB disks":                            {4, "sda sdb", "", settled, "", "/dev/sda and /dev/sdb both hold"},
		"card sooner than the USB disk":            {4, "mmcblk0", "", settled, "", ""},
		"unknown mode, first of two":               {0, "nvme0n1", "", soon, "", ""},
		"unknown mode":                             {0, "nvme0n1", "", settled, "nvme0n1", ""},
		"unknown mode, two kinds":                  {0, "mmcblk0 nvme0n1", "", settled, "", "both hold"},
		"card of another build":                    {1, "", "mmcblk0", settled, "mmcblk0", ""},
		"card of another build, NVMe of the build": {1, "nvme0n1", "mmcblk0", late, "", "not used"},
		"NVMe of another build, no card":           {1, "", "nvme0n1", late, "", "no disk holds"},
		"no disk":                                  {1, "", "", late, "", "no disk appeared"},
	} {
		f := found{exact: at(c.exact), other: at(c.other)}
		for range f.other {
			f.reasons = append(f.reasons, "another build")
		}
		got, err := choose(f, c.mode, "a", "build", c.waited)
		switch {
		case (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err):
			t.Errorf("%s: got error %v, want %q", name, err, c.err)
		case got == nil && c.want != "" || got != nil && got.dev != "/dev/"+c.want:
			t.Errorf("%s: got %+v, want %q", name, got, c.want)
		}
	}
}
