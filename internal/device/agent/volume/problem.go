package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// answerTime is how long a volume may take to let a file be made. A target
// that is away keeps whoever asks waiting for a day.
const answerTime = 5 * time.Second

// Problem returns what is wrong with a volume that is mounted; "" for
// nothing. A filesystem that the kernel shut down is still mounted, and has
// room (open-iscsi/open-iscsi#286).
func Problem(v node.VolumeStatus) string {
	if !v.Mounted {
		return v.Waiting
	}
	if v.Another != "" {
		return v.Another
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err.Error()
	}
	if text := mountProblem(string(b), node.VolumeDir, deviceThere); text != "" || v.On != nodeconfig.OnDisk && v.On != nodeconfig.OnISCSI {
		return text
	}
	written := make(chan error, 1)
	go func() { written <- tryWriting(node.VolumeDir) }()
	select {
	case err := <-written:
		return writeProblem(err)
	case <-time.After(answerTime):
		return fmt.Sprintf("its disk %s has not answered for %v; is the target there? Programs wait until it is", v.Device, answerTime)
	}
}

// tryWriting makes a file without a name, which is gone again when it returns.
func tryWriting(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

const shutDown = "its filesystem was shut down by the kernel (dmesg says why), and takes no writes: restart the node, which checks it"

func writeProblem(err error) string {
	switch {
	case err == nil, errors.Is(err, unix.EOPNOTSUPP):
		return ""
	case errors.Is(err, unix.EROFS), errors.Is(err, unix.EIO), errors.Is(err, unix.EUCLEAN):
		return shutDown
	}
	return fmt.Sprintf("no file can be made on it: %v", err)
}

// mountProblem looks at what the kernel says of the filesystem mounted at dir
// (proc_pid_mountinfo(5)). there reports whether a device MAJOR:MINOR is.
func mountProblem(mountinfo, dir string, there func(device string) bool) string {
	for _, line := range slices.Backward(strings.Split(mountinfo, "\n")) {
		left, right, ok := strings.Cut(line, " - ")
		f, fs := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 6 || len(fs) < 3 || mounts.Unescape(f[4]) != dir {
			continue
		}
		// emergency_ro and shutdown are ext4's since Linux 6.14; ro is what it
		// turns to before that.
		for _, o := range append(strings.Split(f[5], ","), strings.Split(fs[2], ",")...) {
			if o == "ro" || o == "emergency_ro" || o == "shutdown" {
				return shutDown
			}
		}
		if strings.HasPrefix(fs[1], "/dev/") && !there(f[2]) {
			return "its disk is gone: " + fs[1] + "; what is written to it is lost. Restart the node when the disk is back"
		}
		return ""
	}
	return "it is not mounted any more"
}

func deviceThere(device string) bool { return deviceIn("/sys", device) }

// deviceIn reports whether sysfs has a device MAJOR:MINOR, and what lies below
// it: the device of an encrypted volume stays when its disk is pulled.
func deviceIn(sys, device string) bool {
	at := filepath.Join(sys, "dev/block", device)
	if _, err := os.Stat(at); err != nil {
		return false
	}
	if _, err := os.Stat(filepath.Join(at, "dm")); err != nil {
		return true
	}
	below, err := os.ReadDir(filepath.Join(at, "slaves"))
	if err != nil || len(below) == 0 {
		return false
	}
	for _, b := range below {
		if _, err := os.Stat(filepath.Join(at, "slaves", b.Name())); err != nil {
			return false
		}
	}
	return true
}
