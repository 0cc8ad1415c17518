// Package flash writes images to cards, disks and regular files.
//
// The first sector marks a card as unfinished until everything else is written,
// flushed, and read back and compared with the image.
package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Card is the intended content of a card.
type Card struct {
	image.Image
	Table   disk.Table
	Control slots.Files
	// KeepState leaves the state partition as it is. Its place in Table is
	// then the card's own.
	KeepState bool
	// DiskSize is the size of the disk in bytes; 0 where it is not known. An old
	// GPT has a copy at the end of the disk, which Write clears.
	DiskSize int64

	gpt int64 // where such a copy begins, in bytes; 0 for none
}

// NewCard returns the card of an image, with a state partition of stateSize
// bytes. node is the text of node.yaml; nil is none.
func NewCard(ctx context.Context, img image.Image, stateSize int64, node []byte) (*Card, error) {
	table, err := disk.Card(img.Manifest.SlotSize, stateSize, slots.Sizes{Digest: img.Digest}.DiskSignature())
	if err != nil {
		return nil, err
	}
	c := &Card{Image: img, Table: table, Control: slots.Files{Default: slots.A, Node: node}}
	c.Control.Bootcode, err = readBootcode(ctx, img)
	return c, err
}

func readBootcode(ctx context.Context, img image.Image) ([]byte, error) {
	if _, ok := img.Manifest.File(slots.BootcodeFile); !ok {
		return nil, nil
	}
	r, err := img.Open(ctx, slots.BootcodeFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Disk is what is written to.
type Disk = medium.Medium

// Keep has Write keep the state partition that is on the disk, at the size it
// has there. The disk must hold a card whose slots have the same size.
func (c *Card) Keep(d Disk) error {
	sector := make([]byte, disk.SectorSize)
	if _, err := d.ReadAt(sector, 0); err != nil {
		return err
	}
	old, err := disk.DecodeUnfinished(sector)
	if err != nil {
		return fmt.Errorf("no state to keep: %w", err)
	}
	was, err := old.Partition(disk.State)
	if err != nil {
		return fmt.Errorf("no state to keep: %w", err)
	}
	at := &c.Table.Partitions[disk.State-1]
	if was.Start != at.Start || was.Type != at.Type {
		return fmt.Errorf("the state cannot be kept: the card's begins at %d MiB, and the slots of this image end at %d MiB",
			was.Start>>20, at.Start>>20)
	}
	at.Size = max(at.Size, was.Size)
	c.KeepState = true
	return nil
}

// Size returns the size that a disk must have, in bytes.
func (c *Card) Size() int64 { return c.Table.End() }

// Content returns approximately how many bytes Write writes.
func (c *Card) Content() int64 {
	total := c.Table.Partitions[0].Start + slots.NodeSize + slots.ReportSize + disk.StateClear
	for _, f := range c.Manifest.Files {
		total += 2 * f.Size
	}
	return total
}

// Phase is a part of flashing.
type Phase string

// The phases, as they are shown to people.
const (
	Writing   Phase = "writing"
	Flushing  Phase = "flushing"
	Comparing Phase = "reading back"
)

// Progress is called with the phase, and with how many bytes were done since the
// last call.
type Progress func(Phase, int64)

// Write writes the card and reads it back. The first sector, with the partition
// table, is written last: until then the card does not boot, and is marked as
// unfinished. Write returns medium.ErrDiffers where the card holds other bytes than
// were written.
func (c *Card) Write(ctx context.Context, d Disk, progress Progress) error {
	old := make([]byte, disk.SectorSize)
	if _, err := d.ReadAt(old, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the first sector: %w", err)
	}
	if _, err := d.WriteAt(disk.EncodeUnfinished(old), 0); err != nil {
		return fmt.Errorf("writing the first sector: %w", err)
	}
	if err := d.Flush(); err != nil {
		return fmt.Errorf("flushing the first sector: %w", err)
	}
	cleared := *c
	c = &cleared
	var err error
	if c.gpt, err = c.backupGPT(d); err != nil {
		return err
	}
	// What is written is not checked as it comes: reading back compares the card
	// with files that are.
	unchecked := func(name string) (io.ReadCloser, error) { return c.OpenUnchecked(ctx, name) }
	checked := func(name string) (io.ReadCloser, error) { return c.Open(ctx, name) }
	if err := c.each(&medium.Writer{Check: ctx.Err, To: d, Progress: func(n int64) { progress(Writing, n) }}, unchecked); err != nil {
		return err
	}
	progress(Flushing, 0)
	if err := d.Flush(); err != nil {
		return fmt.Errorf("flushing: %w", err)
	}
	if err := d.Forget(); err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if err := c.each(&medium.Comparer{Check: ctx.Err, With: d, Progress: func(n int64) { progress(Comparing, n) }}, checked); err != nil {
		return err
	}
	mbr := c.Table.Encode()
	if _, err := d.WriteAt(mbr, 0); err != nil {
		return fmt.Errorf("writing the partition table: %w", err)
	}
	if err := d.Flush(); err != nil {
		return fmt.Errorf("flushing the partition table: %w", err)
	}
	if err := d.Forget(); err != nil {
		return fmt.Errorf("reading back: %w", err)
	}
	if _, err := d.ReadAt(old, 0); err != nil || !bytes.Equal(old, mbr) {
		return fmt.Errorf("reading back the partition table: %w (%w)", medium.ErrDiffers, err)
	}
	return nil
}

// gptSectors is how many sectors the copy of a GPT takes: its header, which is
// the disk's last sector, after its table of 128 entries (UEFI 5.3).
const gptSectors = 33

// backupGPT returns where the copy of a GPT begins that lies at the end of a
// disk; 0 for none. Tools would restore the old partitions from it. One that lies
// within a state that is kept is the state's own bytes.
func (c *Card) backupGPT(d Disk) (int64, error) {
	at := c.DiskSize - gptSectors*disk.SectorSize
	last := c.Table.Partitions[disk.State-1].Start + disk.StateClear
	if c.KeepState {
		last = c.Table.End()
	}
	if at < last {
		return 0, nil
	}
	head := make([]byte, disk.SectorSize)
	if _, err := d.ReadAt(head, c.DiskSize-disk.SectorSize); err != nil {
		return 0, fmt.Errorf("reading the last sector: %w", err)
	}
	if !bytes.HasPrefix(head, []byte("EFI PART")) {
		return 0, nil
	}
	return at, nil
}

// each hands everything but the first sector to w, which writes or compares it.
// open opens the files of the image.
func (c *Card) each(w placer, open fat.Contents) error {
	control := c.Table.Partitions[disk.Control-1]
	// What a card's earlier life may have left: records before the first
	// partition, and a state that belongs to another cluster.
	if err := zeros(w, disk.SectorSize, control.Start); err != nil {
		return fmt.Errorf("clearing what lies before the partitions: %w", err)
	}
	if !c.KeepState {
		state := c.Table.Partitions[disk.State-1]
		if err := zeros(w, state.Start, state.Start+disk.StateClear); err != nil {
			return fmt.Errorf("clearing the state partition: %w", err)
		}
	}
	if c.gpt > 0 {
		if err := zeros(w, c.gpt, c.DiskSize); err != nil {
			return fmt.Errorf("clearing the old GPT at the end: %w", err)
		}
	}
	if err := c.writeControl(w); err != nil {
		return err
	}
	sizes, err := slots.SizesOf(c.Image)
	if err != nil {
		return err
	}
	for _, l := range []slots.Letter{slots.A, slots.B} {
		p := c.Table.Partitions[l.Partition()-1]
		layout, err := sizes.Slot(l, p)
		if err != nil {
			return err
		}
		if err := layout.Write(medium.Part{W: w, Start: p.Start}, slots.Contents(c.Image, l, open)); err != nil {
			return fmt.Errorf("slot %s: %w", l, err)
		}
	}
	return nil
}

// writeControl writes the control partition.
func (c *Card) writeControl(w placer) error {
	control := c.Table.Partitions[disk.Control-1]
	sizes, err := slots.SizesOf(c.Image)
	if err != nil {
		return err
	}
	layout, contents, err := sizes.Control(c.Control, control)
	if err != nil {
		return err
	}
	if err := layout.Write(medium.Part{W: w, Start: control.Start}, contents); err != nil {
		return fmt.Errorf("writing the control partition: %w", err)
	}
	return nil
}

// Repair rewrites the control partition, and nothing else.
func (c *Card) Repair(ctx context.Context, d Disk, progress Progress) error {
	for _, w := range []placer{
		&medium.Writer{Check: ctx.Err, To: d, Progress: func(n int64) { progress(Writing, n) }},
		&medium.Comparer{Check: ctx.Err, With: d, Progress: func(n int64) { progress(Comparing, n) }},
	} {
		if err := c.writeControl(w); err != nil {
			return err
		}
		if err := d.Flush(); err != nil {
			return fmt.Errorf("flushing: %w", err)
		}
		if err := d.Forget(); err != nil {
			return fmt.Errorf("reading back: %w", err)
		}
	}
	return nil
}

// placer takes bytes for places on a card.
type placer = fat.CopierAt

func zeros(w io.WriterAt, from, to int64) error {
	b := make([]byte, 1<<20)
	for from < to {
		n := min(int64(len(b)), to-from)
		if _, err := w.WriteAt(b[:n], from); err != nil {
			return err
		}
		from += n
	}
	return nil
}
