package early

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Linux is the machine this process runs on.
type Linux struct{}

var _ Machine = Linux{}

// Mkdir implements Machine.
func (Linux) Mkdir(path string, mode fs.FileMode, gid int) error {
	if i, err := os.Stat(path); err == nil && i.IsDir() {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(path, mode.Perm()); err != nil {
		return err
	}
	if err := os.Chown(path, 0, gid); err != nil {
		return err
	}
	return unix.Chmod(path, uint32(mode))
}

// Link implements Machine.
func (Linux) Link(target, path string) error {
	if old, err := os.Readlink(path); err == nil && old == target {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

// Create implements Machine.
func (Linux) Create(path string, mode fs.FileMode, gid int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if gid >= 0 {
		err = f.Chown(-1, gid)
	}
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// Write implements Machine.
func (Linux) Write(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }

// Read implements Machine.
func (Linux) Read(path string) (string, error) {
	b, err := os.ReadFile(path)
	return string(b), err
}

// Mounted implements Machine.
func (Linux) Mounted(path string) (bool, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return mountedIn(string(b), path), err
}

// mountedIn reports whether a mountinfo names a place (proc_pid_mountinfo(5)).
func mountedIn(mountinfo, path string) bool {
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == path {
			return true
		}
	}
	return false
}

// Mount implements Machine.
func (Linux) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

// Hostname implements Machine.
func (Linux) Hostname(name string) error { return unix.Sethostname([]byte(name)) }

// ConsoleLevel implements Machine.
func (Linux) ConsoleLevel(level int) error {
	if _, _, errno := unix.Syscall(unix.SYS_SYSLOG, unix.SYSLOG_ACTION_CONSOLE_LEVEL, 0, uintptr(level)); errno != 0 {
		return errno
	}
	return nil
}

// KernelLog implements Machine.
func (Linux) KernelLog() (string, error) {
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return "", err
	}
	b := make([]byte, n)
	n, err = unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// Load implements Machine.
func (Linux) Load(file string, compressed bool) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if compressed {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// Run implements Machine.
func (Linux) Run(args ...string) error { return exec.Command(args[0], args[1:]...).Run() }
