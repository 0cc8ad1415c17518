package updater

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

// TestUnchangedBlocksAreNotWritten: a second release costs what differs; the same
// one costs nothing.
func TestUnchangedBlocksAreNotWritten(t *testing.T) {
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
	written := func(o powercut.Op) bool { return o.Data != nil }
	if w := write(now); w != (Written{}) || slices.ContainsFunc(card.Ops, written) {
		t.Errorf("what was there was written again: %+v, %d operations", w, len(card.Ops))
	}
}

// TestUnchangedFilesAreNotFetched: of a second release only the files that differ
// are fetched; of an upgrade that was cut off, those that had not come.
func TestUnchangedFilesAreNotFetched(t *testing.T) {
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
	if err := Commit(l.card, l.table(), slots.B); !errors.Is(err, medium.ErrDiffers) {
		t.Errorf("a commit that was not kept: %v", err)
	}
}

// TestReadBackBlamesCardOrSource: where a file is wrong on the card, the error
// tells a card that does not keep it from a source that sends it like that; and
// either way the slot is no filesystem.
func TestReadBackBlamesCardOrSource(t *testing.T) {
	old, now := newImage(t, "1.0"), newImage(t, "1.1")
	base, table := newCard(t, old)
	p := table.Partitions[disk.SlotB-1]
	write := func(rots int64, img image.Image) error {
		card := powercut.Record(base.Clone())
		card.Rots = rots
		_, err := WriteSlot(context.Background(), card, img, slots.B, p)
		if err == nil {
			t.Fatal("no error")
		}
		if _, err := fat.Open(io.NewSectionReader(card, p.Start, p.Size)); err == nil {
			t.Error("the slot is a filesystem")
		}
		return err
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
	err := write(0, bad)
	if errors.Is(err, medium.ErrDiffers) || len(hint.Of(err)) != 1 || !strings.Contains(hint.Of(err)[0], "publish the image there again") {
		t.Errorf("a source that sends another file: %v, %q", err, hint.Of(err))
	}
	err = write(rootOf(t, now, p)+100_000, now)
	if !errors.Is(err, medium.ErrDiffers) || strings.Contains(strings.Join(hint.Of(err), ""), "publish") {
		t.Errorf("a card that keeps another file: %v, %q", err, hint.Of(err))
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

// TestTornTableKeepsThePartition: whatever bytes of the old and the new length of the
// last partition a power cut leaves, they make a partition.
func TestTornTableKeepsThePartition(t *testing.T) {
	_, table := newCard(t, newImage(t, "1.0"))
	for size := int64(16); size < 300_000; size += 97 {
		card := powercut.Record(powercut.NewCard())
		end := table.Partitions[disk.State-1].Start + size*disk.MiB
		grown, err := Grow(card, table, end)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Grow(card, grown, end); err != nil || again.Partitions[disk.State-1].Size > size*disk.MiB {
			t.Fatalf("grown once more: %+v (%v)", again, err)
		} else if third, _ := Grow(card, again, end); third != again {
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

// TestUnflushedSlot: of a slot that a process wrote without its last flush before
// it was killed nothing is written again, and it is on the card when WriteSlot
// returns.
func TestUnflushedSlot(t *testing.T) {
	img := newImage(t, "1.0")
	base, table := newCard(t, newImage(t, "0.9"))
	card := powercut.Record(base)
	p := table.Partitions[disk.SlotB-1]
	flushes := 0
	card.Fail = func(at int64, _ int) error {
		if at == powercut.Flushing {
			if flushes++; flushes == 3 {
				panic(killed{})
			}
		}
		return nil
	}
	if _, dead := survive(func() error { _, err := WriteSlot(context.Background(), card, img, slots.B, p); return err }); !dead {
		t.Fatalf("got %d flushes, want one more after the first sector is written", flushes)
	}
	card.Fail = nil
	written := len(card.Ops)
	if _, err := WriteSlot(context.Background(), card, img, slots.B, p); err != nil {
		t.Fatal(err)
	}
	if got := card.Ops[written:]; len(got) != 1 || !got[0].Flush {
		t.Errorf("got %d operations, want one flush: %+v", len(got), got)
	}
}

// TestFailedFlushOfCommit: a commit whose flush fails is none, and is not read as
// one.
func TestFailedFlushOfCommit(t *testing.T) {
	base, table := newCard(t, newImage(t, "1.0"))
	card := powercut.Record(base)
	card.Fail = func(at int64, _ int) error {
		if at == powercut.Flushing {
			return syscall.EIO
		}
		return nil
	}
	if err := Commit(card, table, slots.B); !errors.Is(err, syscall.EIO) {
		t.Errorf("got error %v, want %v", err, syscall.EIO)
	}
	if got := slots.Default(card, table); got != slots.A {
		t.Errorf("default slot mismatch: got %s, want %s", got, slots.A)
	}
}
