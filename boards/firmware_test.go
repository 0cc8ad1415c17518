package boards

import (
	"strings"
	"testing"
	"time"
)

// TestCanTry: old firmware is a problem, unknown firmware a warning, for every
// family.
func TestCanTry(t *testing.T) {
	on := func(s string) int64 {
		d, err := time.Parse("2006-01-02", s)
		if err != nil {
			t.Fatal(err)
		}
		return d.Unix()
	}
	for _, c := range []struct {
		board            string
		f                Firmware
		problem, warning string
	}{
		{"rpi3", Firmware{Bootcode: []byte("... tryboot_a_b ...")}, "", ""},
		{"rpi3", Firmware{Bootcode: []byte("of 2022")}, "too old to start a trial", ""},
		{"zero2w", Firmware{}, "", "not known"},
		{"rpi4", Firmware{}, "", "does not say"},
		{"rpi4", Firmware{Built: on("2022-01-25")}, "of 2022-01-25", ""},
		{"rpi4", Firmware{Built: on("2023-05-10")}, "2023-05-11 or later", ""},
		{"rpi4", Firmware{Built: on("2023-05-11")}, "", "from 2025-08-13 on"},
		{"rpi4", Firmware{Built: on("2025-08-13")}, "", ""},
		{"rpi5", Firmware{Built: on("2024-01-05")}, "of 2024-01-05", ""},
		{"rpi5", Firmware{Built: on("2024-09-23")}, "", "from 2025-08-13 on"},
		{"rpi5", Firmware{Built: on("2026-05-13")}, "", ""},
		{"vm", Firmware{}, "", ""},
	} {
		b, err := Find(c.board)
		if err != nil {
			t.Fatal(err)
		}
		problem, warning := b.CanTry(c.f)
		if (c.problem == "") != (problem == "") || !strings.Contains(problem, c.problem) || (c.warning == "") != (warning == "") ||
			!strings.Contains(warning, c.warning) {
			t.Errorf("%s %+v: problem %q, warning %q; want %q, %q", c.board, c.f, problem, warning, c.problem, c.warning)
		}
	}
}
