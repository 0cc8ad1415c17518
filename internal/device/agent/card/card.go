// Package card opens the disk that the node was started from: its partitions, the
// files of its control partition, and its update record.
package card

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/ioctl"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Card is the disk this node was started from, open for reading and writing.
type Card struct {
	Device string // such as /dev/mmcblk0
	File   *os.File
	Table  disk.Table
}

// Close closes the disk.
func (c *Card) Close() error { return c.File.Close() }

// Open opens a disk with a Pikelet layout and reads its partition table.
func Open(dev string) (*Card, error) {
	f, err := os.OpenFile(dev, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	c := &Card{Device: dev, File: f}
	if c.Table, err = disk.ReadTable(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", dev, err)
	}
	return c, nil
}

// Partition returns the device of a partition.
func (c *Card) Partition(n int) string { return disk.PartitionDevice(c.Device, n) }

// ReadControl returns a file of the control partition, up to MaxControl bytes.
func (c *Card) ReadControl(name string) ([]byte, error) {
	_, size, err := slots.ControlFile(c.File, c.Table, name)
	if err != nil {
		return nil, err
	}
	if size > MaxControl {
		return nil, fmt.Errorf("%s has %d bytes", name, size)
	}
	return updater.ReadControl(c.Medium(), c.Table, name)
}

// MaxControl is how large a file of the control partition may be to be read, in
// bytes: more than any has but firmware.
const MaxControl = 1 << 20

// WriteControl overwrites a file of the control partition in place.
func (c *Card) WriteControl(name, text string) error {
	return updater.WriteControl(c.Medium(), c.Table, name, text)
}

// Settle returns when all that was written is on the card, and later reads come
// from there (updater.Settle).
func (c *Card) Settle() error { return updater.Settle(c.Medium()) }

// Scrub takes the secrets in a file of the control partition off the card.
func (c *Card) Scrub(name, text string) error {
	return updater.Scrub(c.Medium(), c.Table, name, text, func(at, size int64) {
		discard(c.File, at, size) // not every card reader passes it on; the zeros are there all the same
	})
}

// discard tells a disk that bytes of it are not needed any more.
func discard(f *os.File, at, size int64) error {
	area := [2]uint64{uint64(at), uint64(size)}
	return ioctl.Call(f, unix.BLKDISCARD, &area)
}

// Medium is a card as the updater writes to it.
type Medium struct{ *os.File }

// Flush implements medium.Medium.
func (c Medium) Flush() error { return c.Sync() }

// Forget implements medium.Medium.
func (c Medium) Forget() error { return unix.IoctlSetInt(int(c.Fd()), unix.BLKFLSBUF, 0) }

// StartWriting implements medium.Starter.
func (c Medium) StartWriting(at, n int64) {
	_ = unix.SyncFileRange(int(c.Fd()), at, n, unix.SYNC_FILE_RANGE_WRITE) // what is not begun now the flush does
}

// StartReading implements medium.Starter.
func (c Medium) StartReading(at, n int64) {
	_ = unix.Fadvise(int(c.Fd()), at, n, unix.FADV_WILLNEED) // what is not begun now the read does
}

// LastUpdate returns the upgrade record of a disk; nil where it has none or cannot
// be read.
func LastUpdate(disk string) *slots.Update {
	if disk == "" {
		return nil
	}
	f, err := os.Open(disk)
	if err != nil {
		return nil
	}
	defer f.Close()
	return slots.ReadCard(f).Update
}

// Medium returns the card as the updater writes to it.
func (c *Card) Medium() Medium { return Medium{c.File} }

var _ interface {
	medium.Medium
	medium.Starter
} = Medium{}
