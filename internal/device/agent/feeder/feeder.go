// Package feeder signals the process that feeds the hardware watchdog, which /init
// starts.
package feeder

import (
	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Alive sends the watchdog's feeder of a boot a sign of life. It does
// nothing where the boot has no feeder.
func Alive(b node.Boot) { signalFeeder(b, unix.SIGUSR1) }

// TrialEnded tells the watchdog's feeder of a boot that there is no trial to
// guard any more.
func TrialEnded(b node.Boot) { signalFeeder(b, unix.SIGUSR2) }

func signalFeeder(b node.Boot, s unix.Signal) {
	if b.Watchdog > 1 {
		unix.Kill(b.Watchdog, s) // without a feeder nothing waits for it
	}
}
