package updater

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

// TestThereAndBack: a to b to a; an image that is not well is left with the
// reason, and refused until it is asked for; one that fails for a reason
// outside the node is not held against it; a drill comes back; and what was on
// the other slot can be gone back to.
func TestThereAndBack(t *testing.T) {
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
	for _, want := range []string{"Release 1.3 was tried in slot b, and " +
		"left", "after 1m0s: volume", "ok      state", "MISSING volume", "the log", "--again"} {
		if err != nil || !strings.Contains(l.reports[0], want) {
			t.Errorf("the trial's report lacks %q:\n%s", want, l.reports[0])
		}
	}
	if !strings.Contains(string(report), "Release 1.3 was tried in slot b") || !strings.Contains(string(report), "MISSING volume") {
		t.Errorf("report.txt says %.200s", report)
	}
	if err := l.through(fourth); err == nil || !strings.Contains(err.Error(), "failed on this node before: after 1m0s: "+
		"volume: it never comes") {
		t.Errorf("the same again: %v", err)
	}
	l.again, l.outside = true, true
	do(fourth, slots.A, "1.2", slots.Left)
	if u := l.record(); u.Bad || !strings.Contains(u.Reason, "outside this node") {
		t.Errorf("the record says %+v", u)
	}
	l.again = false
	l.well[fourth.Digest] = true
	if _, err := l.upgrade(fourth, true); err != nil { // not held against it: no --again is needed
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

// TestNotNow: moments at which no upgrade begins.
func TestNotNow(t *testing.T) {
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

// TestCommittedStaysUp: on a committed boot nobody asks how the node is, and
// nothing that is missing or away restarts it.
func TestCommittedStaysUp(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	l.kill = func(step string) { t.Errorf("a committed boot: %s", step) }
	for _, u := range []*slots.Update{nil, {Step: slots.Finished, Slot: slots.A, Digest: l.boot.Digest}, {Step: slots.Left, Slot: slots.B, Bad: true}} {
		if err := slots.ChangeCard(l.card, func(c *slots.Card) { c.Update = u }); err != nil {
			t.Fatal(err)
		}
		l.well[l.boot.Digest] = false
		if err := l.updater().Conclude(context.Background()); err != nil || l.asked != nil {
			t.Errorf("%+v: it restarts (%v)", u, err)
		}
	}
}

// TestHowATrialEnded: in the middle of one, the power goes, once and twice; the
// node is reset without a power cut; /init gives the slot up; somebody restarts
// the node.
func TestHowATrialEnded(t *testing.T) {
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

// TestWhatIsThereIsNotWritten: a second release costs what differs; the same
// one costs nothing.
func TestWhatIsThereIsNotWritten(t *testing.T) {
	old, now := newImage(t, "1.0"), newImage(t, "1.1")
	base, table := newCard(t, old)
	card := powercut.Record(base)
	p := table.Partitions[disk.SlotB-1]
	write := func(img image.Image) Written {
		w, err := WriteSlot(context.Background(), card, img, slots.B, p)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	first := write(old)
	second := write(now)
	kernel, _ := now.Manifest.File("vmlinuz")
	if second.Bytes > kernel.Size+64<<10 || second.Same < first.Bytes/3 {
		t.Errorf("the first took %+v, one with another kernel of %d bytes %+v", first, kernel.Size, second)
	}
	card.Ops = nil
	if w := write(now); w != (Written{}) || len(card.Ops) != 0 {
		t.Errorf("what was there was written again: %+v, %d writes", w, len(card.Ops))
	}
}

// TestWhatIsThereIsNotFetched: of a second release only the files that differ
// are fetched; of an upgrade that was cut off, those that had not come.
func TestWhatIsThereIsNotFetched(t *testing.T) {
	old, now := newImage(t, "1.0"), newImage(t, "1.1")
	base, table := newCard(t, old)
	card := powercut.Record(base)
	p := table.Partitions[disk.SlotB-1]
	fetched := map[string]int{}
	asked := now
	asked.Source = hooked{now.Source, func(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
		fetched[f.Name]++
		return now.Source.Open(ctx, f, at, n)
	}}
	write := func(img image.Image) error {
		_, err := WriteSlot(context.Background(), card, img, slots.B, p)
		return err
	}
	if err := write(old); err != nil {
		t.Fatal(err)
	}
	full := card.Card.Clone()
	if err := write(asked); err != nil {
		t.Fatal(err)
	}
	if len(fetched) != 3 || fetched["cmdline-b.txt"] == 0 || fetched["vmlinuz"] == 0 || fetched["root.squashfs"] == 0 {
		t.Errorf("fetched %v", fetched)
	}
	card, fetched = powercut.Record(full), map[string]int{}
	card.Fail = func(at int64, _ int) error {
		if at >= rootOf(t, now, p) && at < rootOf(t, now, p)+1<<20 {
			return errors.New("the power goes")
		}
		return nil
	}
	if write(asked) == nil || fetched["vmlinuz"] == 0 {
		t.Fatalf("it was not cut off: %v", fetched)
	}
	card.Fail, fetched = nil, map[string]int{}
	if err := write(asked); err != nil {
		t.Fatal(err)
	}
	if len(fetched) != 1 || fetched["root.squashfs"] == 0 {
		t.Errorf("after it was cut off %v were fetched", fetched)
	}
	// An image that does not fit is refused before anything is written.
	large := newImage(t, "1.2")
	large.Manifest.Files = append(large.Manifest.Files, image.File{Name: "large", Size: p.Size, Digest: image.DigestOf(nil)})
	card.Ops = nil
	if err := write(large); err == nil || len(card.Ops) != 0 {
		t.Errorf("an image too large: %v, %d writes", err, len(card.Ops))
	}
}

// TestCardsThatFail: an error, and a card that does not keep what it is given,
// leave the default slot as it was and the other one not to be armed.
func TestCardsThatFail(t *testing.T) {
	old, now := newImage(t, "1.0"), newImage(t, "1.1")
	for name, spoil := range map[string]func(*life, disk.Partition){
		"an error": func(l *life, p disk.Partition) {
			n := 0
			l.card.Fail = func(at int64, _ int) error {
				if n++; n > 40 && at >= 0 {
					return errors.New("input/output error")
				}
				return nil
			}
		},
		"an error at once": func(l *life, p disk.Partition) {
			l.card.Fail = func(at int64, _ int) error {
				if at >= 0 {
					return errors.New("input/output error")
				}
				return nil
			}
		},
		"a flush that fails": func(l *life, p disk.Partition) {
			l.card.Fail = func(at int64, _ int) error {
				if at == powercut.Flushing {
					return errors.New("input/output error")
				}
				return nil
			}
		},
		"a byte of the root":  func(l *life, p disk.Partition) { l.card.Rots = rootOf(t, now, p) + 100_000 },
		"a byte of the FAT":   func(l *life, p disk.Partition) { l.card.Rots = p.Start + 64<<10 - 1000 },
		"the first sector":    func(l *life, p disk.Partition) { l.card.Rots = p.Start + 3 },
		"its copy":            func(l *life, p disk.Partition) { l.card.Rots = p.Start + 6*512 + 3 },
		"a file that is gone": func(l *life, p disk.Partition) {},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(t, old)
			l.start("", PowerOn)
			img := now
			if name == "a file that is gone" {
				img.Source = hooked{now.Source, func(context.Context, image.File, int64, int64) (io.ReadCloser, error) {
					return nil, errors.New("the registry is gone")
				}}
			}
			spoil(l, l.table().Partitions[disk.SlotB-1])
			if _, err := l.upgrade(l.add(img, true), false); err == nil {
				t.Error("no error")
			}
			l.card.Fail = nil
			if l.start("", PowerOn) && l.run() {
				l.is(slots.A, "1.0", "")
			}
		})
	}
	l := newLife(t, old)
	at, _, err := slots.ControlFile(l.card, l.table(), slots.AutobootFile)
	if err != nil {
		t.Fatal(err)
	}
	l.card.Rots = at + 3
	if err := Commit(l.card, l.table(), slots.B); err == nil || !strings.Contains(err.Error(), "does not hold what was written") {
		t.Errorf("a commit that was not kept: %v", err)
	}
}

// TestWhoseFault: a file that is wrong on the card is said to be the card's
// fault, or that of where the image came from, which nobody checks on the way;
// and either way the slot is no filesystem.
func TestWhoseFault(t *testing.T) {
	old, now := newImage(t, "1.0"), newImage(t, "1.1")
	base, table := newCard(t, old)
	p := table.Partitions[disk.SlotB-1]
	write := func(rots int64, img image.Image) string {
		card := powercut.Record(base.Clone())
		card.Rots = rots
		_, err := WriteSlot(context.Background(), card, img, slots.B, p)
		if err == nil {
			t.Fatal("no error")
		}
		if _, err := fat.Open(io.NewSectionReader(card, p.Start, p.Size)); err == nil {
			t.Error("the slot is a filesystem")
		}
		return err.Error()
	}
	bad := now
	bad.Source = hooked{now.Source, func(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
		r, err := now.Source.Open(ctx, f, at, n)
		if err != nil || f.Name != image.RootFile {
			return r, err
		}
		b, err := io.ReadAll(r)
		b[len(b)/2] ^= 1
		return io.NopCloser(bytes.NewReader(b)), err
	}}
	if got := write(0, bad); !strings.Contains(got, "publish the image there again") || strings.Contains(got, "another card") {
		t.Error(got)
	}
	if got := write(rootOf(t, now, p)+100_000, now); strings.Contains(got, "publish") || !strings.Contains(got, "another card") {
		t.Error(got)
	}
}

func rootOf(t *testing.T, img image.Image, p disk.Partition) int64 {
	t.Helper()
	layout, err := sizesOf(t, img).Slot(slots.B, p)
	if err != nil {
		t.Fatal(err)
	}
	return p.Start + layout.Offset(image.RootFile)
}

// TestNoMixIsNoPartition: whatever bytes of the old and the new length of the
// last partition a power cut leaves, they make a partition.
func TestNoMixIsNoPartition(t *testing.T) {
	_, table := newCard(t, newImage(t, "1.0"))
	for size := int64(16); size < 300_000; size += 97 {
		card := powercut.Record(powercut.NewCard())
		grown, err := Grow(card, table, table.Partitions[disk.State-1].Start+size*disk.MiB)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Grow(card, grown, table.Partitions[disk.State-1].Start+size*disk.MiB); err != nil || again.Partitions[disk.State-1].Size > size*disk.MiB {
			t.Fatalf("grown once more: %+v (%v)", again, err)
		} else if third, _ := Grow(card, again, table.Partitions[disk.State-1].Start+size*disk.MiB); third != again {
			t.Fatalf("it never comes to rest: %+v, %+v", again, third)
		}
		was, is := table.Partitions[disk.State-1].Size, grown.Partitions[disk.State-1].Size
		for mask := range 16 {
			var mix uint32
			for i := range 4 {
				from := uint32(was / disk.SectorSize)
				if mask>>i&1 == 1 {
					from = uint32(is / disk.SectorSize)
				}
				mix |= from & (0xff << (8 * i))
			}
			if mix == 0 || is > size*disk.MiB || is < size*disk.MiB-34*disk.MiB {
				t.Fatalf("from %d to %d bytes, of %d MiB: bytes of both may make %d", was, is, size, mix)
			}
		}
	}
}
