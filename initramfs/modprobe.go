package initramfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// The kernel loads modules by starting modprobe, and until the root is / it
// looks for it in the initramfs. There it finds /init by another name, which
// goes into the root and becomes the root's own.
const (
	modprobeName = "/modprobe"
	modprobePath = newRoot + "/proc/sys/kernel/modprobe" // /proc is in the root by then
)

// lendModprobe lets the kernel find modules in the root. giveBack undoes it.
func lendModprobe() (giveBack func(), err error) {
	old, err := os.ReadFile(modprobePath)
	if err != nil {
		return func() {}, err
	}
	if err := os.Symlink("/init", modprobeName); err != nil {
		return func() {}, err
	}
	// The kernel starts it without any open file, and Go's runtime then wants
	// a /dev/null; the real /dev is in the root already.
	if err := unix.Mknod("/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return func() {}, err
	}
	return func() {
		os.WriteFile(modprobePath, old, 0)
		os.Remove(modprobeName)
	}, os.WriteFile(modprobePath, []byte(modprobeName), 0)
}

// modprobe becomes the root's modprobe.
func modprobe() error {
	if err := unix.Chroot(newRoot); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/sbin/modprobe", append([]string{"/sbin/modprobe"}, os.Args[1:]...), environment)
}
