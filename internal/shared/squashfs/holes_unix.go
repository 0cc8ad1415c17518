//go:build linux || darwin || freebsd

package squashfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// nextData returns where the next bytes of a file that are on disk begin and
// end, from at on. A file system that does not know says all of them are.
func nextData(f *os.File, at, size int64) (data, end int64) {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if err == unix.ENXIO { // nothing but a hole
		return size, size
	}
	if err != nil {
		return at, size
	}
	if end, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil || end <= at {
		end = size
	}
	return data, end
}
