//go:build unix

package cache

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockShared waits until nobody holds the file alone.
func lockShared(f *os.File) { unix.Flock(int(f.Fd()), unix.LOCK_SH) }

// lockWait waits until nobody else holds the file.
func lockWait(f *os.File) { unix.Flock(int(f.Fd()), unix.LOCK_EX) }

// lockAlone takes the file where nobody else holds it.
func lockAlone(f *os.File) bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }
