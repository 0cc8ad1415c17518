package upgrade

import (
	"context"
	"log/slog"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Conclude finds out what this boot means for an upgrade, and does what
// is to be done about it.
func Conclude(ctx context.Context, log *slog.Logger) error {
	b, err := runfiles.Boot()
	if err != nil || b.Slot == slots.Net {
		return err
	}
	u, done, err := newUpdater(b, log)
	if err != nil {
		return err
	}
	defer done()
	return u.Conclude(ctx)
}
