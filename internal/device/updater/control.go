package updater

import (
	"bytes"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
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
	return Settle(d)
}

// Scrub takes the secrets in a file of the control partition off the card as
// far as a card allows: zeros over them, then the card is told that it need
// not keep the blocks, and then a text that says where they went. The copies
// that a card's own wear levelling keeps are out of reach (docs/security.md).
func Scrub(d medium.Medium, t disk.Table, name, text string, discard func(at, size int64)) error {
	at, size, err := slots.ControlFile(d, t, name)
	if err != nil {
		return err
	}
	if _, err := d.WriteAt(make([]byte, size), at); err != nil {
		return err
	}
	if err := Settle(d); err != nil {
		return err
	}
	discard(at, size)
	return WriteControl(d, t, name, text)
}

// Grow makes the last partition end at a byte of the card, or a few MiB before
// it. Only its length in the MBR changes, four bytes of one sector; whatever
// mix of old and new a power cut leaves there, the next boot writes the right
// one. A mix that is zero would be no partition: lengths that allow one are
// passed over.
func Grow(d medium.Medium, t disk.Table, end int64) (disk.Table, error) {
	p := &t.Partitions[disk.State-1]
	size := end - p.Start
	for range growTries {
		if !mayMixToZero(uint32(p.Size/disk.SectorSize), uint32(size/disk.SectorSize)) || size <= p.Size+disk.MiB {
			break
		}
		size -= disk.MiB
	}
	if p.Size == size {
		return t, nil
	}
	p.Size = size
	if _, err := d.WriteAt(t.Encode(), 0); err != nil {
		return t, err
	}
	return t, Settle(d)
}

// growTries bounds how much of a card is given up, in MiB: a byte of a length
// in sectors changes every 32 MiB.
const growTries = 33

// mayMixToZero reports whether some bytes of one number and the others of another
// can make 0.
func mayMixToZero(a, b uint32) bool {
	for ; a != 0 || b != 0; a, b = a>>8, b>>8 {
		if a&0xff != 0 && b&0xff != 0 {
			return false
		}
	}
	return true
}
