package tftp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// A system call that never blocks need not notify Go's scheduler: with fifty
// clients that saves a tenth of the time (docs/decisions/0010-tftp.md).

// receive reads a packet that has arrived; EAGAIN where none has.
func receive(fd int, b []byte) (int, error) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// send sends a packet; EAGAIN where the kernel has no room for it.
func send(fd int, b []byte) error {
	if _, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0); e != 0 {
		return e
	}
	return nil
}
