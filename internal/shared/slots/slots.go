// Package slots describes the two places an image can live, a and b: which one
// the firmware starts, what kind of boot happened, how the files of a slot lie on
// its partition, and the records that a card holds about its boots and upgrades.
package slots

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
)

// Letter names a slot: "a", "b", or "net" for an image without a card.
type Letter string

// The slots.
const (
	A   Letter = "a"
	B   Letter = "b"
	Net Letter = "net"
)

// Other returns the other slot of a card.
func (l Letter) Other() Letter {
	if l == A {
		return B
	}
	return A
}

// Partition returns the number of the slot's partition, 0 for Net.
func (l Letter) Partition() int {
	switch l {
	case A:
		return disk.SlotA
	case B:
		return disk.SlotB
	}
	return 0
}

// CmdlineFile returns the name that the slot's kernel command line has in an
// image.
func (l Letter) CmdlineFile() string { return "cmdline-" + string(l) + ".txt" }

// OnSlot returns the name that a file of an image has on the slot: the slot's
// own kernel command line has the one that the firmware reads. ok is false for
// those of other slots, which are not there.
func (l Letter) OnSlot(name string) (on string, ok bool) {
	switch {
	case name == l.CmdlineFile():
		return CmdlineFile, true
	case strings.HasPrefix(name, "cmdline-"):
		return "", false
	}
	return name, true
}

// ParseLetter reads a slot's name.
func ParseLetter(s string) (Letter, error) {
	switch l := Letter(s); l {
	case A, B, Net:
		return l, nil
	}
	return "", fmt.Errorf("invalid slot %q; want a, b or net", s)
}

// OfPartition returns the slot that lives on a partition.
func OfPartition(n int) (Letter, bool) {
	switch n {
	case disk.SlotA:
		return A, true
	case disk.SlotB:
		return B, true
	}
	return "", false
}

// AutobootSize is the size of autoboot.txt in bytes: one sector, more the
// firmware does not read (docs/platform.md 2.1).
const AutobootSize = disk.SectorSize

// autobootText is all of autoboot.txt but its padding. Its two digits are at
// fixed places, so that changing the default overwrites one byte with another
// twice, and every mix of old and new bytes names whole slots.
const autobootText = "[all]\ntryboot_a_b=1\nboot_partition=%d\n[tryboot]\nboot_partition=%d\n"

// EncodeAutoboot returns autoboot.txt with def as the default slot and the
// other one under trial.
func EncodeAutoboot(def Letter) []byte {
	text := fmt.Sprintf(autobootText, def.Partition(), def.Other().Partition())
	return []byte(text + strings.Repeat("\n", AutobootSize-len(text)))
}

// DecodeAutoboot returns the default slot that an autoboot.txt names. It
// reads any valid file, not only ours.
func DecodeAutoboot(b []byte) (Letter, error) {
	section := "all"
	var def Letter
	for _, line := range strings.Split(string(b), "\n") {
		line = strings.TrimSpace(strings.TrimRight(line, "\x00"))
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = strings.Trim(line, "[]")
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && section == "all" && key == "boot_partition" {
			n, err := strconv.Atoi(value)
			l, known := OfPartition(n)
			if err != nil || !known {
				return "", fmt.Errorf("reading autoboot.txt: boot_partition=%s: not the partition of a slot", value)
			}
			def = l
		}
	}
	if def == "" {
		return "", errors.New("reading autoboot.txt: boot_partition not found")
	}
	return def, nil
}

// Kind is what a boot was.
type Kind string

// The kinds of boot.
const (
	Committed Kind = "committed" // the default slot
	Trial     Kind = "trial"     // the one boot that proves a new slot
	Rescue    Kind = "rescue"    // the other slot, though no trial was asked for
)

// KindOf returns the kind of a boot, from the running slot, the default in
// autoboot.txt ("" where it can't be read) and the firmware's trial mark.
func KindOf(running, def Letter, tryboot bool) Kind {
	switch {
	case running == Net || running == def:
		return Committed
	case def != "" && tryboot:
		return Trial
	}
	return Rescue
}
