package initramfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// newCard writes a card with a control partition and no slots into a file.
func newCard(t *testing.T) *card {
	t.Helper()
	table, err := disk.Card(34*disk.MiB, disk.StateInImage, 1)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "card")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(table.End()); err != nil {
		t.Fatal(err)
	}
	control := table.Partitions[0]
	layout, contents, err := slots.Sizes{}.Control(slots.Files{Default: slots.A, Bootcode: []byte("code")}, control)
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Write(io.NewOffsetWriter(f, control.Start), contents); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(table.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	c, err := openCard(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.f.Close() })
	return c
}

func TestAutobootLiesApart(t *testing.T) {
	c := newCard(t)
	at, size, err := c.controlFile(slots.AutobootFile)
	if err != nil || size != 512 {
		t.Fatal(at, size, err)
	}
	for _, name := range []string{slots.NodeFile, slots.ReportFile, slots.BootcodeFile} {
		other, n, err := c.controlFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if other < at+512+64<<10 && at < other+n+64<<10 {
			t.Errorf("%s at %d is within 64 KiB of autoboot.txt at %d", name, other, at)
		}
	}
	if c.defaultSlot() != slots.A {
		t.Errorf("the default is %q", c.defaultSlot())
	}
}

// TestNoteKeepsBothSlots is the memory that makes "once" true.
func TestNoteKeepsBothSlots(t *testing.T) {
	c := newCard(t)
	b := &boot{card: c, info: cmdline.Info{Stream: "lab", Release: "1"}, line: cmdline.Line{Slot: slots.A}}
	if failedBefore(c.readRecord(), slots.A) || failedBefore(c.readRecord(), slots.B) {
		t.Error("a new card remembers failures")
	}
	b.note(errors.New("the first\nreason"))
	b.line.Slot = slots.B
	b.note(errors.New("the other reason"))
	b.note(errors.New("again"))
	r := c.readRecord()
	if want := "slot b: again\nslot a: the first reason"; r.Text != want || r.Sequence != 3 {
		t.Errorf("record %d %q, want 3 %q", r.Sequence, r.Text, want)
	}
	if !failedBefore(r, slots.A) || !failedBefore(r, slots.B) {
		t.Error("the record forgot a slot")
	}
	at, size, err := c.controlFile(slots.ReportFile)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, size)
	c.f.ReadAt(text, at)
	if !strings.Contains(string(text), "slot a: the first reason") || !strings.HasSuffix(string(text), "\n\n\n") {
		t.Errorf("report.txt:\n%s", strings.TrimSpace(string(text)))
	}
	if err := c.clearRecord(); err != nil || failedBefore(c.readRecord(), slots.A) {
		t.Errorf("clearing: %v", err)
	}
}

func TestWritesStayInPlace(t *testing.T) {
	c := newCard(t)
	before, _ := os.ReadFile(c.dev)
	if err := c.writeReport(strings.Repeat("x", 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := c.writeRecord("reason"); err != nil {
		t.Fatal(err)
	}
	after, _ := os.ReadFile(c.dev)
	at, size, _ := c.controlFile(slots.ReportFile)
	for i := range before {
		inReport := int64(i) >= at && int64(i) < at+size
		inRecord := i >= disk.InitRecord && i < disk.InitRecord+disk.RecordSize
		if before[i] != after[i] && !inReport && !inRecord {
			t.Fatalf("byte %d changed, outside report.txt and the record", i)
		}
	}
}

// TestEmptySlot: a slot that holds nothing is nowhere to go to.
func TestEmptySlot(t *testing.T) {
	c := newCard(t)
	if c.empty(slots.A) == nil || c.empty(slots.B) == nil {
		t.Error("a slot without a filesystem holds an image")
	}
	write := func(l slots.Letter, name string) {
		t.Helper()
		p := c.table.Partitions[l.Partition()-1]
		layout, err := fat.Plan([]fat.File{{Name: name}}, fat.Options{Size: p.Size})
		if err != nil {
			t.Fatal(err)
		}
		if err := layout.Write(io.NewOffsetWriter(c.f, p.Start), nil); err != nil {
			t.Fatal(err)
		}
	}
	write(slots.A, "config.txt")
	write(slots.B, image.ManifestFile)
	if c.empty(slots.A) == nil || c.empty(slots.B) != nil {
		t.Errorf("a filesystem without a manifest: %v; one with: %v", c.empty(slots.A), c.empty(slots.B))
	}
}

// TestTrialWithoutAMark: firmware that leaves no mark of a trial; the record
// says that the slot that runs was armed, or that it was not.
func TestTrialWithoutAMark(t *testing.T) {
	c := newCard(t)
	b := &boot{card: c, line: cmdline.Line{Slot: slots.B}}
	for _, x := range []struct {
		u    *slots.Update
		want slots.Kind
	}{
		{nil, slots.Rescue},
		{&slots.Update{Step: slots.Armed, Slot: slots.B}, slots.Trial},
		{&slots.Update{Step: slots.Tried, Slot: slots.B}, slots.Trial},
		{&slots.Update{Step: slots.Armed, Slot: slots.A}, slots.Rescue},
		{&slots.Update{Step: slots.Left, Slot: slots.B}, slots.Rescue},
		{&slots.Update{Step: slots.Finished, Slot: slots.B}, slots.Rescue},
	} {
		if err := slots.ChangeCard(c.f, func(r *slots.Card) { r.Update = x.u }); err != nil {
			t.Fatal(err)
		}
		if got := b.what(); got != x.want {
			t.Errorf("%+v: %s, want %s", x.u, got, x.want)
		}
	}
	b.line.Slot = slots.A
	if got := b.what(); got != slots.Committed {
		t.Errorf("the default slot is %s", got)
	}
}
