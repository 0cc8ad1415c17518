package boards

import (
	"bytes"
	"fmt"
	"time"
)

// TrybootMark is a text inside every bootcode.bin that can start a trial; the
// one of 2022 lacks it (docs/platform.md 2.1).
const TrybootMark = "tryboot_a_b"

// date makes a day a Unix time.
func date(y int, m time.Month, d int) int64 { return time.Date(y, m, d, 0, 0, 0, 0, time.UTC).Unix() }

// Firmware is what is known of a machine's firmware outside its slots.
type Firmware struct {
	Built    int64  // when the bootloader in the EEPROM was made, Unix time; 0 for unknown
	Bootcode []byte // bootcode.bin of the control partition; nil for unknown
}

// CanTry reports whether a machine of this board has firmware that can start a
// trial. problem is why it cannot, "" where it can; warning is what is not known,
// or could be better.
func (b Board) CanTry(f Firmware) (problem, warning string) {
	day := func(t int64) string { return time.Unix(t, 0).UTC().Format("2006-01-02") }
	switch {
	case b.Bootcode && f.Bootcode == nil:
		return "", "bootcode.bin on the control partition can't be read; whether it can start a trial is not known"
	case b.Bootcode && !bytes.Contains(f.Bootcode, []byte(TrybootMark)):
		return "bootcode.bin on the control partition is too old to start a trial", ""
	case b.MinEEPROM == 0:
		return "", ""
	case f.Built == 0:
		return "", fmt.Sprintf("the bootloader does not say when it was made; a %s needs one of %s or later to start a trial", b.Title,
			day(b.MinEEPROM))
	case f.Built < b.MinEEPROM:
		return fmt.Sprintf("the bootloader in the EEPROM is of %s, and cannot be relied on to start a trial: a %s needs one of %s "+
			"or later",
			day(f.Built), b.Title, day(b.MinEEPROM)), ""
	case f.Built < b.GoodEEPROM:
		return "", fmt.Sprintf("the bootloader in the EEPROM is of %s; from %s on it starts the other slot by itself when a card "+
			"loses a sector of autoboot.txt", day(f.Built), day(b.GoodEEPROM))
	}
	return "", ""
}
