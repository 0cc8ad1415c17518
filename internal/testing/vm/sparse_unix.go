//go:build unix

package vm

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// nextData returns where the next data of a file begins and ends.
func nextData(f *os.File, at, _ int64) (data, hole int64, err error) {
	data, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, errHole
	}
	if err != nil {
		return 0, 0, err
	}
	hole, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	return data, hole, err
}
