package fat

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// A long name is stored before its short entry, last part first, 13 UTF-16
// units in each 32-byte part, at these offsets.
var longNameOffsets = [13]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30}

const (
	lastLongPart = 0x40
	maxLongName  = 255 // UTF-16 units
)

// checkName returns an error for a name that some reader of the card cannot open.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxLongName ||
		strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") {
		return fmt.Errorf("FAT can't hold the name %q", name)
	}
	for _, r := range name {
		if r < ' ' || r > '~' || strings.ContainsRune(`"*/:<>?\|`, r) {
			return fmt.Errorf("FAT can't hold the name %q: character %q", name, r)
		}
	}
	return nil
}

// shortName returns the 11 bytes of a name that is 8.3, apart from its case.
func shortName(name string) (s [11]byte, ok bool) {
	base, ext, _ := strings.Cut(name, ".")
	if len(base) == 0 || len(base) > 8 || len(ext) > 3 || strings.Contains(ext, ".") {
		return s, false
	}
	for _, r := range base + ext {
		if !isShort(r) {
			return s, false
		}
	}
	copy(s[:8], padded(strings.ToUpper(base), 8))
	copy(s[8:], padded(strings.ToUpper(ext), 3))
	return s, true
}

func isShort(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
		strings.ContainsRune("!#$%&'()-@^_`{}~", r)
}

// alias returns a short name for a file whose name is not 8.3: its first
// letters, a tilde and the lowest number not yet taken in its directory.
func alias(name string, taken map[[11]byte]bool) ([11]byte, error) {
	var kept []rune
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 {
		dot = len(name)
	}
	for _, r := range name[:dot] {
		if isShort(r) && r != '~' {
			kept = append(kept, r)
		}
	}
	base := strings.ToUpper(string(kept))
	var ext string
	if dot < len(name) {
		for _, r := range name[dot+1:] {
			if isShort(r) && len(ext) < 3 {
				ext += strings.ToUpper(string(r))
			}
		}
	}
	for n := 1; n < 1_000_000; n++ {
		tail := fmt.Sprintf("~%d", n)
		var s [11]byte
		copy(s[:8], padded(base[:min(len(base), 8-len(tail))]+tail, 8))
		copy(s[8:], padded(ext, 3))
		if !taken[s] {
			return s, nil
		}
	}
	return [11]byte{}, fmt.Errorf("no short name is left for %q", name)
}

func checksum(short []byte) byte {
	var sum byte
	for _, c := range short[:11] {
		sum = sum<<7 | sum>>1
		sum += c
	}
	return sum
}

// encodeLongName returns the parts that precede the short entry; none where the
// short name is the whole name.
func encodeLongName(name string, short [11]byte) []byte {
	if s, ok := shortName(name); ok && s == short && name == strings.ToUpper(name) {
		return nil
	}
	units := utf16.Encode([]rune(name))
	parts := (len(units) + 12) / 13
	if len(units)%13 != 0 {
		units = append(units, 0)
	}
	for len(units) < parts*13 {
		units = append(units, 0xffff)
	}
	var out []byte
	for part := parts; part >= 1; part-- {
		e := make([]byte, entrySize)
		e[0] = byte(part)
		if part == parts {
			e[0] |= lastLongPart
		}
		e[11] = attrLongName
		e[13] = checksum(short[:])
		for i, at := range longNameOffsets {
			binary.LittleEndian.PutUint16(e[at:], units[(part-1)*13+i])
		}
		out = append(out, e...)
	}
	return out
}

// longName collects the parts of a long name as they are read.
type longName struct {
	units []uint16
	next  byte // the part number that must come next, 0 when complete or none
	sum   byte
}

func (l *longName) add(e []byte) {
	n := e[0]
	if n&lastLongPart != 0 {
		*l = longName{next: n &^ lastLongPart, sum: e[13]}
		if l.next == 0 || l.next > 20 {
			*l = longName{}
			return
		}
	} else if n != l.next || e[13] != l.sum {
		*l = longName{}
		return
	}
	part := make([]uint16, 0, 13)
	for _, at := range longNameOffsets {
		part = append(part, binary.LittleEndian.Uint16(e[at:]))
	}
	l.units = append(part, l.units...)
	l.next--
}

// name returns the long name if it belongs to this short entry, else the
// short name, in lower case where the case bits of Windows NT say so.
func (l *longName) name(e []byte) string {
	if len(l.units) > 0 && l.next == 0 && l.sum == checksum(e) {
		units := l.units
		for i, u := range units {
			if u == 0 {
				units = units[:i]
				break
			}
		}
		return string(utf16.Decode(units))
	}
	base := strings.TrimRight(string(e[:8]), " ")
	ext := strings.TrimRight(string(e[8:11]), " ")
	if e[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if e[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if ext != "" {
		return base + "." + ext
	}
	return base
}
