package agent

import (
	"bytes"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
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

// TestReportKeepsWhatItMust: a boot rewrites its own part of report.txt, and
// leaves why an earlier one failed and what became of an upgrade.
func TestReportKeepsWhatItMust(t *testing.T) {
	old := "attic runs lab 1.0\n" + failure + "\nslot b: broken\n\n" + updater.Heading + "\nRelease 1.1 was tried\n" + "\n\n\n\x00\x00"
	got := earlier(old)
	if want := "\nWhat follows is of an earlier boot.\n\n" + failure + "\nslot b: broken\n\n" + updater.Heading + "\nRelease 1.1 was tried\n"; got != want {
		t.Errorf("kept %q, want %q", got, want)
	}
	if again := earlier("attic runs lab 1.0\n" + got); again != got {
		t.Errorf("kept twice it is %q", again)
	}
	if got := earlier("attic runs lab 1.0\n\n\n"); got != "" {
		t.Errorf("kept %q of nothing", got)
	}
}
