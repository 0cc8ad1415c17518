package agent

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// card is the disk this node was started from, open for reading and writing.
type card struct {
	dev   string
	f     *os.File
	table disk.Table
}

func openCard(dev string) (*card, error) {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c := &card{dev: dev, f: f}
	if c.table, err = disk.ReadTable(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", dev, err)
	}
	return c, nil
}

// part returns the device of a partition.
func (c *card) part(n int) string { return disk.PartitionDevice(c.dev, n) }

// readControl returns a file of the control partition.
func (c *card) readControl(name string) ([]byte, error) {
	at, size, err := slots.ControlFile(c.f, c.table, name)
	if err != nil {
		return nil, err
	}
	if size > maxControl {
		return nil, fmt.Errorf("%s has %d bytes", name, size)
	}
	b := make([]byte, size)
	_, err = c.f.ReadAt(b, at)
	return b, err
}

// maxControl is more than any file of the control partition but firmware has.
const maxControl = 1 << 20

// writeControl overwrites a file of the control partition in place, with a
// text padded to the file's length, where it does not hold that already.
func (c *card) writeControl(name, text string) error {
	at, size, err := slots.ControlFile(c.f, c.table, name)
	if err != nil {
		return err
	}
	if int64(len(text)) > size {
		text = text[:size]
	}
	padded := text + strings.Repeat("\n", int(size)-len(text))
	if old, err := c.readControl(name); err == nil && string(old) == padded {
		return nil
	}
	if _, err := c.f.WriteAt([]byte(padded), at); err != nil {
		return err
	}
	return c.f.Sync()
}

// scrub takes the secrets in a file of the control partition off the card as
// far as a card allows: zeros over them, then the card is told that it need
// not keep the blocks, and then a text that says where they went. What a
// card's own wear levelling keeps elsewhere nobody reaches (docs/security.md).
func (c *card) scrub(name, text string) error {
	at, size, err := slots.ControlFile(c.f, c.table, name)
	if err != nil {
		return err
	}
	if _, err := c.f.WriteAt(make([]byte, size), at); err != nil {
		return err
	}
	if err := c.f.Sync(); err != nil {
		return err
	}
	// Not every card reader passes it on; the zeros are there all the same.
	discard(c.f, at, size)
	return c.writeControl(name, text)
}

// discard tells a disk that bytes of it are not needed any more.
func discard(f *os.File, at, size int64) error {
	area := [2]uint64{uint64(at), uint64(size)}
	return ioctl(f, unix.BLKDISCARD, &area)
}
