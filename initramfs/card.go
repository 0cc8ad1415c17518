package initramfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// card is the disk with the running slot, open for reading.
type card struct {
	dev   string
	f     *os.File
	table disk.Table
	slot  *fat.Volume
}

// slotWait is how long /init waits for the disk to appear: USB disks take
// seconds, a card 0.3 s. Where a disk has the slot but not the build, waiting
// otherWait for a better one is enough; so it is for a second disk of the build
// where disks come one after another.
const (
	slotWait  = 20 * time.Second
	otherWait = 3 * time.Second
)

// soonAgain is how often disks are looked for, and lookAgain how often once one
// was found, when another may follow: each look reads all of them anew.
const (
	soonAgain = 20 * time.Millisecond
	lookAgain = 250 * time.Millisecond
)

// findSlot finds the disk that holds the running slot of this very build. All
// Pikelet cards look alike, so what counts is the build id in the slot's
// manifest, and the kind of disk that the firmware says it booted from. A single
// disk whose manifest names another build is taken in the end: the check of the
// chain can say what is wrong with it, and write it down.
func (b *boot) findSlot() error {
	if b.line.Slot == slots.Net {
		return b.findServer()
	}
	mode, _ := firmware("boot-mode")
	pause := soonAgain
	for start := time.Now(); ; time.Sleep(pause) {
		f := b.search()
		if len(f.exact) > 0 {
			pause = lookAgain
		}
		c, err := choose(f, mode, b.line.Slot, b.info.BuildID, time.Since(start))
		if c != nil {
			b.card = c
		}
		closeAll(f.exact, c)
		closeAll(f.other, c)
		if c != nil || err != nil {
			return err
		}
	}
}

// found is what the disks hold at one moment: those with the slot of this build,
// those with it of another, and why the others are not used.
type found struct {
	exact, other []*card
	reasons      []string
}

// choose returns the disk that the firmware booted from, nil while a better one
// may still appear, and an error where there is none. Where the firmware names
// the kind of disk, no disk of another kind is taken: one that is ready sooner
// and holds the same build has another node's configuration and state.
func choose(f found, mode uint32, slot slots.Letter, build string, waited time.Duration) (*card, error) {
	kind := kinds()[mode]
	exact, other := ofKind(f.exact, kind), ofKind(f.other, kind)
	switch {
	case len(exact) > 1:
		return nil, fmt.Errorf("%s and %s both hold slot %s of build %s; take one of them out", exact[0].dev, exact[1].dev, slot, build)
	case len(exact) == 1 && (kind.single || waited > otherWait):
		return exact[0], nil
	case len(exact) == 0 && len(other) == 1 && len(f.exact) == 0 && waited > otherWait:
		return other[0], nil
	case waited < slotWait:
		return nil, nil
	case len(exact) == 0 && len(f.exact) > 0:
		return nil, fmt.Errorf("the firmware booted from %s (boot-mode %d), and no such disk with slot %s of build %s "+
			"appeared within %v; %s holds it and is not used: take it out, or boot from it",
			kind.name, mode, slot, build, slotWait, f.exact[0].dev)
	case len(f.reasons) == 0:
		return nil, fmt.Errorf("no disk appeared within %v; is the driver of the card reader in the image's kernel?", slotWait)
	}
	return nil, fmt.Errorf("no disk holds slot %s of build %s: %s", slot, build, strings.Join(f.reasons, "; "))
}

// closeAll closes cards but one.
func closeAll(list []*card, but *card) {
	for _, c := range list {
		if c != but {
			c.f.Close()
		}
	}
}

// diskKind is a kind of disk by the kernel's names. single is where only one can
// be there, so that no second one needs to be waited for.
type diskKind struct {
	name     string
	prefixes []string
	single   bool
}

// kinds maps the firmware's boot mode (docs/platform.md 2.3) to a kind of disk.
// A virtual Pi's card may be a disk of virtio. Other modes, and firmware that
// says none, are the zero kind, which is any disk.
func kinds() map[uint32]diskKind {
	usb := diskKind{name: "a USB disk", prefixes: []string{"sd"}}
	return map[uint32]diskKind{
		1: {name: "the SD card", prefixes: []string{"mmcblk", "vd"}, single: true},
		4: usb,
		5: usb,
		6: {name: "the NVMe disk", prefixes: []string{"nvme"}, single: true},
	}
}

// ofKind returns the cards of a kind; all for the zero kind.
func ofKind(list []*card, kind diskKind) []*card {
	if len(kind.prefixes) == 0 {
		return list
	}
	var out []*card
	for _, c := range list {
		for _, p := range kind.prefixes {
			if strings.HasPrefix(filepath.Base(c.dev), p) {
				out = append(out, c)
			}
		}
	}
	return out
}

// search looks at every disk once.
func (b *boot) search() (f found) {
	for _, dev := range disks() {
		c, same, err := b.look(dev)
		switch {
		case err != nil:
			f.reasons = append(f.reasons, fmt.Sprintf("%s: %v", dev, err))
		case !same:
			f.reasons = append(f.reasons, fmt.Sprintf("%s: its slot %s is another build", dev, b.line.Slot))
			f.other = append(f.other, c)
		default:
			f.exact = append(f.exact, c)
		}
	}
	return f
}

// disks returns the machine's disks, sorted. eMMC boot areas (mmcblk0boot0)
// and what the kernel makes itself are none.
func disks() []string {
	names, _ := filepath.Glob("/sys/block/*")
	sort.Strings(names)
	var list []string
	for _, n := range names {
		name := filepath.Base(n)
		own := false
		for _, prefix := range []string{"loop", "ram", "dm-", "zram", "nbd"} {
			own = own || strings.HasPrefix(name, prefix)
		}
		if !own && !strings.Contains(name, "boot") {
			list = append(list, "/dev/"+name)
		}
	}
	return list
}

// openCard opens a disk that has a partition table. It is opened for writing
// where it can be: the record and the report are written when things fail.
func openCard(dev string) (*card, error) {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		if f, err = os.Open(dev); err != nil {
			return nil, err
		}
	}
	c := &card{dev: dev, f: f}
	if c.table, err = disk.ReadTable(f); err != nil {
		f.Close()
		return nil, err
	}
	return c, nil
}

// look opens a disk that holds the running slot, and reports whether it is of
// this build. The manifest is not trusted here: this only tells cards apart.
func (b *boot) look(dev string) (c *card, same bool, err error) {
	if c, err = openCard(dev); err != nil {
		return nil, false, err
	}
	if same, err = b.inspect(c); err != nil {
		c.f.Close()
		return nil, false, err
	}
	return c, same, nil
}

func (b *boot) inspect(c *card) (same bool, err error) {
	if c.slot, err = c.volume(b.line.Slot); err != nil {
		return false, err
	}
	text, err := c.slot.ReadFile(image.ManifestFile, image.MaxManifest)
	if err != nil {
		return false, err
	}
	return strings.Contains(string(text), b.info.BuildID), nil
}

// volume opens the filesystem of a slot.
func (c *card) volume(l slots.Letter) (*fat.Volume, error) {
	p, err := c.table.Partition(l.Partition())
	if err != nil {
		return nil, err
	}
	return fat.Open(io.NewSectionReader(c.f, p.Start, p.Size))
}

// controlFile returns where a file of the control partition lies.
func (c *card) controlFile(name string) (offset, size int64, err error) {
	return slots.ControlFile(c.f, c.table, name)
}

// defaultSlot returns the slot autoboot.txt names, or "" where it can't be
// read.
func (c *card) defaultSlot() slots.Letter { return slots.Default(c.f, c.table) }

// empty says why a slot holds no image; nil where it may hold one. Whether it
// is whole its own /init finds out.
func (c *card) empty(l slots.Letter) error {
	v, err := c.volume(l)
	if err != nil {
		return err
	}
	_, err = v.Stat(image.ManifestFile)
	return err
}

// readRecord returns the record that only /init writes; an empty one where
// there is none.
func (c *card) readRecord() slots.Record {
	b := make([]byte, disk.RecordSize)
	if _, err := c.f.ReadAt(b, disk.InitRecord); err != nil {
		return slots.Record{}
	}
	r, err := slots.DecodeRecord(b)
	if err != nil {
		return slots.Record{}
	}
	return r
}

// write overwrites bytes of the disk in place and flushes them.
func (c *card) write(b []byte, at int64) error {
	if _, err := c.f.WriteAt(b, at); err != nil {
		return err
	}
	return c.f.Sync()
}

// writeRecord writes the record. Its sequence counts failures since a default
// slot last came up.
func (c *card) writeRecord(text string) error {
	r := slots.Record{Sequence: c.readRecord().Sequence + 1, Text: text}
	return c.write(r.Encode(), disk.InitRecord)
}

// clearRecord forgets failures.
func (c *card) clearRecord() error {
	return c.write(slots.Record{}.Encode(), disk.InitRecord)
}

// writeReport overwrites report.txt with a text, padded to the file's length.
func (c *card) writeReport(text string) error {
	at, size, err := c.controlFile(slots.ReportFile)
	if err != nil {
		return err
	}
	if int64(len(text)) > size {
		text = text[:size]
	}
	return c.write([]byte(text+strings.Repeat("\n", int(size)-len(text))), at)
}
