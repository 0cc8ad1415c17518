// Package reboot restarts a machine with a word for its firmware.
package reboot

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tryboot asks the firmware for a trial: the next boot, and only that one, is
// of the slot that is not the default (docs/platform.md 2.2).
const Tryboot = "0 tryboot"

// With restarts at once. argument is Tryboot, a partition number, or empty
// for the default slot. It returns only on an error. Busybox cannot pass an
// argument, which is why this is here.
func With(argument string) error {
	unix.Sync()
	if argument == "" {
		return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
	var flag error
	if argument == Tryboot {
		flag = setTryboot()
	}
	arg, err := unix.BytePtrFromString(argument)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2,
		unix.LINUX_REBOOT_CMD_RESTART2, uintptr(unsafe.Pointer(arg)), 0, 0)
	return errors.Join(fmt.Errorf("rebooting with %q: %w", argument, errno), flag)
}
