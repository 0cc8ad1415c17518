// Package ioctl calls ioctls for which golang.org/x/sys/unix has no function.
package ioctl

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Call calls an ioctl that takes a pointer.
func Call[T any](f *os.File, request uintptr, argument *T) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(argument))); errno != 0 {
		return errno
	}
	return nil
}
