package ext4

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/ioctl"
)

// resizeRequest is EXT4_IOC_RESIZE_FS of linux/ext4.h: _IOW('f', 16, __u64).
const resizeRequest = 0x40086610

// Grow grows a mounted ext4 to a length in bytes.
func Grow(mount string, length int64) error {
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
	return ioctl.Call(f, resizeRequest, &blocks)
}

// labelRequest is FS_IOC_SETFSLABEL of linux/fs.h: _IOW(0x94, 50, char[256]).
// ext4 knows it since Linux 5.17.
const labelRequest = 0x41009432

// SetLabel gives a mounted ext4 a label, and returns when the disk has it.
func SetLabel(mount, label string) error {
	f, err := os.Open(mount)
	if err != nil {
		return err
	}
	defer f.Close()
	var text [256]byte
	copy(text[:], label)
	if err := ioctl.Call(f, labelRequest, &text); err != nil {
		return fmt.Errorf("labelling %s: %w", mount, err)
	}
	return unix.Syncfs(int(f.Fd()))
}
