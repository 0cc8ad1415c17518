package flash

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// exclusive keeps a disk that is mounted from being opened, and one that is
// open from being mounted (open(2), O_EXCL).
const exclusive = unix.O_EXCL

func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) }

// forget drops what the kernel keeps of a file or a disk.
func forget(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Mode().IsRegular() {
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
}
