package upgrade

import (
	"context"
	"time"
)

// testClock is a clock that does not wait. It is synchronised where the test says
// so, and stops sleepers at its end.
type testClock struct {
	start  time.Time
	at     time.Duration // since start
	end    time.Duration
	sure   bool
	random float64
}

func (c *testClock) Now() time.Time         { return c.start.Add(c.at) }
func (c *testClock) Synchronised() bool     { return c.sure }
func (c *testClock) Elapsed() time.Duration { return c.at }
func (c *testClock) Random() float64        { return c.random }

func (c *testClock) Sleep(_ context.Context, d time.Duration) bool {
	c.at += d
	return c.at < c.end
}
