package prepare

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/advice"
	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/ext4"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// stateLabel is the label of the state partition's filesystem.
const stateLabel = "pikelet-state"

// mountState finds, checks, grows or makes the state partition and mounts it.
// Where that fails, state is in memory for this boot: a filesystem that was
// made once is never touched by anything but its own check.
func mountState(c *card.Card, log *slog.Logger) (node.StateStatus, error) {
	var st node.StateStatus
	if err := os.MkdirAll(node.StateDir, 0o700); err != nil {
		return st, err
	}
	err := cardState(c, &st, log)
	if err == nil {
		return st, nil
	}
	return memoryState(advice.Text(err))
}

// memoryState has state in memory on this boot, and says why.
func memoryState(why string) (node.StateStatus, error) {
	st := node.StateStatus{Memory: why}
	if err := os.MkdirAll(node.StateDir, 0o700); err != nil {
		return st, err
	}
	return st, unix.Mount("tmpfs", node.StateDir, "tmpfs", unix.MS_NOATIME, "mode=0700,size=50%")
}

func cardState(c *card.Card, st *node.StateStatus, log *slog.Logger) error {
	if c == nil {
		return errors.New("the card cannot be opened")
	}
	grown, err := grow(c)
	if err != nil {
		return fmt.Errorf("growing the state partition: %w", err)
	}
	st.Grown = grown
	st.Device = c.Partition(disk.State)
	blank, err := isBlank(c)
	if err != nil {
		return err
	}
	if err := c.Settle(); err != nil { // a card that takes nothing any more is still read
		log.Warn("writing what an earlier process left unwritten to the card", "err", err)
	}
	record, lost := slots.CardRecord(c.File)
	format, err := mustFormat(blank, record, lost)
	if err != nil {
		return err
	}
	if format {
		if err := makeState(c); err != nil {
			return fmt.Errorf("making a filesystem on %s: %w", st.Device, err)
		}
		st.Made = true
	} else if st.Repaired, err = ext4.Check(st.Device); err != nil {
		return err
	}
	if err := unix.Mount(st.Device, node.StateDir, "ext4", unix.MS_NOATIME, ext4.MountOptions); err != nil {
		return hint.With(fmt.Errorf("mounting %s: %w; it was made once, so it is left as it is", st.Device, err), ext4.ResetHint)
	}
	p, err := c.Table.Partition(disk.State)
	if err != nil {
		return err
	}
	if record.State != slots.StateMade && !format {
		// Flashing with --keep-state cleared the record, and kept what it is about.
		if err := NoteState(c, slots.StateMade); err != nil {
			log.Warn("recording on the card that the state partition is to be kept", "err", err)
		}
	}
	if !st.Made {
		// A card that was copied to a larger one, or whose growing was cut off.
		if err := ext4.Grow(node.StateDir, p.Size); err != nil && !errors.Is(err, unix.EINVAL) {
			return nil // smaller than it could be, and whole
		}
	}
	return nil
}

// mustFormat reports whether a filesystem is made on the state partition, from
// whether it begins with zeros, and what the card's record says. Flashing clears
// both, the record with every tool; a card that loses an erase block clears one.
// So a record reports whether zeros mean a card that was just flashed. The backup
// superblocks of an ext4 cannot: flashing leaves those of an earlier cluster.
func mustFormat(blank bool, record slots.Card, lost error) (bool, error) {
	const rescue = "e2fsck -b 32768 may recover what is on it, and pikeletd reset makes it anew"
	switch {
	case record.State == slots.StateMaking:
		return true, nil
	case !blank:
		return false, nil
	case record.State == slots.StateMade:
		return false, hint.With(errors.New("the state partition begins with zeros, though a filesystem was made there "+
			"and the card was not flashed since; it is left as it is"), rescue)
	case lost != nil:
		return false, hint.With(fmt.Errorf("the state partition begins with zeros, and no record of its use can be read: %w; "+
			"it is left as it is", lost), rescue)
	}
	return true, nil
}

// sectorsOfMBR is where an MBR cannot name anything any more.
const sectorsOfMBR = 1<<32 - 1

// grow makes the last partition as long as the card allows, while the kernel
// reads the root from the same card.
func grow(c *card.Card) (bool, error) {
	p, err := c.Table.Partition(disk.State)
	if err != nil {
		return false, err
	}
	size, err := c.File.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	end := min(size, sectorsOfMBR*disk.SectorSize) / disk.MiB * disk.MiB
	if end <= p.Start {
		return false, fmt.Errorf("the card ends at byte %d, before its last partition begins", size)
	}
	was := p.Size
	if c.Table, err = updater.Grow(c.Medium(), c.Table, end); err != nil {
		return false, err
	}
	if p, err = c.Table.Partition(disk.State); err != nil || p.Size == was {
		return false, err
	}
	return true, card.ResizePartition(c.File, disk.State, p.Start, p.Size)
}

// isBlank reports whether the state partition begins with the zeros that every
// flashing tool writes there.
func isBlank(c *card.Card) (bool, error) {
	p, err := c.Table.Partition(disk.State)
	if err != nil {
		return false, err
	}
	return disk.IsZero(io.NewSectionReader(c.File, p.Start, min(p.Size, disk.StateClear)))
}

// makeState makes the filesystem. The record says so before and after, so
// that a power cut in between is known from a filesystem that broke later.
func makeState(c *card.Card) error {
	if err := NoteState(c, slots.StateMaking); err != nil {
		return err
	}
	if err := ext4.Make(c.Partition(disk.State), stateLabel); err != nil {
		return err
	}
	if err := c.File.Sync(); err != nil {
		return err
	}
	return NoteState(c, slots.StateMade)
}

// NoteState writes into the card's record how far the state partition is:
// slots.StateMaking or slots.StateMade.
func NoteState(c *card.Card, state string) error {
	if err := c.Settle(); err != nil {
		return err
	}
	if err := slots.ChangeCard(c.File, func(r *slots.Card) { r.State = state }); err != nil {
		return err
	}
	return c.Settle()
}
