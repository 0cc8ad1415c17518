// Package disk defines the layout of a card: the MBR, the four partitions, and the
// records in the gap before the first partition.
package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// SectorSize is the unit of all sizes and offsets here, in bytes. Cards, USB sticks
// and NVMe drives of a Pi present 512-byte sectors to the firmware; native 4 KiB
// drives are not supported yet (docs/platform.md 1.5).
const SectorSize = 512

// MiB is a mebibyte in bytes.
const MiB = 1 << 20

// Partition numbers, as the firmware counts: from 1.
const (
	Control = 1
	SlotA   = 2
	SlotB   = 3
	State   = 4
)

// Offsets in bytes from the start of the card. Records lie 64 KiB apart, so that an
// erase block lost by a cheap card takes only one of them.
const (
	UpdateRecord0 = 1 * MiB
	UpdateRecord1 = 1*MiB + 64<<10
	InitRecord    = 1*MiB + 128<<10
	RecordSize    = 4096

	firstPartition = 4 * MiB  // behind the gap; the erase block of common cards
	controlSize    = 64 * MiB // the least that is FAT32 for every reader at 512-byte clusters (docs/platform.md 1.5)

	// StateClear is how many bytes of the state partition an image maps as zeros,
	// so that flashing always wipes the state of an older cluster.
	StateClear = 4 * MiB

	// StateInImage is the length of the state partition inside an image
	// file. A node grows it over the rest of its card on its first boot.
	StateInImage = 8 * MiB
)

// Partition types as MBR bytes: 0x0c is FAT32 with LBA, which the firmware
// takes (docs/platform.md 1.5); 0x83 is Linux.
const (
	TypeFAT32 = 0x0c
	TypeLinux = 0x83
)

// Partition is a primary partition of the MBR.
type Partition struct {
	Start, Size int64 // bytes, multiples of SectorSize
	Type        byte
	Bootable    bool
}

// Table is an MBR: four primary partitions and the disk signature, from which Linux
// derives PARTUUIDs.
type Table struct {
	Signature  uint32
	Partitions [4]Partition
}

// Partition returns number n, counted from 1.
func (t Table) Partition(n int) (Partition, error) {
	if n < 1 || n > 4 || t.Partitions[n-1].Size == 0 {
		return Partition{}, fmt.Errorf("the card has no partition %d", n)
	}
	return t.Partitions[n-1], nil
}

// End returns the first byte behind the last partition.
func (t Table) End() int64 {
	var end int64
	for _, p := range t.Partitions {
		end = max(end, p.Start+p.Size)
	}
	return end
}

// Card returns the table of a Pikelet card with slots of slotSize bytes and a
// state partition of stateSize, multiples of 1 MiB.
func Card(slotSize, stateSize int64, signature uint32) (Table, error) {
	if slotSize <= 0 || slotSize%MiB != 0 {
		return Table{}, fmt.Errorf("dividing a card: slot size %d is not a positive multiple of 1 MiB", slotSize)
	}
	if stateSize < StateClear || stateSize%MiB != 0 {
		return Table{}, fmt.Errorf("dividing a card: state size %d is no multiple of 1 MiB of at least %d MiB", stateSize, StateClear/MiB)
	}
	a := int64(firstPartition + controlSize)
	b := a + slotSize
	state := b + slotSize
	t := Table{Signature: signature, Partitions: [4]Partition{
		{Start: firstPartition, Size: controlSize, Type: TypeFAT32, Bootable: true},
		{Start: a, Size: slotSize, Type: TypeFAT32},
		{Start: b, Size: slotSize, Type: TypeFAT32},
		{Start: state, Size: stateSize, Type: TypeLinux},
	}}
	if t.End() > 1<<32*SectorSize {
		return Table{}, fmt.Errorf("dividing a card: slots of %d MiB end behind the 2 TiB an MBR can name", slotSize/MiB)
	}
	return t, nil
}

// Offsets in the classic MBR (https://en.wikipedia.org/wiki/Master_boot_record).
const (
	mbrSignature = 440
	mbrEntries   = 446
	mbrMagic     = 510
)

// Encode returns the first sector of the card. It has no boot code, which no Pi
// runs. CHS fields are 0xfeffff ("use LBA"), as fdisk writes them.
func (t Table) Encode() []byte {
	s := make([]byte, SectorSize)
	binary.LittleEndian.PutUint32(s[mbrSignature:], t.Signature)
	for i, p := range t.Partitions {
		if p.Size == 0 {
			continue
		}
		e := s[mbrEntries+16*i:]
		if p.Bootable {
			e[0] = 0x80
		}
		copy(e[1:4], []byte{0xfe, 0xff, 0xff})
		e[4] = p.Type
		copy(e[5:8], []byte{0xfe, 0xff, 0xff})
		binary.LittleEndian.PutUint32(e[8:], uint32(p.Start/SectorSize))
		binary.LittleEndian.PutUint32(e[12:], uint32(p.Size/SectorSize))
	}
	s[mbrMagic], s[mbrMagic+1] = 0x55, 0xaa
	return s
}

// unfinishedMark begins the first sector of a card that is being written. The
// sector has the partitions that the card had before where an MBR has them, so
// that state can still be found, but not the two signature bytes of an MBR: no
// firmware starts such a card.
const unfinishedMark = "PIKELET FLASH NOT FINISHED\n"

// EncodeUnfinished returns the first sector of a card that is being written,
// from the sector that is there now.
func EncodeUnfinished(old []byte) []byte {
	s := make([]byte, SectorSize)
	copy(s, unfinishedMark)
	if len(old) >= SectorSize && (IsUnfinished(old) || old[mbrMagic] == 0x55 && old[mbrMagic+1] == 0xaa) {
		copy(s[mbrSignature:mbrMagic], old[mbrSignature:mbrMagic])
	}
	return s
}

// IsUnfinished reports whether a first sector is that of a card whose writing
// was interrupted.
func IsUnfinished(s []byte) bool {
	return len(s) >= SectorSize && strings.HasPrefix(string(s), unfinishedMark)
}

// DecodeUnfinished returns the partitions a card had before its writing was
// interrupted.
func DecodeUnfinished(s []byte) (Table, error) {
	whole := append([]byte(nil), s...)
	if len(s) >= SectorSize && IsUnfinished(s) {
		whole[mbrMagic], whole[mbrMagic+1] = 0x55, 0xaa
	}
	return Decode(whole)
}

// Decode decodes the first sector of a card. It returns an error for an invalid MBR:
// no signature, or partitions that overlap or begin inside the MBR.
func Decode(s []byte) (Table, error) {
	if IsUnfinished(s) && s[mbrMagic] != 0x55 {
		return Table{}, errors.New("the card was being flashed when that was interrupted; flash it again")
	}
	if len(s) < SectorSize || s[mbrMagic] != 0x55 || s[mbrMagic+1] != 0xaa {
		return Table{}, fmt.Errorf("reading the partition table: no MBR (its last two bytes are not 55 aa)")
	}
	t := Table{Signature: binary.LittleEndian.Uint32(s[mbrSignature:])}
	for i := range t.Partitions {
		e := s[mbrEntries+16*i:]
		p := Partition{
			Start:    int64(binary.LittleEndian.Uint32(e[8:])) * SectorSize,
			Size:     int64(binary.LittleEndian.Uint32(e[12:])) * SectorSize,
			Type:     e[4],
			Bootable: e[0] == 0x80,
		}
		if p.Type == 0 || p.Size == 0 {
			continue
		}
		if p.Start == 0 {
			return Table{}, fmt.Errorf("reading the partition table: partition %d begins at sector 0", i+1)
		}
		for j, q := range t.Partitions[:i] {
			if q.Size != 0 && p.Start < q.Start+q.Size && q.Start < p.Start+p.Size {
				return Table{}, fmt.Errorf("reading the partition table: partitions %d and %d overlap", j+1, i+1)
			}
		}
		t.Partitions[i] = p
	}
	return t, nil
}

// ReadTable reads the partition table of a card.
func ReadTable(card io.ReaderAt) (Table, error) {
	mbr := make([]byte, SectorSize)
	if _, err := card.ReadAt(mbr, 0); err != nil {
		return Table{}, err
	}
	return Decode(mbr)
}

// PartitionDevice returns the name of a partition's device under Linux: with a p
// before the number if the name of the disk ends in a digit.
func PartitionDevice(dev string, n int) string {
	if last := dev[len(dev)-1]; last >= '0' && last <= '9' {
		return fmt.Sprintf("%sp%d", dev, n)
	}
	return fmt.Sprintf("%s%d", dev, n)
}
