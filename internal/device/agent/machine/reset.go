package machine

import (
	"encoding/binary"
	"os"

	"github.com/pikelet-os/pikelet/internal/device/updater"
)

// hadWatchdog is the bit of the SoC's reset status that a reset by its
// watchdog leaves, HADWRF of PM_RSTS (include/linux/mfd/bcm2835-pm.h). It is
// none of those that carry a partition number (docs/platform.md 2.2), and gone after a
// power cut.
const hadWatchdog = 1 << 5

// LastReset says how this boot came to be, as far as the firmware tells
// (docs/platform.md 2.3).
func LastReset() updater.Reset {
	b, err := os.ReadFile("/proc/device-tree/chosen/bootloader/rsts")
	switch {
	case err != nil || len(b) != 4:
		return updater.Unknown
	case binary.BigEndian.Uint32(b)&hadWatchdog != 0:
		return updater.Watchdog
	}
	return updater.PowerOn
}
