package builder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// card is the image of a whole card that is being written: both slots hold
// the artifact, so that there is a rescue from the first boot on, and a is the
// default. The file is sparse; it appears under its name only when it is
// whole, with its block map beside it, for bmaptool and others that write what
// matters.
type card struct {
	name  string
	img   *spec.Image
	zstd  bool
	f     *os.File               // NAME.part
	roots map[slots.Letter]int64 // where they were written
}

func newCard(name string, img *spec.Image, in Inputs) (*card, error) {
	f, err := os.Create(name + ".part")
	return &card{name: name, img: img, zstd: in.Zstd, f: f}, err
}

// Close gives up what is not whole.
func (c *card) Close() {
	c.f.Close()
	os.Remove(c.f.Name())
}

func (c *card) table(signature uint32) (disk.Table, error) {
	return disk.Card(int64(c.img.SlotSize), int64(c.img.StateSize), signature)
}

// places returns where on the card the roots of both slots go: that follows from
// sizes alone.
func (c *card) places(m *image.Manifest) ([]*rootPlace, error) {
	table, err := c.table(0)
	if err != nil {
		return nil, err
	}
	if err := c.f.Truncate(table.End()); err != nil {
		return nil, err
	}
	text, signature, err := m.SealedSizes()
	if err != nil {
		return nil, err
	}
	sizes := slots.Sizes{Files: m.Files, Text: text, Signature: signature, SlotSize: m.SlotSize, Epoch: m.Epoch}
	c.roots = map[slots.Letter]int64{}
	var list []*rootPlace
	for _, l := range []slots.Letter{slots.A, slots.B} {
		part := table.Partitions[l.Partition()-1]
		layout, err := sizes.Slot(l, part)
		if err != nil {
			return nil, err
		}
		at := part.Start + layout.Offset(image.RootFile)
		c.roots[l] = at
		// Who wants the image compressed reads it at once.
		list = append(list, &rootPlace{f: c.f, at: at, uncached: !c.zstd})
	}
	return list, nil
}

// finish writes everything but the roots.
func (c *card) finish(ctx context.Context, a *Artifact, in Inputs) error {
	sizes, err := slots.SizesOf(a.Image)
	if err != nil {
		return err
	}
	table, err := c.table(sizes.DiskSignature())
	if err != nil {
		return err
	}
	total := int64(0)
	for _, file := range a.Manifest.Files {
		if file.Name != image.RootFile {
			total += 2 * file.Size // both slots
		}
	}
	m := in.step("writing the disk image", total)
	ranges, err := c.fill(ctx, a, sizes, table, m)
	if err != nil {
		return fmt.Errorf("writing %s: %w", c.name, err)
	}
	m.end()
	// What a card's earlier life may have left: records before the first
	// partition, and a state that belongs to another cluster.
	ranges.add(0, table.Partitions[disk.Control-1].Start)
	ranges.add(table.Partitions[disk.State-1].Start, disk.StateClear)
	if err := c.f.Close(); err != nil {
		return err
	}
	if err := writeBmap(c.f.Name(), c.name+".bmap", ranges); err != nil {
		return fmt.Errorf("writing the block map of %s: %w", c.name, err)
	}
	return os.Rename(c.f.Name(), c.name)
}

// fill writes the partitions and then the table that names them. It returns
// what was written.
func (c *card) fill(ctx context.Context, a *Artifact, sizes slots.Sizes, table disk.Table, m *meter) (extents, error) {
	control := table.Partitions[disk.Control-1]
	files, err := controlFiles(ctx, a)
	if err != nil {
		return nil, err
	}
	layout, contents, err := sizes.Control(files, control)
	if err != nil {
		return nil, err
	}
	p := newPartition(ctx, c.f, control.Start, m)
	if err := layout.Write(p, contents); err != nil {
		return nil, err
	}
	all := p.extents
	root, _ := a.Manifest.File(image.RootFile)
	open := func(name string) (io.ReadCloser, error) { return a.OpenUnchecked(ctx, name) } // this build wrote them
	for _, l := range []slots.Letter{slots.A, slots.B} {
		part := table.Partitions[l.Partition()-1]
		layout, err := sizes.Slot(l, part)
		if err != nil {
			return nil, err
		}
		at := layout.Offset(image.RootFile)
		if wrote := c.roots[l]; wrote != part.Start+at {
			return nil, hint.With(fmt.Errorf("root offset mismatch in slot %s: got %d, want %d", l, wrote, part.Start+at),
				"this is a bug of Pikelet, please report it")
		}
		p := newPartition(ctx, c.f, part.Start, m)
		p.there, p.thereSize = at, root.Size
		p.addKnown(part.Start+at, root.Size, strings.TrimPrefix(root.Digest, "sha256:"))
		if err := layout.Write(p, slots.Contents(a.Image, l, open)); err != nil {
			return nil, err
		}
		all = append(all, p.extents...)
	}
	_, err = c.f.WriteAt(table.Encode(), 0)
	return all, err
}

func controlFiles(ctx context.Context, a *Artifact) (slots.Files, error) {
	files := slots.Files{Default: slots.A}
	if _, ok := a.Manifest.File(slots.BootcodeFile); !ok {
		return files, nil
	}
	r, err := a.OpenUnchecked(ctx, slots.BootcodeFile)
	if err != nil {
		return files, err
	}
	defer r.Close()
	files.Bootcode, err = io.ReadAll(r)
	return files, err
}

// partition writes to a part of a new file of zeros. Whole blocks of zeros are
// left out of the file; they are noted like the rest, because on a card with
// an earlier life they must be written too.
type partition struct {
	cancelled func() error
	f         *os.File
	start     int64
	m         *meter
	extents

	there, thereSize int64 // a file that is written already, if thereSize is not 0
}

// newPartition returns the part of f from start on, whose WriteAt fails once ctx is
// done.
func newPartition(ctx context.Context, f *os.File, start int64, m *meter) *partition {
	return &partition{cancelled: ctx.Err, f: f, start: start, m: m}
}

var zeroBlock [4096]byte

// WriteAt writes what is not zeros.
func (p *partition) WriteAt(b []byte, at int64) (int, error) {
	if err := p.cancelled(); err != nil {
		return 0, err
	}
	at += p.start
	p.add(at, int64(len(b)))
	for done := 0; done < len(b); {
		pos := at + int64(done)
		n := min(len(b)-done, len(zeroBlock)-int(pos%int64(len(zeroBlock))))
		if part := b[done : done+n]; !bytes.Equal(part, zeroBlock[:n]) {
			if _, err := p.f.WriteAt(part, pos); err != nil {
				return done, err
			}
		}
		done += n
	}
	p.m.add(int64(len(b)))
	return len(b), nil
}

// CopyAt takes all of r, unless it is there already.
func (p *partition) CopyAt(r io.Reader, at int64) (int64, error) {
	if p.thereSize > 0 && at == p.there {
		p.add(p.start+at, p.thereSize)
		return p.thereSize, nil
	}
	return io.CopyBuffer(io.NewOffsetWriter(p, at), r, make([]byte, 1<<20))
}
