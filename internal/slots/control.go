package slots

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
)

// ControlFile returns where a file of the control partition lies, as offset
// and size on the card in bytes. Files there are in one piece by
// construction, and overwritten in place: nobody but the flasher touches that
// FAT or its directory.
func ControlFile(card io.ReaderAt, t disk.Table, name string) (offset, size int64, err error) {
	p, err := t.Partition(disk.Control)
	if err != nil {
		return 0, 0, err
	}
	v, err := fat.Open(io.NewSectionReader(card, p.Start, p.Size))
	if err != nil {
		return 0, 0, err
	}
	size, runs, err := v.Extents(name)
	if err != nil {
		return 0, 0, err
	}
	if len(runs) != 1 {
		return 0, 0, fmt.Errorf("%q lies in %d pieces", name, len(runs))
	}
	return p.Start + runs[0].Offset, size, nil
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

// ReadCard returns what the card's record says; nothing, where there is none.
func ReadCard(card io.ReaderAt) Card {
	newest, _ := newestRecord(card)
	var c Card
	if err := json.Unmarshal([]byte(newest.Text), &c); err != nil {
		return Card{}
	}
	return c
}

// ChangeCard changes what the card's record says, and leaves the rest of it.
// The caller flushes.
func ChangeCard(card interface {
	io.ReaderAt
	io.WriterAt
}, change func(*Card)) error {
	c := ReadCard(card)
	change(&c)
	return WriteCard(card, c)
}

// newestRecord returns the valid record with the highest sequence, and the
// place to write the next one to.
func newestRecord(card io.ReaderAt) (newest Record, next int64) {
	next = cardRecords[0]
	for i, at := range cardRecords {
		b := make([]byte, disk.RecordSize)
		if _, err := card.ReadAt(b, at); err != nil {
			continue
		}
		if r, err := DecodeRecord(b); err == nil && r.Sequence >= newest.Sequence {
			newest, next = r, cardRecords[1-i]
		}
	}
	return newest, next
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

// WriteCard writes the card's record, over the older of the two. The caller
// flushes.
func WriteCard(card interface {
	io.ReaderAt
	io.WriterAt
}, c Card) error {
	text, err := c.encode()
	if err != nil {
		return err
	}
	newest, next := newestRecord(card)
	_, err = card.WriteAt(Record{Sequence: newest.Sequence + 1, Text: string(text)}.Encode(), next)
	return err
}
