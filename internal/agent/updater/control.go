package updater

import (
	"bytes"
	"strings"

	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/medium"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// ReadControl returns a file of the control partition.
func ReadControl(d medium.Medium, t disk.Table, name string) ([]byte, error) {
	at, size, err := slots.ControlFile(d, t, name)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	_, err = d.ReadAt(b, at)
	return b, err
}

// WriteControl overwrites a file of the control partition in place, with a
// text padded to the file's length, where it does not hold that already. A
// text too long is cut.
func WriteControl(d medium.Medium, t disk.Table, name, text string) error {
	at, size, err := slots.ControlFile(d, t, name)
	if err != nil {
		return err
	}
	text = text[:min(int64(len(text)), size)]
	padded := []byte(text + strings.Repeat("\n", int(size)-len(text)))
	if old, err := ReadControl(d, t, name); err == nil && bytes.Equal(old, padded) {
		return nil
	}
	if _, err := d.WriteAt(padded, at); err != nil {
		return err
	}
	return d.Flush()
}

// Scrub takes the secrets in a file of the control partition off the card as
// far as a card allows: zeros over them, then the card is told that it need
// not keep the blocks, and then a text that says where they went. What a
// card's own wear levelling keeps elsewhere nobody reaches (docs/security.md).
func Scrub(d medium.Medium, t disk.Table, name, text string, discard func(at, size int64)) error {
	at, size, err := slots.ControlFile(d, t, name)
	if err != nil {
		return err
	}
	if _, err := d.WriteAt(make([]byte, size), at); err != nil {
		return err
	}
	if err := d.Flush(); err != nil {
		return err
	}
	discard(at, size)
	return WriteControl(d, t, name, text)
}

// Grow makes the last partition end at a byte of the card. Only its length in
// the MBR changes, four bytes of one sector; whatever mix of old and new a
// power cut leaves there, the next boot writes the right one.
func Grow(d medium.Medium, t disk.Table, end int64) (disk.Table, error) {
	t.Partitions[disk.State-1].Size = end - t.Partitions[disk.State-1].Start
	if _, err := d.WriteAt(t.Encode(), 0); err != nil {
		return t, err
	}
	return t, d.Flush()
}
