// Package clock is the time as long-running work of the node sees it.
package clock

import (
	"context"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the time, measures, waits and rolls dice. Tests have one that does
// not wait.
type Clock interface {
	// Now is the time of day, which may be wrong where Synchronised is false.
	Now() time.Time
	// Synchronised reports whether a time server keeps the clock right.
	Synchronised() bool
	// Elapsed is how long the clock runs. Setting the time does not change it.
	Elapsed() time.Duration
	// Sleep waits, and reports false where ctx ended first.
	Sleep(ctx context.Context, d time.Duration) bool
	// Random returns a number from 0 up to 1, so that nodes do not act together.
	Random() float64
}

// System is the clock of the node. Its zero value has no start: use New.
type System struct{ start time.Time }

var _ Clock = System{}

// New returns a clock that starts now.
func New() System { return System{time.Now()} }

// Now implements Clock.
func (System) Now() time.Time { return time.Now() }

// Synchronised implements Clock.
func (System) Synchronised() bool { return Synchronised() }

// Elapsed implements Clock.
func (s System) Elapsed() time.Duration { return time.Since(s.start) }

// Sleep implements Clock.
func (System) Sleep(ctx context.Context, d time.Duration) bool { return Sleep(ctx, d) }

// Random implements Clock.
func (System) Random() float64 { return rand.Float64() }

// Sleep waits, and reports false where ctx ended first.
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
