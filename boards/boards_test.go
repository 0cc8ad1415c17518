package boards

import (
	"strings"
	"testing"
)

// TestBoardsAreComplete holds the table to what the firmware needs of each
// family.
func TestBoardsAreComplete(t *testing.T) {
	seen := map[string]bool{}
	for _, b := range list {
		if seen[b.Name] || b.Name == "all" {
			t.Errorf("%s: the name is taken", b.Name)
		}
		seen[b.Name] = true
		if b.Virtual {
			continue
		}
		if b.Filter == "" || len(b.DTBs) == 0 || len(b.Modules) == 0 {
			t.Errorf("%s: a Pi has a section in config.txt, device trees and drivers", b.Name)
		}
		for _, d := range b.DTBs {
			if !strings.HasPrefix(d, "bcm27") || !strings.HasSuffix(d, ".dtb") {
				t.Errorf("%s: %q is no downstream device tree", b.Name, d)
			}
		}
		for _, w := range b.Modules {
			if len(w.Any) == 0 || w.For == "" {
				t.Errorf("%s: a driver without a name or a reason", b.Name)
			}
		}
		if b.Bootcode && len(b.Firmware) == 0 {
			t.Errorf("%s: bootcode.bin starts start.elf", b.Name)
		}
	}
}

// TestOfModel looks up boards by the names that bootloaders have for them.
func TestOfModel(t *testing.T) {
	for model, want := range map[string]string{"RPi4": "rpi4", "RPi5": "rpi5", "RPi3": "", "": ""} {
		if got := OfModel(model); got != want {
			t.Errorf("OfModel(%q) = %q, want %q", model, got, want)
		}
	}
}

// TestHasFirmware: firmware is what some board reads, and nothing else of a slot.
func TestHasFirmware(t *testing.T) {
	for name, want := range map[string]bool{"start.elf": true, "fixup4.dat": true, "bootcode.bin": true,
		"start_notes.dat": false, "config.txt": false, "root.squashfs": false} {
		if HasFirmware(name) != want {
			t.Errorf("%s: got %v, want %v", name, !want, want)
		}
	}
}

func TestFindNamesTheChoices(t *testing.T) {
	if _, err := Find("rpi9"); err == nil || !strings.Contains(err.Error(), "rpi3, rpi4, rpi5, vm, zero2w") {
		t.Errorf("%v", err)
	}
}
