package motd

import (
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

func TestMotd(t *testing.T) {
	b := node.Boot{
		Stream: "lab", Release: "1.2", Slot: slots.B, Kind: slots.Rescue, Disk: "/dev/mmcblk0", Root: "cafe",
		Failed: "slot a: why\nslot b: too",
	}
	p := node.Prepared{Hostname: "attic", Problems: []string{"no card"}}
	for _, want := range []string{
		"lab 1.2", "slot    b, rescue, on /dev/mmcblk0", "verified by dm-verity, root hash cafe", "Try: ",
		"RESCUE  slot a: why\n        slot b: too", "node    attic", "PROBLEM no card",
	} {
		if !strings.Contains(Text(b, p, true), want) {
			t.Errorf("no %q in\n%s", want, Text(b, p, true))
		}
	}
}

func TestMotdOfATrial(t *testing.T) {
	got := Text(node.Boot{Slot: slots.B, Kind: slots.Trial}, node.Prepared{}, false)
	if !strings.Contains(got, "any reboot goes back to slot a") || strings.Contains(got, "Try:") {
		t.Errorf("%s", got)
	}
}
