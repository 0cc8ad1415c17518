package slots

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
)

// maxControlFile bounds a file of the control partition, in bytes; the largest
// is bootcode.bin with 52 KiB.
const maxControlFile = 4 << 20

// ControlFile returns where a file of the control partition lies, as offset
// and size on the card in bytes. Files there are in one piece by
// construction, and overwritten in place: only flashing touches that FAT or its
// directory.
func ControlFile(card io.ReaderAt, t disk.Table, name string) (offset, size int64, err error) {
	p, err := t.Partition(disk.Control)
	if err != nil {
		return 0, 0, err
	}
	v, err := fat.Open(io.NewSectionReader(card, p.Start, p.Size))
	if err != nil {
		return 0, 0, err
	}
	size, runs, err := v.Extents(name, maxControlFile)
	if err != nil {
		return 0, 0, err
	}
	if len(runs) != 1 {
		return 0, 0, fmt.Errorf("%q lies in %d pieces", name, len(runs))
	}
	return p.Start + runs[0].Offset, size, nil
}

// Default returns the slot that a card's autoboot.txt names; "" where that
// can't be read.
func Default(card io.ReaderAt, t disk.Table) Letter {
	at, size, err := ControlFile(card, t, AutobootFile)
	if err != nil || size > AutobootSize {
		return ""
	}
	b := make([]byte, size)
	if _, err := card.ReadAt(b, at); err != nil {
		return ""
	}
	def, err := DecodeAutoboot(b)
	if err != nil {
		return ""
	}
	return def
}

// What a card's own record says of the state partition.
const (
	StateMaking = "making" // a filesystem is being made; what is there counts for nothing
	StateMade   = "made"   // there is one, and it is never made anew
)

// Card is what a node writes down about its card, beside the partitions: in
// the gap before the first, so that losing state or volume loses none of it.
type Card struct {
	State  string  `json:"state,omitempty"`
	Update *Update `json:"update,omitempty"`
}

// cardRecords are the two places, written in turns: a power cut spoils one at
// most, and the other still holds what was.
var cardRecords = [2]int64{disk.UpdateRecord0, disk.UpdateRecord1}

// ErrRecordLost means that a card had a record, or may have had one, and that
// neither of its places holds one that can be read.
var ErrRecordLost = errors.New("the card's record is lost")

// ReadCard returns what the card's record says; nothing, where there is none
// or it can't be read.
func ReadCard(card io.ReaderAt) Card {
	c, _ := CardRecord(card)
	return c
}

// CardRecord returns what the card's record says. A card that was never written
// to since it was flashed has an empty one, without an error; one whose record
// is gone has an empty one with ErrRecordLost.
func CardRecord(card io.ReaderAt) (Card, error) {
	r := readCard(card)
	return r.Card, r.lost()
}

// ChangeCard changes what the card's record says, and leaves the rest of it.
// Where no record can be read, and one may lie in a place that gives an error,
// nothing is written: what it says would be lost. The caller flushes after it, and
// before it has the kernel forget what it holds of the card: a place is written
// anew only when the other one is on the card.
func ChangeCard(card interface {
	io.ReaderAt
	io.WriterAt
}, change func(*Card)) error {
	r := readCard(card)
	if !r.found && r.unreadable != nil {
		return fmt.Errorf("writing the card's record: %w", r.lost())
	}
	change(&r.Card)
	text, err := r.Card.encode()
	if err != nil {
		return err
	}
	_, err = card.WriteAt(Record{Sequence: r.newest + 1, Text: string(text)}.Encode(), r.next)
	return err
}

// cardRecord is what the two places of a card's record hold.
type cardRecord struct {
	Card
	found      bool   // one of them holds a valid record
	newest     uint32 // its sequence
	next       int64  // the place to write the next one to
	unreadable error  // of a place that can't be read
	blank      bool   // a place holds zeros, as flashing leaves it
}

// readCard returns the valid record with the highest sequence. A place that
// can't be read counts as one that holds no valid record: the other one is kept
// for this very case.
func readCard(card io.ReaderAt) cardRecord {
	found := cardRecord{next: cardRecords[0]}
	for i, at := range cardRecords {
		b := make([]byte, disk.RecordSize)
		if _, err := card.ReadAt(b, at); err != nil {
			found.unreadable = err
			continue
		}
		found.blank = found.blank || len(bytes.Trim(b, "\x00")) == 0
		r, err := DecodeRecord(b)
		if err != nil || r.Sequence < found.newest {
			continue
		}
		var said Card
		if json.Unmarshal([]byte(r.Text), &said) == nil {
			found.Card, found.found, found.newest, found.next = said, true, r.Sequence, cardRecords[1-i]
		}
	}
	return found
}

// lost returns ErrRecordLost unless there is a record, or never was one. After
// the first boot neither place is blank; a first write that was cut off leaves
// the other one blank.
func (r cardRecord) lost() error {
	switch {
	case r.found:
		return nil
	case r.unreadable != nil:
		return fmt.Errorf("%w: %w", ErrRecordLost, r.unreadable)
	case !r.blank:
		return fmt.Errorf("%w: both of its places are damaged", ErrRecordLost)
	}
	return nil
}

// encode returns the record's text. A reason that does not fit beside all the
// rest is cut: half a text would be no record.
func (c Card) encode() ([]byte, error) {
	if c.Update != nil {
		u := *c.Update // the caller keeps the whole reason
		c.Update = &u
	}
	for {
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		if err := e.Encode(c); err != nil {
			return nil, err
		}
		switch {
		case text.Len() <= MaxRecordText:
			return bytes.TrimSpace(text.Bytes()), nil
		case c.Update == nil || c.Update.Reason == "":
			return nil, fmt.Errorf("writing the card's record: it takes %d bytes, and there is room for %d", text.Len(), MaxRecordText)
		}
		c.Update.Reason = strings.ToValidUTF8(c.Update.Reason[:len(c.Update.Reason)*3/4], "?")
	}
}
