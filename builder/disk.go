package builder

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/disk"
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
	defer f.Close()
	if err := f.Truncate(table.End()); err != nil {
		return err
	}
	total := int64(0)
	for _, file := range a.Manifest.Files {
		total += 2 * file.Size // both slots
	}
	m := in.step(ctx, "writing the disk image", total)
	w := &mapped{w: meteredWriterAt{sparse{f}, m}}
	if err := fill(a, w, table); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	m.end()
	// What a card's earlier life may have left: records before the first
	// partition, and a state that belongs to another cluster.
	w.add(0, table.Partitions[disk.Control-1].Start)
	w.add(table.Partitions[disk.State-1].Start, disk.StateClear)
	if err := f.Close(); err != nil {
		return err
	}
	if err := writeBmap(tmp, name+".bmap", w.extents); err != nil {
		return fmt.Errorf("writing the block map of %s: %w", name, err)
	}
	return os.Rename(tmp, name)
}

func fill(a *Artifact, w io.WriterAt, table disk.Table) error {
	var bootcode []byte
	if _, ok := a.Manifest.File(slots.BootcodeFile); ok {
		r, err := a.Open(slots.BootcodeFile)
		if err != nil {
			return err
		}
		defer r.Close()
		if bootcode, err = io.ReadAll(r); err != nil {
			return err
		}
	}
	control := table.Partitions[disk.Control-1]
	layout, err := a.image().Control(bootcode, control)
	if err != nil {
		return err
	}
	if err := layout.Write(io.NewOffsetWriter(w, control.Start)); err != nil {
		return err
	}
	for _, l := range []slots.Letter{slots.A, slots.B} {
		part := table.Partitions[l.Partition()-1]
		layout, err := a.image().Slot(l, part)
		if err != nil {
			return err
		}
		if err := layout.Write(io.NewOffsetWriter(w, part.Start)); err != nil {
			return err
		}
	}
	_, err = w.WriteAt(table.Encode(), 0)
	return err
}

// sparse writes to a new file of zeros and leaves out whole blocks of zeros.
type sparse struct{ w io.WriterAt }

var zeroBlock [4096]byte

func (s sparse) WriteAt(p []byte, at int64) (int, error) {
	for done := 0; done < len(p); {
		pos := at + int64(done)
		n := min(len(p)-done, len(zeroBlock)-int(pos%int64(len(zeroBlock))))
		if part := p[done : done+n]; !bytes.Equal(part, zeroBlock[:n]) {
			if _, err := s.w.WriteAt(part, pos); err != nil {
				return done, err
			}
		}
		done += n
	}
	return len(p), nil
}

// compressDisk writes a disk image compressed with zstd, in one frame.
func compressDisk(ctx context.Context, image, name string, in Inputs) error {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	m := in.step(ctx, "compressing the disk image", st.Size())
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer out.Close()
	// One goroutine: the bytes must not depend on how many there are.
	enc, err := zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	if _, err := io.Copy(enc, meteredReader{f, m}); err != nil {
		return fmt.Errorf("compressing %s: %w", image, err)
	}
	if err := enc.Close(); err != nil {
		return err
	}
	m.end()
	return out.Close()
}
