package builder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// WriteDisk writes the image of a whole card: both slots hold the artifact,
// so that there is a rescue from the first boot on, and a is the default.
// The file is sparse; it appears under its name only when it is whole, with
// its block map beside it, for bmaptool and others that write what matters.
func WriteDisk(ctx context.Context, a *Artifact, stateSize int64, name string, in Inputs) error {
	table, err := disk.Card(a.Manifest.SlotSize, stateSize, a.image().DiskSignature())
	if err != nil {
		return err
	}
	tmp := name + ".part"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := f.Truncate(table.End()); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	total := int64(0)
	for _, file := range a.Manifest.Files {
		total += 2 * file.Size // both slots
	}
	m := in.step(ctx, "writing the disk image", total)
	ranges, err := fill(a, tmp, table, m)
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	m.end()
	// What a card's earlier life may have left: records before the first
	// partition, and a state that belongs to another cluster.
	ranges.add(0, table.Partitions[disk.Control-1].Start)
	ranges.add(table.Partitions[disk.State-1].Start, disk.StateClear)
	if err := writeBmap(tmp, name+".bmap", ranges); err != nil {
		return fmt.Errorf("writing the block map of %s: %w", name, err)
	}
	return os.Rename(tmp, name)
}

// fill writes the partitions side by side and then the table that names them.
// It returns what was written.
func fill(a *Artifact, name string, table disk.Table, m *meter) (extents, error) {
	control := table.Partitions[disk.Control-1]
	layout, err := controlLayout(a, control)
	if err != nil {
		return nil, err
	}
	layouts, at := []*fat.Layout{layout}, []int64{control.Start}
	for _, l := range []slots.Letter{slots.A, slots.B} {
		part := table.Partitions[l.Partition()-1]
		layout, err := a.image().Slot(l, part)
		if err != nil {
			return nil, err
		}
		layouts, at = append(layouts, layout), append(at, part.Start)
	}
	root, _ := a.Manifest.File(artifact.RootFile)
	parts := make([]*partition, len(layouts))
	var group errgroup.Group
	for i, layout := range layouts {
		group.Go(func() error {
			p, err := openPartition(name, at[i], m)
			if err != nil {
				return err
			}
			defer p.f.Close()
			parts[i] = p
			p.known(layout.Offset(artifact.RootFile), root)
			return layout.Write(p)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var all extents
	for _, p := range parts {
		all = append(all, p.extents...)
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.WriteAt(table.Encode(), 0); err != nil {
		return nil, err
	}
	return all, f.Close()
}

func controlLayout(a *Artifact, control disk.Partition) (*fat.Layout, error) {
	var bootcode []byte
	if _, ok := a.Manifest.File(slots.BootcodeFile); ok {
		r, err := a.Open(slots.BootcodeFile)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		if bootcode, err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	return a.image().Control(bootcode, control)
}

// partition writes to a part of a new file of zeros. Whole blocks of zeros are
// left out of the file; they are noted like the rest, because on a card with
// an earlier life they must be written too.
type partition struct {
	f     *os.File
	start int64
	m     *meter
	extents
}

func openPartition(name string, start int64, m *meter) (*partition, error) {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	return &partition{f: f, start: start, m: m}, err
}

// known says that a file whose digest is known will be written at a place.
func (p *partition) known(at int64, file artifact.File) {
	if at >= 0 {
		p.addKnown(p.start+at, file.Size, strings.TrimPrefix(file.Digest, "sha256:"))
	}
}

var zeroBlock [4096]byte

// WriteAt writes what is not zeros.
func (p *partition) WriteAt(b []byte, at int64) (int, error) {
	if err := p.m.ctx.Err(); err != nil {
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

// copyStep is how much is copied before somebody looks whether the build is
// given up.
const copyStep = 16 << 20

// CopyAt takes all of r. From one file to another the kernel copies by itself,
// and some file systems only share the blocks.
func (p *partition) CopyAt(r io.Reader, at int64) (all int64, err error) {
	if _, err := p.f.Seek(p.start+at, io.SeekStart); err != nil {
		return 0, err
	}
	step := &io.LimitedReader{R: r}
	limited, ok := r.(*io.LimitedReader) // the kernel's way is taken through one, not through two
	if ok {
		step.R = limited.R
	}
	for err == nil {
		if err = p.m.ctx.Err(); err != nil {
			break
		}
		if step.N = copyStep; ok {
			step.N = min(copyStep, limited.N)
		}
		var n int64
		n, err = p.f.ReadFrom(step)
		all += n
		p.m.add(n)
		if ok {
			limited.N -= n
		}
		if n == 0 {
			break
		}
	}
	p.add(p.start+at, all)
	return all, err
}
