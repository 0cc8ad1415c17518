package flash

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/medium"
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

// onItsWay is how many bytes may be between a program and the medium: what a
// card takes in two to ten seconds. With 32 MiB fast disks wait for us.
const onItsWay = 128 << 20

// writeBehind has what is written go out at once (sync_file_range(2)).
type writeBehind struct {
	ranges [][2]int64
	sum    int64
}

func (w *writeBehind) wrote(f *os.File, at, n int64) error {
	if n < medium.CopySize/4 { // small pieces go out with the next flush
		return nil
	}
	fd := int(f.Fd())
	if err := unix.SyncFileRange(fd, at, n, unix.SYNC_FILE_RANGE_WRITE); err != nil {
		return ignoreUnknown(err)
	}
	w.ranges, w.sum = append(w.ranges, [2]int64{at, n}), w.sum+n
	for w.sum > onItsWay {
		r := w.ranges[0]
		w.ranges, w.sum = w.ranges[1:], w.sum-r[1]
		const wait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER
		if err := unix.SyncFileRange(fd, r[0], r[1], wait); err != nil {
			return ignoreUnknown(err)
		}
	}
	return nil
}

// ignoreUnknown passes over filesystems that do not know the call: the flush
// at the end does it all.
func ignoreUnknown(err error) error {
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ESPIPE) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}
