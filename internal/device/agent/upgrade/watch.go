package upgrade

import (
	"context"
	"log/slog"

	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Watch begins to look for new releases: on a channel, where the node
// is told to; without a card, at the boot server.
func Watch(ctx context.Context, log *slog.Logger) error {
	b, err := runfiles.Boot()
	if err != nil {
		return err
	}
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	d, err := runfiles.Defaults()
	if err != nil {
		return err
	}
	if b.Slot == slots.Net {
		s, err := newServed(b, cfg, d, log)
		if err == nil {
			go s.run(ctx)
		}
		return err
	}
	p, err := newPoller(b, cfg, d, log)
	if p != nil && err == nil {
		go p.run(ctx)
	}
	return err
}
