package agent

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctl calls an ioctl that takes a pointer.
func ioctl[T any](f *os.File, request uintptr, argument *T) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(argument))); errno != 0 {
		return errno
	}
	return nil
}

// From linux/blkpg.h.
const (
	blkpgResize = 3 // BLKPG_RESIZE_PARTITION
	blkpg       = 0x1269
)

type blkpgPartition struct {
	start, length int64 // bytes
	number        int32
	_             [64]byte
	_             [64]byte
	_             [4]byte
}

type blkpgArgument struct {
	op, _, length int32
	_             int32
	data          *blkpgPartition
}

// resizePartition tells the kernel the new length of a partition, while the
// disk and its other partitions are in use.
func resizePartition(f *os.File, number int, start, length int64) error {
	p := &blkpgPartition{start: start, length: length, number: int32(number)}
	return ioctl(f, blkpg, &blkpgArgument{op: blkpgResize, length: int32(unsafe.Sizeof(*p)), data: p})
}

// ext4Resize is EXT4_IOC_RESIZE_FS of linux/ext4.h: _IOW('f', 16, __u64).
const ext4Resize = 0x40086610

// growExt4 grows a mounted ext4 to a length in bytes.
func growExt4(mount string, length int64) error {
	f, err := os.Open(mount)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		return err
	}
	blocks := uint64(length) / uint64(st.Bsize)
	return ioctl(f, ext4Resize, &blocks)
}

// setLabel is FS_IOC_SETFSLABEL of linux/fs.h: _IOW(0x94, 50, char[256]).
// ext4 knows it since Linux 5.17.
const setLabel = 0x41009432

// labelExt4 gives a mounted ext4 a label, and returns when the disk has it.
func labelExt4(mount, label string) error {
	f, err := os.Open(mount)
	if err != nil {
		return err
	}
	defer f.Close()
	var text [256]byte
	copy(text[:], label)
	if err := ioctl(f, setLabel, &text); err != nil {
		return fmt.Errorf("labelling %s: %w", mount, err)
	}
	return unix.Syncfs(int(f.Fd()))
}
