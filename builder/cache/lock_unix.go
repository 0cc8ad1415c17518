//go:build unix

package cache

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockShared waits until no process holds the file exclusively.
func lockShared(f *os.File) { unix.Flock(int(f.Fd()), unix.LOCK_SH) }

// lockWait waits until no other process holds the file.
func lockWait(f *os.File) { unix.Flock(int(f.Fd()), unix.LOCK_EX) }

// lockAlone takes the file if no other process holds it.
func lockAlone(f *os.File) bool { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil }
