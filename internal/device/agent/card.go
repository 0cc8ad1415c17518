package agent

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
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
	_, size, err := slots.ControlFile(c.f, c.table, name)
	if err != nil {
		return nil, err
	}
	if size > maxControl {
		return nil, fmt.Errorf("%s has %d bytes", name, size)
	}
	return updater.ReadControl(cardMedium{c.f}, c.table, name)
}

// maxControl is more than any file of the control partition but firmware has.
const maxControl = 1 << 20

// writeControl overwrites a file of the control partition in place.
func (c *card) writeControl(name, text string) error {
	return updater.WriteControl(cardMedium{c.f}, c.table, name, text)
}

// scrub takes the secrets in a file of the control partition off the card.
func (c *card) scrub(name, text string) error {
	return updater.Scrub(cardMedium{c.f}, c.table, name, text, func(at, size int64) {
		discard(c.f, at, size) // not every card reader passes it on; the zeros are there all the same
	})
}

// discard tells a disk that bytes of it are not needed any more.
func discard(f *os.File, at, size int64) error {
	area := [2]uint64{uint64(at), uint64(size)}
	return ioctl(f, unix.BLKDISCARD, &area)
}
