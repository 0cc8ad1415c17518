package updater

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// TestUpgradesAndRollbacks: a to b to a; an image that is not well is left with the
// reason, and refused until it is asked for; one that fails for a reason
// outside the node is not held against it; a drill comes back; and what was on
// the other slot can be gone back to.
func TestUpgradesAndRollbacks(t *testing.T) {
	first := newImage(t, "1.0")
	l := newLife(t, first)
	l.start("", PowerOn)
	second, third, fourth := l.add(newImage(t, "1.1"), true), l.add(newImage(t, "1.2"), true), l.add(newImage(t, "1.3"), false)
	do := func(img image.Image, slot slots.Letter, release string, step slots.Step) {
		t.Helper()
		if err := l.through(img); err != nil {
			t.Fatal(err)
		}
		l.is(slot, release, step)
	}
	do(second, slots.B, "1.1", slots.Finished)
	do(third, slots.A, "1.2", slots.Finished)
	do(fourth, slots.A, "1.2", slots.Left)
	if u := l.record(); !u.Bad || !strings.Contains(u.Reason, "after 1m0s: volume: it never comes") {
		t.Errorf("the record says %+v", u)
	}
	report, err := ReadControl(l.card, l.table(), slots.ReportFile)
	for _, want := range []string{
		"Release 1.3 was tried in slot b, and left", "after 1m0s: volume", "ok      state", "MISSING volume", "the log",
		"until an upgrade asks for it again",
	} {
		if err != nil || !strings.Contains(l.reports[0], want) {
			t.Errorf("the trial's report lacks %q:\n%s", want, l.reports[0])
		}
	}
	if !strings.Contains(string(report), "Release 1.3 was tried in slot b") || !strings.Contains(string(report), "MISSING volume") {
		t.Errorf("report.txt says %.200s", report)
	}
	if err := l.through(fourth); !errors.Is(err, ErrFailedHere) || !strings.Contains(err.Error(), "after 1m0s: volume: it never comes") {
		t.Errorf("the same again: %v", err)
	}
	l.again, l.outside = true, true
	do(fourth, slots.A, "1.2", slots.Left)
	if u := l.record(); u.Bad || !strings.Contains(u.Reason, "outside this node") {
		t.Errorf("the record says %+v", u)
	}
	l.again = false
	l.well[fourth.Digest] = true
	if _, err := l.upgrade(fourth, true); err != nil { // not held against it: it need not be asked for again
		t.Fatal(err)
	}
	l.start(*l.asked, Watchdog)
	l.run()
	l.is(slots.A, "1.2", slots.Left)
	if u := l.record(); u.Bad || !strings.Contains(u.Reason, "drill") {
		t.Errorf("the record says %+v", u)
	}
	// rollback: what the other slot holds, as it is.
	if err := l.updater().Arm(context.Background(), Order{Return: true}); err != nil {
		t.Fatal(err)
	}
	l.start(*l.asked, Watchdog)
	l.run()
	l.is(slots.B, "1.3", slots.Finished)
	l.well[fourth.Digest] = false
	if err := l.through(first); err == nil || !strings.Contains(err.Error(), "this node is not well") {
		t.Errorf("an upgrade of a node that is not well: %v", err)
	}
}

// TestMayStart: moments at which no upgrade begins.
func TestMayStart(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	next := l.add(newImage(t, "1.1"), true)
	l.boot.Slot = slots.Net
	if err := l.updater().MayStart(next.Digest, false); err == nil || !strings.Contains(err.Error(), "has no card") {
		t.Errorf("without a card: %v", err)
	}
	l.boot.Slot = slots.A
	if _, err := l.upgrade(next, false); err != nil {
		t.Fatal(err)
	}
	if err := l.updater().MayStart(next.Digest, true); err == nil || !strings.Contains(err.Error(), "release 1.1 is being tried") {
		t.Errorf("while another is armed: %v", err)
	}
	l.start(*l.asked, Watchdog)
	if err := l.updater().MayStart(next.Digest, true); err == nil || !strings.Contains(err.Error(), "this boot is a trial") {
		t.Errorf("in a trial: %v", err)
	}
}

// TestCutBetweenArmAndTrial: the power goes before the trial begins: it is
// asked for again, and is kept. A firmware that never starts it is asked three
// times, and nothing is held against the release.
func TestCutBetweenArmAndTrial(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	next := l.add(newImage(t, "1.1"), true)
	if _, err := l.upgrade(next, false); err != nil {
		t.Fatal(err)
	}
	l.start("", PowerOn) // the flag went with the power
	l.run()
	l.is(slots.B, "1.1", slots.Finished)

	other := l.add(newImage(t, "1.2"), true)
	if _, err := l.upgrade(other, false); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for range 10 {
		l.start("", Watchdog) // a firmware that knows no trials
		if err := l.updater().Conclude(context.Background()); err != nil {
			t.Fatal(err)
		}
		if l.asked == nil {
			break
		}
		asked++
	}
	l.is(slots.B, "1.1", slots.Left)
	if u := l.record(); asked != slots.MaxStarts-1 || u.Bad || !strings.Contains(u.Reason, "asked for 3 times") {
		t.Errorf("asked %d times more, the record says %+v", asked, u)
	}
}

// TestTornCommit: a power cut in the middle of a commit leaves autoboot.txt
// with one name twice. The next trial is of the other slot all the same.
func TestTornCommit(t *testing.T) {
	for _, torn := range []string{"boot_partition=2\n[tryboot]\nboot_partition=2", "boot_partition=3\n[tryboot]\nboot_partition=3"} {
		l := newLife(t, newImage(t, "1.0"))
		l.start("", PowerOn)
		if _, err := l.upgrade(l.add(newImage(t, "1.1"), true), false); err != nil {
			t.Fatal(err)
		}
		at, _, err := slots.ControlFile(l.card, l.table(), slots.AutobootFile)
		if err != nil {
			t.Fatal(err)
		}
		l.card.Card.WriteAt([]byte("[all]\ntryboot_a_b=1\n"+torn), at)
		l.start("", PowerOn)
		l.run()
		l.is(slots.B, "1.1", slots.Finished)
		if err := l.through(l.add(newImage(t, "1.2"), true)); err != nil {
			t.Fatal(err)
		}
		l.is(slots.A, "1.2", slots.Finished)
	}
}

// TestCommittedBootIsNotRestarted: a committed boot runs no checks, and nothing
// that is missing or away restarts it.
func TestCommittedBootIsNotRestarted(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	l.kill = func(step string) { t.Errorf("a committed boot: %s", step) }
	for _, u := range []*slots.Update{
		nil,
		{Step: slots.Finished, Slot: slots.A, Digest: l.boot.Digest},
		{Step: slots.Left, Slot: slots.B, Bad: true},
	} {
		if err := slots.ChangeCard(l.card, func(c *slots.Card) { c.Update = u }); err != nil {
			t.Fatal(err)
		}
		l.well[l.boot.Digest] = false
		if err := l.updater().Conclude(context.Background()); err != nil || l.asked != nil {
			t.Errorf("%+v: it restarts (%v)", u, err)
		}
	}
}

// TestInterruptedTrials: in the middle of one, the power goes, once and twice; the
// node is reset without a power cut; /init gives the slot up; somebody restarts
// the node.
func TestInterruptedTrials(t *testing.T) {
	begun := func(t *testing.T) *life {
		l := newLife(t, newImage(t, "1.0"))
		l.start("", PowerOn)
		if _, err := l.upgrade(l.add(newImage(t, "1.1"), true), false); err != nil {
			t.Fatal(err)
		}
		l.start(*l.asked, Watchdog)
		l.kill = func(step string) {
			if step == "checks" {
				panic(killed{})
			}
		}
		if _, dead := survive(func() error { return l.updater().Conclude(context.Background()) }); !dead {
			t.Fatal("no trial")
		}
		l.kill = nil
		return l
	}
	t.Run("power", func(t *testing.T) {
		l := begun(t)
		l.start("", PowerOn)
		l.run() // tried once more, and kept
		l.is(slots.B, "1.1", slots.Finished)
	})
	t.Run("power twice", func(t *testing.T) {
		l := begun(t)
		for range 2 {
			l.start("", PowerOn)
			if err := l.updater().Conclude(context.Background()); err != nil {
				t.Fatal(err)
			}
			if l.asked == nil {
				break
			}
			l.start(*l.asked, Watchdog)
			u := l.updater()
			u.note(slots.Update{Step: slots.Tried, Slot: slots.B, Digest: l.boot.Digest, Release: "1.1", Cuts: l.record().Cuts, Tries: 1})
		}
		l.is(slots.A, "1.0", slots.Left)
		if u := l.record(); u.Bad {
			t.Errorf("held against the release: %+v", u)
		}
	})
	t.Run("reset", func(t *testing.T) {
		l := begun(t)
		l.start("", Watchdog)
		l.run()
		l.is(slots.A, "1.0", slots.Left)
		if u := l.record(); !u.Bad || !strings.Contains(u.Reason, "the kernel panicked, the watchdog") {
			t.Errorf("the record says %+v", u)
		}
	})
	t.Run("init", func(t *testing.T) {
		l := begun(t)
		l.start("", Watchdog)
		l.boot.Failed = "slot a: old\nslot b: pikeletd gave no sign of life for 1m0s"
		l.run()
		l.is(slots.A, "1.0", slots.Left)
		if u := l.record(); !u.Bad || u.Reason != "pikeletd gave no sign of life for 1m0s" {
			t.Errorf("the record says %+v", u)
		}
	})
	t.Run("somebody", func(t *testing.T) {
		l := begun(t)
		ctx, stop := context.WithCancel(context.Background())
		stop()
		if err := l.updater().Conclude(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("a trial that is stopped: %v", err)
		}
		l.start("", Watchdog)
		l.run()
		l.is(slots.A, "1.0", slots.Left)
		if u := l.record(); u.Bad || !strings.Contains(u.Reason, "restarted or shut down") {
			t.Errorf("the record says %+v", u)
		}
	})
}

// TestRescueBecomesTheDefault: before an upgrade from a rescue the slot that
// runs is made the default; what was written to the other one was it before.
func TestRescueBecomesTheDefault(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	if err := l.through(l.add(newImage(t, "1.1"), true)); err != nil {
		t.Fatal(err)
	}
	l.boot.Slot, l.boot.Kind, l.boot.Digest = slots.A, slots.Rescue, newImage(t, "1.0").Digest
	l.card.Base, l.card.Ops = l.card.Card.Clone(), nil
	if _, err := l.upgrade(l.add(newImage(t, "1.2"), true), false); err != nil {
		t.Fatal(err)
	}
	if got := slots.Default(l.card, l.table()); got != slots.A {
		t.Errorf("the default is slot %q", got)
	}
	at, _, err := slots.ControlFile(l.card, l.table(), slots.AutobootFile)
	if err != nil || l.card.Ops[0].At != at || !l.card.Ops[1].Flush {
		t.Errorf("the first write was to byte %d, not to autoboot.txt at %d (%v)", l.card.Ops[0].At, at, err)
	}
	l.start(*l.asked, Watchdog)
	l.run()
	l.is(slots.B, "1.2", slots.Finished)
}
