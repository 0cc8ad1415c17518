// Package shutdown restarts the node in an orderly way, with an argument for the
// firmware.
package shutdown

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/iscsi"
	"github.com/pikelet-os/pikelet/internal/device/reboot"
)

// rebootFile holds what to tell the firmware when the shutdown is done.
const rebootFile = "/run/pikelet/reboot"

// Reboot starts an orderly shutdown, with an argument for the firmware: reboot.Tryboot,
// a partition number, or "". Services stop and disks are synced
// first; the last action of the shutdown is Finish.
func Reboot(argument string) error {
	if err := os.WriteFile(rebootFile, []byte(argument), 0o600); err != nil {
		return err
	}
	return unix.Kill(1, unix.SIGTERM) // busybox init: run the shutdown actions, then reboot
}

// PowerOff starts an orderly shutdown that ends with the power off.
func PowerOff() error {
	return unix.Kill(1, unix.SIGUSR2) // busybox init: run the shutdown actions, then power off
}

// Finish restarts with what Reboot left. Where nothing was left, a
// poweroff or a reboot somebody else asked for, it only takes away iSCSI disks
// that are still there.
func Finish() error {
	iscsi.TakeOffline()
	b, err := os.ReadFile(rebootFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return reboot.With(string(b))
}
