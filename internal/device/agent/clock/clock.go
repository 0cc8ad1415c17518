// Package clock says whether the time is right, and waits.
package clock

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// Sleep waits and reports whether it did: false means that ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Synchronised reports whether a time server keeps the clock right, which chronyd
// tells the kernel.
func Synchronised() bool {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false
	}
	return t.Status&unix.STA_UNSYNC == 0
}
