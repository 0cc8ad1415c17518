package initramfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
	"github.com/pikelet-os/pikelet/internal/slots"
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
// otherWait for a better one is enough.
const (
	slotWait  = 20 * time.Second
	otherWait = 3 * time.Second
)

// findSlot finds the disk that holds the running slot of this very build. All
// Pikelet cards look alike, so what counts is the build id in the slot's
// manifest; the firmware's boot mode says where to look first. A single disk
// whose manifest names another build is taken in the end: the check of the
// chain can say what is wrong with it, and write it down.
func (b *boot) findSlot() error {
	if b.line.Slot == slots.Net {
		return b.findServer()
	}
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		exact, other, reasons := b.search()
		switch waited := time.Since(start); {
		case len(exact) == 1:
			b.card = exact[0]
		case len(exact) > 1:
			return fmt.Errorf("%s and %s both hold slot %s of build %s; take one of them out",
				exact[0].dev, exact[1].dev, b.line.Slot, b.info.BuildID)
		case len(other) == 1 && waited > otherWait:
			b.card = other[0]
		case waited < slotWait:
			closeAll(other)
			continue
		case len(reasons) == 0 && len(other) == 0:
			return fmt.Errorf("no disk appeared within %v; is the driver of the card reader in the image's kernel?", slotWait)
		default:
			return fmt.Errorf("no disk holds slot %s of build %s: %s", b.line.Slot, b.info.BuildID, strings.Join(reasons, "; "))
		}
		return nil
	}
}

func closeAll(list []*card) {
	for _, c := range list {
		c.f.Close()
	}
}

// preferred maps the firmware's boot mode (FACTS 2.3) to kernel names.
var preferred = map[uint32]string{1: "mmcblk", 4: "sd", 5: "sd", 6: "nvme"}

// search looks at every disk once and returns those that hold the slot of this
// build, and those that hold it of another. Disks of the kind the firmware
// booted from decide among themselves first.
func (b *boot) search() (exact, other []*card, reasons []string) {
	mode, _ := firmware("boot-mode")
	var first []*card
	for _, dev := range disks() {
		c, same, err := b.look(dev)
		switch {
		case err != nil:
			reasons = append(reasons, fmt.Sprintf("%s: %v", dev, err))
		case !same:
			reasons = append(reasons, fmt.Sprintf("%s: its slot %s is another build", dev, b.line.Slot))
			other = append(other, c)
		default:
			exact = append(exact, c)
			if prefix := preferred[mode]; prefix != "" && strings.HasPrefix(filepath.Base(dev), prefix) {
				first = append(first, c)
			}
		}
	}
	if len(first) > 0 {
		exact = first
	}
	return exact, other, reasons
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

// look opens a disk that holds the running slot, and says whether it is of
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
	text, err := c.slot.ReadFile(artifact.ManifestFile, artifact.MaxManifest)
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
	_, err = v.Stat(artifact.ManifestFile)
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
