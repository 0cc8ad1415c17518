package upgrade

import (
	"context"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Conclude finds out what this boot means for an upgrade, and does what
// is to be done about it.
func Conclude(ctx context.Context) error {
	b, err := runfiles.Boot()
	if err != nil || b.Slot == slots.Net {
		return err
	}
	u, done, err := newUpdater(b)
	if err != nil {
		return err
	}
	defer done()
	return u.Conclude(ctx)
}
