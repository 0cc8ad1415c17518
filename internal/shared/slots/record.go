package slots

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
)

// Record is one of the texts kept in the gap before the first partition: one
// that only /init writes, why a boot failed (disk.InitRecord), and two that the
// updater writes in turns (disk.UpdateRecord0, disk.UpdateRecord1).
type Record struct {
	Sequence uint32 // the higher valid one wins
	Text     string // at most MaxRecordText bytes
}

// MaxRecordText is what fits with room to spare in 4 KiB.
const MaxRecordText = 3 << 10

// A record is magic, CRC-32 (IEEE) of all that follows up to the text's end,
// sequence, length of the text, text; the rest is zero.
const (
	recordMagic  = "PKLTREC1"
	recordHeader = 8 + 4 + 4 + 4
)

// Encode returns the record's 4096 bytes. A text too long is cut.
func (r Record) Encode() []byte {
	b := make([]byte, disk.RecordSize)
	text := r.Text
	if len(text) > MaxRecordText {
		text = text[:MaxRecordText]
	}
	copy(b, recordMagic)
	le := binary.LittleEndian
	le.PutUint32(b[12:], r.Sequence)
	le.PutUint32(b[16:], uint32(len(text)))
	copy(b[recordHeader:], text)
	le.PutUint32(b[8:], crc32.ChecksumIEEE(b[12:recordHeader+len(text)]))
	return b
}

// DecodeRecord reads a record. Everything else is an error, the zeros of an
// empty card too.
func DecodeRecord(b []byte) (Record, error) {
	if len(b) < disk.RecordSize || string(b[:8]) != recordMagic {
		return Record{}, errors.New("reading a record: not found")
	}
	le := binary.LittleEndian
	n := le.Uint32(b[16:])
	if n > MaxRecordText || crc32.ChecksumIEEE(b[12:recordHeader+n]) != le.Uint32(b[8:]) {
		return Record{}, errors.New("reading a record: checksum mismatch")
	}
	return Record{Sequence: le.Uint32(b[12:]), Text: string(b[recordHeader : recordHeader+n])}, nil
}
