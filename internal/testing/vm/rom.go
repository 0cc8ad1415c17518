package vm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf16"
)

// What follows reads cards as a boot ROM does: with a few hundred lines of
// its own, that believe nearly everything. It shares no code with what writes
// cards or with what nodes read them with, so that a mistake there does not
// hide itself here.

const romSector = 512

// romPartition returns where primary n of a card's MBR lies, in bytes.
func romPartition(card io.ReaderAt, n int) (start, size int64, err error) {
	var s [romSector]byte
	if _, err := card.ReadAt(s[:], 0); err != nil {
		return 0, 0, err
	}
	if s[510] != 0x55 || s[511] != 0xaa {
		return 0, 0, errors.New("the card has no partition table")
	}
	if n < 1 || n > 4 {
		return 0, 0, fmt.Errorf("partition %d not found", n)
	}
	e := s[446+16*(n-1):]
	start, size = int64(binary.LittleEndian.Uint32(e[8:]))*romSector, int64(binary.LittleEndian.Uint32(e[12:]))*romSector
	if e[4] == 0 || size == 0 {
		return 0, 0, fmt.Errorf("partition %d not found", n)
	}
	return start, size, nil
}

// ReadAsROM returns a file of partition n, read as the firmware reads it.
func (f Firmware) ReadAsROM(card io.ReaderAt, n int, name string, limit int64) ([]byte, error) {
	v, err := romOpen(card, n, f.Backup)
	if err != nil {
		return nil, err
	}
	return v.read(name, limit)
}

// romVolume is a FAT32 volume as the firmware reads it.
type romVolume struct {
	r                   io.ReaderAt
	start               int64 // of the volume on the card, bytes
	cluster             int64 // bytes
	fat, data           int64 // where the first FAT and cluster 2 are, bytes from start
	root, firstNoMoreIs uint32
}

// romOpen opens the volume of a partition. With backup a copy of the boot
// sector is taken where the first sector is invalid, as some readers do.
func romOpen(card io.ReaderAt, n int, backup bool) (*romVolume, error) {
	start, size, err := romPartition(card, n)
	if err != nil {
		return nil, err
	}
	v, err := romBoot(card, start, size, 0)
	if err != nil && backup {
		if copy, e := romBoot(card, start, size, 6*romSector); e == nil {
			return copy, nil
		}
	}
	return v, err
}

func romBoot(card io.ReaderAt, start, size, at int64) (*romVolume, error) {
	var s [romSector]byte
	if _, err := card.ReadAt(s[:], start+at); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	per, reserved, fats, each := int64(s[13]), int64(le.Uint16(s[14:])), int64(s[16]), int64(le.Uint32(s[36:]))
	if s[510] != 0x55 || s[511] != 0xaa || le.Uint16(s[11:]) != romSector || per == 0 || fats == 0 || each == 0 || le.Uint16(s[22:]) != 0 {
		return nil, errors.New("no FAT32 found")
	}
	v := &romVolume{r: card, start: start, cluster: per * romSector, fat: reserved * romSector, root: le.Uint32(s[44:])}
	v.data = v.fat + fats*each*romSector
	v.firstNoMoreIs = uint32(min((size-v.data)/v.cluster, each*romSector/4) + 2)
	return v, nil
}

// next returns the cluster behind one; 0 behind the last.
func (v *romVolume) next(c uint32) (uint32, error) {
	var b [4]byte
	if _, err := v.r.ReadAt(b[:], v.start+v.fat+4*int64(c)); err != nil {
		return 0, err
	}
	n := binary.LittleEndian.Uint32(b[:]) & 0x0fffffff
	switch {
	case n >= 0x0ffffff8:
		return 0, nil
	case n < 2 || n >= v.firstNoMoreIs:
		return 0, fmt.Errorf("cluster %d is followed by the invalid cluster %d", c, n)
	}
	return n, nil
}

// chain reads the clusters from one on, at most limit bytes.
func (v *romVolume) chain(c uint32, limit int64) ([]byte, error) {
	if c < 2 || c >= v.firstNoMoreIs {
		return nil, fmt.Errorf("file begins at the invalid cluster %d", c)
	}
	var out []byte
	for c != 0 && int64(len(out)) < limit {
		// Clusters that follow one another are read at once.
		first, n := c, int64(1)
		for {
			next, err := v.next(c)
			if err != nil && int64(len(out))+n*v.cluster < limit {
				return nil, err
			}
			if err != nil || next != c+1 || int64(len(out))+n*v.cluster >= limit {
				c = next
				break
			}
			c, n = next, n+1
		}
		b := make([]byte, n*v.cluster)
		if _, err := v.r.ReadAt(b, v.start+v.data+int64(first-2)*v.cluster); err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return out, nil
}

// find returns where a file begins and how long it is.
func (v *romVolume) find(name string) (first uint32, size int64, err error) {
	first = v.root
	parts := strings.Split(name, "/")
	for i, part := range parts {
		dir, err := v.chain(first, 4<<20)
		if err != nil {
			return 0, 0, err
		}
		e := romEntry(dir, part)
		if e == nil || (e[11]&0x10 != 0) != (i < len(parts)-1) {
			return 0, 0, fmt.Errorf("%s not found", name)
		}
		le := binary.LittleEndian
		first, size = uint32(le.Uint16(e[20:]))<<16|uint32(le.Uint16(e[26:])), int64(le.Uint32(e[28:]))
	}
	return first, size, nil
}

// romEntry finds a name, long or short, in a directory.
func romEntry(dir []byte, name string) []byte {
	var long []uint16
	for ; len(dir) >= 32 && dir[0] != 0; dir = dir[32:] {
		e := dir[:32]
		switch {
		case e[0] == 0xe5:
			long = nil
		case e[11] == 0x0f: // a part of a long name; the last part comes first
			var part []uint16
			for _, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
				if u := binary.LittleEndian.Uint16(e[at:]); u != 0 && u != 0xffff {
					part = append(part, u)
				}
			}
			if e[0]&0x40 != 0 {
				long = nil
			}
			long = append(part, long...)
		case e[11]&0x08 != 0:
			long = nil
		default:
			short := strings.TrimRight(string(e[:8]), " ")
			if ext := strings.TrimRight(string(e[8:11]), " "); ext != "" {
				short += "." + ext
			}
			if strings.EqualFold(short, name) || strings.EqualFold(string(utf16.Decode(long)), name) {
				return e
			}
			long = nil
		}
	}
	return nil
}

// read returns a file of at most limit bytes.
func (v *romVolume) read(name string, limit int64) ([]byte, error) {
	first, size, err := v.find(name)
	switch {
	case err != nil:
		return nil, err
	case size > limit:
		return nil, fmt.Errorf("%s has %d bytes, want at most %d", name, size, limit)
	case size == 0:
		return nil, nil
	}
	b, err := v.chain(first, size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if int64(len(b)) < size {
		return nil, fmt.Errorf("%s: clusters hold %d bytes of %d", name, len(b), size)
	}
	return b[:size], nil
}
