package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

func TestSlotAReachesLogin(t *testing.T) {
	t.Parallel()
	// With KASLR every fork costs two thirds more, under emulation, and a card
	// behind sdhci-pci twice as much; TestRaspi3bReachesLogin has a card, too.
	// So make test looks at the machine that other tests go on with.
	p, disk := ready(t, small(t), "", 0), "/dev/vda"
	if full.Tests {
		p, disk = boot(t, newCard(t), func(o *vm.Options) { o.Card, o.KASLR = true, true }), "/dev/mmcblk0"
		p.expect("slot a (committed), root verified: dm-verity")
		p.prompt()
		p.works("dmesg | grep 'KASLR enabled'")
	}
	p.run("pikeletd status", "slot    a, committed, on "+disk, smallImage.Manifest.Root.Hash, smallImage.Digest)
	p.run("touch /usr/x", "Read-only file system")
	p.works("touch /etc/x /var/x")
	p.works("[ $(hostname) = small-52617370 ]")
	p.works("grep ' / ' /proc/self/mountinfo | grep shared:")
	p.works("kill -0 $(pidof pikelet-watchdog)")
	p.off()
}

func TestRaspi3bReachesLogin(t *testing.T) {
	t.Parallel()
	p := boot(t, newCard(t), func(o *vm.Options) { o.Machine = "raspi3b" })
	p.expect("slot a (committed), root verified: dm-verity")
	p.prompt()
	p.run("cat /proc/device-tree/model", "Raspberry Pi 3 Model B")
	p.run("pikeletd status", "on /dev/mmcblk0")
	// This machine has no clock of its own, as no Pi before the 5 has.
	p.works(fmt.Sprintf("[ $(date +%%s) -ge %d ]", smallImage.Manifest.Epoch))
	p.off()
}

func TestTwoCardsOfOneBuildAreAnError(t *testing.T) {
	t.Parallel()
	p := boot(t, newCard(t), func(o *vm.Options) { o.Second = newCard(t) })
	p.expect("THIS BOOT FAILED: finding the slot: /dev/vda and /dev/vdb both hold slot a of build "+smallImage.Manifest.BuildID, "take one of them out")
}

// TestNobodyGetsInWithoutTheSpecSayingSo boots an image whose spec does not
// ask for an open console, and asks for a root that is as small as it gets.
func TestNobodyGetsInWithoutTheSpecSayingSo(t *testing.T) {
	t.Parallel()
	p := boot(t, variant(t, "console: root\n", "compression: small\n").Disk)
	p.expect("slot a (committed)", "login: ")
	for _, password := range []string{"", "root", "raspberry"} {
		p.run("root", "Password: ")
		p.run(password, "Starter root") // the next getty's banner: this login is over
		p.expect("login: ")
	}
	if strings.Contains(p.Output(), ":~# ") {
		t.Error("a login opened a shell")
	}
}

// TestFailedPreparationIsSurvived: a node that can be reached can be mended.
func TestFailedPreparationIsSurvived(t *testing.T) {
	t.Parallel()
	p := boot(t, variant(t, "console: root\n", "layers: [{folder: noprepare}]\n").Disk)
	p.expect("preparing the node failed", "slot a (committed), root verified", "Caching service dependencies")
}

// TestTheOtherSlot: once as a trial, from which a watchdog that is not fed, as
// of a kernel that hangs, goes back to the default; and once as what nobody
// proves.
func TestTheOtherSlot(t *testing.T) {
	t.Parallel()
	p := ready(t, small(t), "", 0)
	p.run("pikeletd reboot --try", "slot b (trial), root verified")
	p.prompt()
	p.run("kill -STOP $(pidof pikelet-watchdog)", "slot a (committed), root verified")
	p.Close()
	p = ready(t, small(t), "", 0)
	p.run("pikeletd reboot --rescue", "slot b (rescue), root verified")
}

func TestTrialWhoseKernelPanicsFallsBack(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	flip(t, card, offset(t, card, slots.B, image.InitramfsFile)) // no initramfs, no root: the kernel panics
	p := boot(t, card, func(o *vm.Options) { o.Request.Tryboot = true })
	p.expect("Kernel panic", "slot a (committed), root verified")
	if n := p.Boots(); n != 2 {
		t.Errorf("the firmware started %d kernels, want 2", n)
	}
}

func TestTrialWithABrokenChainFallsBack(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	flip(t, card, offset(t, card, slots.B, image.ManifestFile)+100)
	p := boot(t, card, func(o *vm.Options) { o.Request.Tryboot = true })
	p.expect("THIS BOOT FAILED", "this was a trial of slot b; going back to slot a", "slot a (committed), root verified",
		"an earlier boot failed: slot b: checking the slot: manifest.json was changed")
}

// TestOneFlippedByte breaks the committed slot in one place at a time. The
// layer that should notice says so, and the other slot comes up as a rescue
// that says why.
func TestOneFlippedByte(t *testing.T) {
	newCard(t) // builds the image the places are taken from
	for i, c := range []struct {
		file string
		at   int64
		want string
	}{
		{image.RootFile, 4, "opening the root: mounting the root"},
		{image.ManifestFile, 200, "manifest.json was changed"},
		// TestWordsOfTheOtherSlot is another of cmdline.txt.
		{slots.CmdlineFile, 60, "the kernel command line (cmdline.txt) changed"},
		{image.SignatureFile, 3000, "signature.json"},
		{image.ManifestFile, int64(bytes.Index(smallImage.Text, []byte(smallImage.Manifest.BuildID))), "manifest.json was changed"},
		{slots.CmdlineFile, 0, "the kernel command line (cmdline.txt) changed"}, // in pikelet.slot=a itself
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

// TestWordsOfTheOtherSlot: slot a says it is b. The firmware knows better, and
// nothing goes round in circles.
func TestWordsOfTheOtherSlot(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	overwrite(t, card, offset(t, card, slots.A, slots.CmdlineFile)+int64(len("pikelet.slot=")), []byte("b"))
	p := boot(t, card)
	p.expect("THIS BOOT FAILED: checking the slot: the kernel command line (cmdline.txt) changed", "slot b (rescue), root verified", "because: slot a: ")
}

// TestFlippedByteInAFileOfTheRoot is the one the chain cannot see before it
// is read: the kernel answers with an error, and the node goes on.
func TestFlippedByteInAFileOfTheRoot(t *testing.T) {
	t.Parallel()
	p := ready(t, small(t), "", 0, func(card string) {
		size := int64(smallImage.Manifest.Root.DataBlocks) * 4096
		flip(t, card, offset(t, card, slots.A, image.RootFile)+size/3)
	})
	p.run("find / -xdev -type f -exec cat {} + >/dev/null; dmesg | grep verity", "Input/output error", "data block", "is corrupted")
	p.works("true")
}

func TestBothSlotsBadStaysUpAndTriesAgain(t *testing.T) {
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
	p.expect("THIS BOOT FAILED", "slot b is none to go to: reading a FAT32 boot sector", "trying again in")
}

func TestHalfWrittenSlotIsWalkedOver(t *testing.T) {
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

// controlFile reads a file of a card's control partition.
func controlFile(t *testing.T, card, name string) string {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(openOn(t, f, 1, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
