//go:build unix

package builder

import (
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes a file for this process alone, until it is closed or the
// process ends.
func tryLock(f *os.File) bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }
