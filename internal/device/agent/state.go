package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// stateLabel is the label of the state partition's filesystem.
const stateLabel = "pikelet-state"

// ext4Options are how filesystems of ours are mounted. Times of reading are
// not written down; what programs do not flush reaches the card after half a
// minute; tables of inodes that were never used are not written in the
// background (the kernel knows which they are).
const ext4Options = "commit=30,noinit_itable"

// mountState finds, checks, grows or makes the state partition and mounts it.
// Where that fails, state is in memory for this boot: a filesystem that was
// made once is never touched by anything but its own check.
func mountState(c *card) (node.StateStatus, error) {
	var st node.StateStatus
	if err := os.MkdirAll(node.StateDir, 0o700); err != nil {
		return st, err
	}
	err := cardState(c, &st)
	if err == nil {
		return st, nil
	}
	return memoryState(err.Error())
}

// memoryState has state in memory on this boot, and says why.
func memoryState(why string) (node.StateStatus, error) {
	st := node.StateStatus{Memory: why}
	if err := os.MkdirAll(node.StateDir, 0o700); err != nil {
		return st, err
	}
	return st, unix.Mount("tmpfs", node.StateDir, "tmpfs", unix.MS_NOATIME, "mode=0700,size=50%")
}

func cardState(c *card, st *node.StateStatus) error {
	if c == nil {
		return errors.New("the card can't be opened")
	}
	grown, err := grow(c)
	if err != nil {
		return fmt.Errorf("growing the state partition: %w", err)
	}
	st.Grown = grown
	st.Device = c.part(disk.State)
	blank, err := isBlank(c)
	if err != nil {
		return err
	}
	record, lost := slots.CardRecord(c.f)
	format, err := mustFormat(blank, record, lost)
	if err != nil {
		return err
	}
	if format {
		if err := makeState(c); err != nil {
			return fmt.Errorf("making a filesystem on %s: %w", st.Device, err)
		}
		st.Made = true
	} else if st.Repaired, err = fsck(st.Device); err != nil {
		return err
	}
	if err := unix.Mount(st.Device, node.StateDir, "ext4", unix.MS_NOATIME, ext4Options); err != nil {
		return fmt.Errorf("mounting %s: %w; it was made once, so it is left as it is. pikeletd reset makes it anew, and what is on it is lost", st.Device, err)
	}
	p, err := c.table.Partition(disk.State)
	if err != nil {
		return err
	}
	if record.State != slots.StateMade && !format {
		// Flashing with --keep-state cleared the record, and kept what it is about.
		if err := noteState(c, slots.StateMade); err != nil {
			tell("the card's record does not say that there is a state partition to be kept: " + err.Error())
		}
	}
	if !st.Made {
		// A card that was copied to a larger one, or whose growing was cut off.
		if err := growExt4(node.StateDir, p.Size); err != nil && err != unix.EINVAL {
			return nil // smaller than it could be, and whole
		}
	}
	return nil
}

// mustFormat reports whether a filesystem is made on the state partition, from
// whether it begins with zeros, and what the card's record says. Flashing clears
// both, the record with every tool; a card that loses an erase block clears one.
// So a record says whether zeros mean a card that was just flashed. The backup
// superblocks of an ext4 cannot: flashing leaves those of an earlier cluster.
func mustFormat(blank bool, record slots.Card, lost error) (bool, error) {
	const advice = "it is left as it is: e2fsck -b 32768 may get back what is on it, and pikeletd reset makes it anew"
	switch {
	case record.State == slots.StateMaking:
		return true, nil
	case !blank:
		return false, nil
	case record.State == slots.StateMade:
		return false, fmt.Errorf("the state partition begins with zeros, though a filesystem was made there "+
			"and the card was not flashed since; %s", advice)
	case lost != nil:
		return false, fmt.Errorf("the state partition begins with zeros, and nothing says whether it was ever used: %w; %s", lost, advice)
	}
	return true, nil
}

// sectorsOfMBR is where an MBR cannot name anything any more.
const sectorsOfMBR = 1<<32 - 1

// grow makes the last partition as long as the card allows, while the kernel
// reads the root from the same card.
func grow(c *card) (bool, error) {
	p, err := c.table.Partition(disk.State)
	if err != nil {
		return false, err
	}
	size, err := c.f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	end := min(size, sectorsOfMBR*disk.SectorSize) / disk.MiB * disk.MiB
	if end <= p.Start {
		return false, fmt.Errorf("the card ends at byte %d, before its last partition begins", size)
	}
	was := p.Size
	if c.table, err = updater.Grow(cardMedium{c.f}, c.table, end); err != nil {
		return false, err
	}
	if p, err = c.table.Partition(disk.State); err != nil || p.Size == was {
		return false, err
	}
	return true, resizePartition(c.f, disk.State, p.Start, p.Size)
}

// isBlank says whether the state partition begins with the zeros that every
// flashing tool writes there.
func isBlank(c *card) (bool, error) {
	p, err := c.table.Partition(disk.State)
	if err != nil {
		return false, err
	}
	return zeros(io.NewSectionReader(c.f, p.Start, min(p.Size, disk.StateClear)))
}

// zeros says whether r holds nothing else.
func zeros(r io.Reader) (bool, error) {
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(r, buf)
		if !bytes.Equal(buf[:n], zero[:n]) {
			return false, nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// makeState makes the filesystem. The record says so before and after, so
// that a power cut in between is known from a filesystem that broke later.
func makeState(c *card) error {
	if err := noteState(c, slots.StateMaking); err != nil {
		return err
	}
	if err := mkfs(c.part(disk.State), stateLabel); err != nil {
		return err
	}
	if err := c.f.Sync(); err != nil {
		return err
	}
	return noteState(c, slots.StateMade)
}

func noteState(c *card, state string) error {
	if err := slots.ChangeCard(c.f, func(r *slots.Card) { r.State = state }); err != nil {
		return err
	}
	return c.f.Sync()
}

// mkfs makes an ext4. The tables of inodes are left to be written when they
// are used, which on a large card are a gigabyte and minutes.
func mkfs(dev, label string, options ...string) error {
	args := append([]string{"-q", "-F", "-L", label, "-m", "1", "-E", "lazy_itable_init=1"}, options...)
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	f.Close()
	if err != nil {
		return err
	}
	if size >= 2<<30 {
		// mkfs would make it up to 1 GiB, and zero it; 64 MiB hold all that a
		// card can write in its half minute.
		args = append(args, "-J", "size=64")
	}
	_, err = run("mkfs.ext4", append(args, dev)...)
	return err
}

// fsck checks an ext4 before it is mounted, and says what it mended. It mends
// only what needs no decision.
func fsck(dev string) (string, error) {
	out, err := run("e2fsck", "-p", dev)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "", nil
	case errors.As(err, &exit) && exit.ExitCode() == 1: // errors corrected
		return strings.TrimSpace(out), nil
	case errors.As(err, &exit) && exit.ExitCode() < 8: // errors left
		return "", fmt.Errorf("the filesystem on %s is damaged, and mending it needs a decision; it is left as it is. e2fsck says: %s. pikeletd reset makes it anew, and what is on it is lost", dev, oneLine(out))
	case errors.As(err, &exit): // it could not even be read
		return "", fmt.Errorf("%s holds no filesystem that can be read; it was made once, so it is left as it is. e2fsck says: %s. pikeletd reset makes it anew, and what is on it is lost", dev, oneLine(out))
	}
	return "", err
}

// oneLine joins the lines of a program's output.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// run runs a program and returns what it said. Its error holds that too.
func run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", name, err, oneLine(string(out)))
	}
	return string(out), nil
}
