package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// cmdlineChanged is what /init reports of a cmdline.txt that was not signed.
const cmdlineChanged = "(cmdline.txt) changed"

// TestFlippedByteInSlotBootsRescue breaks the committed slot in one place at a time. The
// layer that should notice says so, and the other slot comes up as a rescue
// that says why.
func TestFlippedByteInSlotBootsRescue(t *testing.T) {
	newCard(t) // builds the image the places are taken from
	for i, c := range []struct {
		file string
		at   int64
		want string
	}{
		{image.RootFile, 4, "opening the root: mounting the root"},
		{image.ManifestFile, 200, "manifest.json was changed"},
		// TestCmdlineOfOtherSlotBootsRescue is another of cmdline.txt.
		{slots.CmdlineFile, 60, cmdlineChanged},
		{image.SignatureFile, 3000, "signature.json"},
		{image.ManifestFile, int64(bytes.Index(small(t).Text, []byte(small(t).Manifest.BuildID))), "manifest.json was changed"},
		{slots.CmdlineFile, 0, cmdlineChanged}, // in pikelet.slot=a itself
		{image.ConfigFile, 1, "config.txt changed"},
	} {
		if i > 1 && !full.Tests {
			break // initramfs' own tests flip each file of a slot
		}
		t.Run(fmt.Sprint(c.file, "@", c.at), func(t *testing.T) {
			t.Parallel()
			card := newCard(t)
			flip(t, card, offset(t, card, slots.A, c.file)+c.at)
			p := boot(t, card)
			p.expect("THIS BOOT FAILED: ", c.want, "starting slot b instead",
				"slot b (rescue), root verified", "this is a rescue, because: slot a: ", c.want)
			p.Close()
			if report := controlFile(t, card, slots.ReportFile); !strings.Contains(report, "slot a: ") || !strings.Contains(report, c.want) {
				t.Errorf("report.txt does not say %q:\n%s", c.want, strings.TrimSpace(report))
			}
		})
	}
}

// TestCmdlineOfOtherSlotBootsRescue: slot a says it is b. The firmware knows better, and
// nothing loops.
func TestCmdlineOfOtherSlotBootsRescue(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	overwrite(t, card, offset(t, card, slots.A, slots.CmdlineFile)+int64(len("pikelet.slot=")), []byte("b"))
	p := boot(t, card)
	p.expect("THIS BOOT FAILED: checking the slot: ", cmdlineChanged, "slot b (rescue), root verified", "because: slot a: ")
}

// TestFlippedByteInRootFailsRead is the one the chain cannot see before it
// is read: the kernel answers with an error, and the node goes on.
func TestFlippedByteInRootFailsRead(t *testing.T) {
	t.Parallel()
	p := ready(t, small(t), "", 0, func(card string) {
		size := int64(small(t).Manifest.Root.DataBlocks) * 4096
		flip(t, card, offset(t, card, slots.A, image.RootFile)+size/3)
	})
	p.run("find / -xdev -type f -exec cat {} + >/dev/null; dmesg | grep verity", "Input/output error", "data block", "is corrupted")
	p.works("true")
}

func TestBootIsRetriedWhenBothSlotsAreDamaged(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	for _, l := range []slots.Letter{slots.A, slots.B} {
		flip(t, card, offset(t, card, l, image.SignatureFile)+3000)
	}
	p := boot(t, card)
	p.expect("starting slot b instead", "THIS BOOT FAILED", "slot a failed before", "trying again in")
	p.Close()
	if report := controlFile(t, card, slots.ReportFile); !strings.Contains(report, "slot a: ") || !strings.Contains(report, "slot b: ") {
		t.Errorf("report.txt names not both slots:\n%s", report)
	}

	if !full.Tests {
		return
	}
	// A slot that holds nothing is not gone to at all: old firmware would wait
	// there for ever.
	card = newCard(t)
	flip(t, card, offset(t, card, slots.A, image.SignatureFile)+3000)
	overwrite(t, card, partitionOf(t, card, slots.B.Partition()).Start, make([]byte, 512))
	p = boot(t, card, func(o *vm.Options) { o.NoWalk = true })
	p.expect("THIS BOOT FAILED", "slot b holds no image: reading a FAT32 boot sector", "trying again in")
}

func TestFirmwareSkipsHalfWrittenSlot(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	overwrite(t, card, partitionOf(t, card, slots.A.Partition()).Start, make([]byte, 512))
	p := boot(t, card)
	p.expect("slot b (rescue), root verified")
	p.Close()

	old := boot(t, card, func(o *vm.Options) { o.NoWalk = true })
	if err := old.Wait(); err == nil || !strings.Contains(err.Error(), "partition 2 is not bootable") {
		t.Errorf("an EEPROM that does not walk: got %v, want that partition 2 is not bootable", err)
	}
}
