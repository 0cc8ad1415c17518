package builder

import "golang.org/x/sys/unix"

// exchange lets two files change their places. It fails where one of them is
// not there, and on file systems that cannot.
func exchange(a, b string) error {
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}
