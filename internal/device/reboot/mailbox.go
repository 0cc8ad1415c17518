package reboot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Pi's kernel passes the flag on by itself when it restarts with the word
// tryboot; one without that part of the driver does not, and there the
// firmware is asked through its mailbox (docs/platform.md 2.2).
const (
	mailboxFile  = "/dev/vcio"
	setFlags     = 0x00038064 // RPI_FIRMWARE_SET_REBOOT_FLAGS
	flagTryboot  = 1
	mailboxIOCTL = 0xc0006400 | unsafe.Sizeof(uintptr(0))<<16 // _IOWR(100, 0, char *)
	answered     = 0x80000000
)

// message is what the mailbox is sent to set the flag, in 32-bit words: its
// size in bytes, a request, one tag with its size, the size of what it holds,
// the flag, and the end.
func message() [7]uint32 { return [7]uint32{28, 0, setFlags, 4, 4, flagTryboot, 0} }

// checkAnswer reports whether the firmware took a message.
func checkAnswer(m [7]uint32) error {
	if m[1] != answered || m[4]&answered == 0 {
		return fmt.Errorf("the firmware does not take the flag for a trial: it answers %#x, %#x", m[1], m[4])
	}
	return nil
}

// setTryboot sets the flag through the mailbox. A machine without one has no
// need of it.
func setTryboot() error {
	f, err := os.OpenFile(mailboxFile, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	var b [28]byte
	m := message()
	for i, w := range m {
		binary.LittleEndian.PutUint32(b[4*i:], w)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), mailboxIOCTL, uintptr(unsafe.Pointer(&b))); errno != 0 {
		return fmt.Errorf("asking the firmware for a trial: %w", errno)
	}
	for i := range m {
		m[i] = binary.LittleEndian.Uint32(b[4*i:])
	}
	return checkAnswer(m)
}
