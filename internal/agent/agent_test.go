package agent

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/slots"
)

func TestMotdSaysWhatToKnow(t *testing.T) {
	b := node.Boot{Stream: "lab", Release: "1.2", Slot: slots.B, Kind: slots.Rescue, Disk: "/dev/mmcblk0", Root: "cafe", Failed: "slot a: why\nslot b: too"}
	p := node.Prepared{Hostname: "attic", Problems: []string{"no card"}}
	for _, want := range []string{"lab 1.2", "slot    b, rescue, on /dev/mmcblk0", "verified by dm-verity, root hash cafe", "Try: ", "RESCUE  slot a: why\n        slot b: too", "node    attic", "PROBLEM no card"} {
		if !strings.Contains(motd(b, p, true), want) {
			t.Errorf("no %q in\n%s", want, motd(b, p, true))
		}
	}
}

func TestMotdOfATrial(t *testing.T) {
	got := motd(node.Boot{Slot: slots.B, Kind: slots.Trial}, node.Prepared{}, false)
	if !strings.Contains(got, "any reboot goes back to slot a") || strings.Contains(got, "Try:") {
		t.Errorf("%s", got)
	}
}

func TestUnknownVerb(t *testing.T) {
	var out bytes.Buffer
	if err := Run([]string{"fly"}, &out); err == nil || !strings.Contains(err.Error(), "pikeletd status") {
		t.Errorf("%v", err)
	}
}
