package updater

import (
	"cmp"
	"context"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Clock measures time and waits. Tests have one that does not wait.
type Clock interface {
	// Elapsed is how long the clock runs. Setting the time does not change it.
	Elapsed() time.Duration
	// Sleep waits, and reports false where ctx ended first.
	Sleep(ctx context.Context, d time.Duration) bool
}

// soakEvery is how often checks are run until they held.
const soakEvery = 2 * time.Second

// Soak runs checks until all of them have held for a time, or some still fail when
// the deadline is over, and returns the last results. Its error is that of ctx.
func Soak(
	ctx context.Context, c Clock, hold, deadline time.Duration, checks func(context.Context) []node.Check,
) ([]node.Check, error) {
	start := c.Elapsed()
	since := start // when all checks began to hold
	for ctx.Err() == nil {
		list := checks(ctx)
		if ctx.Err() != nil { // checks may have failed because of that
			break
		}
		good := FailedChecks(list) == ""
		now := c.Elapsed()
		switch {
		case good && now-since >= hold:
			return list, nil
		case !good && now-start >= deadline:
			return list, nil
		case !good:
			since = now
		}
		if !c.Sleep(ctx, soakEvery) {
			break
		}
	}
	return nil, cmp.Or(ctx.Err(), context.Canceled)
}
