package agent

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/slots"
)

func TestHostname(t *testing.T) {
	for serial, want := range map[string]string{"10000000ABCDEF01": "lab-abcdef01", "": "lab", "123": "lab-123"} {
		if got := hostname("lab", serial); got != want {
			t.Errorf("serial %q: %q, want %q", serial, got, want)
		}
	}
}

func TestMotdSaysWhatToKnow(t *testing.T) {
	b := node.Boot{Stream: "lab", Release: "1.2", Slot: slots.B, Kind: slots.Rescue, Disk: "/dev/mmcblk0", Root: "cafe", Failed: "slot a: why\nslot b: too"}
	for _, want := range []string{"lab 1.2", "slot    b, rescue, on /dev/mmcblk0", "verified by dm-verity, root hash cafe", "Try: ", "RESCUE  slot a: why\n        slot b: too"} {
		if !strings.Contains(motd(b, true), want) {
			t.Errorf("no %q in\n%s", want, motd(b, true))
		}
	}
}

func TestMotdOfATrial(t *testing.T) {
	got := motd(node.Boot{Slot: slots.B, Kind: slots.Trial}, false)
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

// TestWrittenListsWhatPrepareWrites: apk audit in the image must know of
// every file that a boot changes.
func TestWrittenListsWhatPrepareWrites(t *testing.T) {
	source, err := os.ReadFile("agent.go")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\bwrite\("(/etc/[^"]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(found) != len(node.Written()) {
		t.Errorf("agent.go writes %d files, node.Written lists %d", len(found), len(node.Written()))
	}
	for _, m := range found {
		if !slices.Contains(node.Written(), m[1]) {
			t.Errorf("agent.go writes %s, which node.Written does not list", m[1])
		}
	}
}
