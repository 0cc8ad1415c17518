package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
	"github.com/pikelet-os/pikelet/internal/tools/full"
)

// onDesk is a card in a file, as the updater writes to it.
type onDesk struct{ *os.File }

func (d onDesk) Flush() error { return nil }

func (d onDesk) Forget() error { return nil }

// arm leaves a card as an upgrade does that has just been armed: the image on
// slot b, and the record that says so.
func arm(t *testing.T, card string, r *builder.Result, u slots.Update) {
	t.Helper()
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := updater.WriteSlot(context.Background(), onDesk{f}, r.Image, slots.B, partition(t, f, disk.SlotB)); err != nil {
		t.Fatal(err)
	}
	u.Step, u.Slot, u.Digest, u.Release = slots.Armed, slots.B, r.Digest, r.Manifest.Release
	if err := slots.ChangeCard(f, func(c *slots.Card) { c.Update = &u }); err != nil {
		t.Fatal(err)
	}
}

// trying starts a virtual Pi in the trial that a card is armed for.
func trying(t *testing.T, card string) *pi {
	t.Helper()
	return boot(t, card, func(o *vm.Options) { o.Request = vm.Request{Tryboot: true, Reset: true} })
}

// next builds release 1.3 of the small image, with more in its spec. It is well,
// however long a busy host makes it wait.
func next(t *testing.T, more string) *builder.Result {
	t.Helper()
	return variant(t, "release: \"1.2\"\n", "release: \"1.3\"\nhealth: {soak: 2s, deadline: 10m}\n"+more+"\n")
}

// bad builds release 1.3 of the small image, with more in its spec and with
// files in its root, that make it unwell.
func bad(t *testing.T, more string, files map[string]string) *builder.Result {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if len(files) > 0 {
		more += "\nlayers: [{folder: " + dir + "}]"
	}
	return variant(t, "release: \"1.2\"\n", "release: \"1.3\"\nhealth: {soak: 5s, deadline: 10s}\n"+more+"\n")
}

// left expects that the old slot is back, and says why.
func (p *pi) left(reason string) {
	p.t.Helper()
	p.expect("small 1.2, slot a (committed), root verified")
	from := len(p.Output())
	p.prompt()
	// It is said before the prompt or behind it.
	line := "release was left release=1.3 reason=\"" + reason
	p.await("the console says "+line, func() bool {
		return strings.Contains(p.Output()[from:], line)
	})
	p.run("pikeletd status", "upgrade to 1.3 in slot b: left, "+reason)
	p.unplug()
}

// leaves expects that a trial is over by its own word, which the card's record
// holds when the old slot is back. That boot then says it again, see left.
func (p *pi) leaves(reason string) {
	p.t.Helper()
	p.expect("leaving an unhealthy release release=1.3 reason=\""+reason, "small 1.2, slot a (committed), root verified")
	p.Close()
	if u := recordOn(p.t, p.card); u == nil || u.Step != slots.Tried || !u.Bad || !strings.HasPrefix(u.Reason, reason) {
		p.t.Errorf("the record says %+v, not that it was left because %s", u, reason)
	}
}

// trouble has a service of the image's run a command in the background.
func trouble(command string) string {
	return "overlays: [{name: ./trouble, with: {command: \"" + command + "\"}}]"
}

// TestTrialThatPanicsIsRolledBack: a kernel that panics before /init is left when it was
// asked for three times, of which this is the last.
func TestTrialThatPanicsIsRolledBack(t *testing.T) {
	t.Parallel()
	r := bad(t, "kernel: {words: [rdinit=/none]}", nil)
	card := newCard(t)
	arm(t, card, r, slots.Update{Starts: slots.MaxStarts - 1})
	p := trying(t, card)
	p.expect("Kernel panic")
	p.left("the trial was asked for 3 times, and the firmware or its kernel never got so far")
}

// TestTrialThatHangsIsRolledBack: a kernel that never gets to /init is ended by the
// watchdog that the firmware started; one whose pikeletd stands still, by the
// feeder that misses its signs of life.
func TestTrialThatHangsIsRolledBack(t *testing.T) {
	t.Parallel()
	r := bad(t, "kernel: {words: [rdinit=/none, root=/dev/none, rootwait]}\nconfig: {all: {lines: [kernel_watchdog_timeout=20]}}", nil)
	card := newCard(t)
	arm(t, card, r, slots.Update{Starts: slots.MaxStarts - 1}) // the last of three
	p := trying(t, card)
	p.left("the trial was asked for 3 times, and the firmware or its kernel never got so far")

	if strings.Contains(p.Output(), "Kernel panic") || p.Boots() != 2 {
		t.Errorf("it did not hang")
	}
	if !full.Tests {
		return
	}

	arm(t, card, bad(t, trouble("sleep 2; kill -STOP $(pidof pikeletd)"), nil), slots.Update{})
	p = trying(t, card)
	p.expect("small 1.3, slot b (trial), root verified", "this trial is over: pikeletd gave no sign of life for 1m0s")
	p.left("pikeletd gave no sign of life for 1m0s")
}

// TestTrialWithFailingChecksIsRolledBack: an image that comes up without network and one whose
// pikeletd crashes are left, with the reason. One whose own check fails is in
// TestUpgradeCommitsAndRollsBack.
func TestTrialWithFailingChecksIsRolledBack(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	try := func(r *builder.Result, reason string) {
		t.Helper()
		arm(t, card, r, slots.Update{})
		p := trying(t, card)
		p.expect("small 1.3, slot b (trial), root verified")
		p.leaves(reason)
	}
	try(bad(t, "inventory: lost.yaml", nil), "after 10s: network: eth0 has no")
	if !full.Tests {
		return
	}
	try(bad(t, trouble("while sleep 4; do kill -KILL $(pidof pikeletd); done"), nil), "pikeletd ended 5 times in the middle of the trial")
}

// TestTrialAndRescueOfSlotB: once as a trial, from which a watchdog that is not fed, as
// of a kernel that hangs, goes back to the default; and once as a rescue,
// which is not tried.
func TestTrialAndRescueOfSlotB(t *testing.T) {
	t.Parallel()
	p := ready(t, small(t), "", 0)
	p.run("pikeletd reboot --try", "slot b (trial), root verified")
	p.prompt()
	p.run("kill -STOP $(pidof pikelet-watchdog)", "slot a (committed), root verified")
	p.Close()
	p = ready(t, small(t), "", 0)
	p.run("pikeletd reboot --rescue", "slot b (rescue), root verified")
}

func TestTrialFallsBackAfterKernelPanic(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	flip(t, card, offset(t, card, slots.B, image.InitramfsFile)) // no initramfs, no root: the kernel panics
	p := boot(t, card, func(o *vm.Options) { o.Request.Tryboot = true })
	p.expect("Kernel panic", "slot a (committed), root verified")
	if n := p.Boots(); n != 2 {
		t.Errorf("the firmware started %d kernels, want 2", n)
	}
}

func TestTrialFallsBackFromInvalidSlot(t *testing.T) {
	t.Parallel()
	card := newCard(t)
	flip(t, card, offset(t, card, slots.B, image.ManifestFile)+100)
	p := boot(t, card, func(o *vm.Options) { o.Request.Tryboot = true })
	p.expect("THIS BOOT FAILED", "this was a trial of slot b; going back to slot a", "slot a (committed), root verified",
		"an earlier boot failed: slot b: checking the slot: manifest.json was changed")
}
