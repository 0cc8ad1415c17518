package upgrade

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/device/agent/console"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// poller watches a channel: what is new there is fetched and written at once,
// and tried when the window is open.
type poller struct {
	every  time.Duration
	window *nodeconfig.Window // nil: any time

	// look returns the digest of what the channel names and this node should
	// run; "" for nothing. bring writes it to the other slot, apply restarts into
	// its trial.
	look  func(context.Context) (string, error)
	bring func(context.Context) (digest string, err error)
	apply func(ctx context.Context, digest string) error

	clock clock.Clock
	log   *slog.Logger
}

// windowStep is how often a closed window is looked at again.
const windowStep = time.Minute

// run watches until the node restarts. The first look is at some moment of the
// first interval: nodes that start together do not ask together.
func (p *poller) run(ctx context.Context) {
	wait := time.Duration(p.clock.Random() * float64(p.every))
	logged := "" // the last error
	for p.clock.Sleep(ctx, wait) {
		done, err := p.once(ctx)
		if done {
			return
		}
		switch {
		case err == nil:
			logged = ""
		case err.Error() != logged:
			logged = err.Error()
			p.log.Warn("looking for new releases", "err", err)
		}
		wait = time.Duration((0.9 + 0.2*p.clock.Random()) * float64(p.every))
	}
}

// once looks, brings what is new, and applies it when it may. It is done when
// the node restarts; after an error of any kind the next look tries again.
func (p *poller) once(ctx context.Context) (done bool, err error) {
	for brought := ""; ; {
		digest, err := p.look(ctx)
		if err != nil || digest == "" {
			return false, err
		}
		if digest != brought { // the channel may have moved while the window was closed
			if brought, err = p.bring(ctx); err != nil {
				return false, err
			}
		}
		if p.window == nil || p.clock.Synchronised() && p.window.Contains(p.clock.Now()) {
			err := p.apply(ctx, brought)
			return err == nil, err // what keeps it from restarting now may be gone at the next look
		}
		for !p.clock.Synchronised() || !p.window.Contains(p.clock.Now()) {
			if !p.clock.Sleep(ctx, windowStep) {
				return false, ctx.Err()
			}
		}
	}
}

// newPoller returns the poller of this node's channel; nil where the node config
// asks for none, and on boots that do not upgrade.
func newPoller(b node.Boot, cfg *nodeconfig.Config, d node.Defaults, log *slog.Logger) (*poller, error) {
	channel := followed(cfg, d)
	every := time.Duration(cfg.Upgrades.Poll)
	if every == 0 || b.Slot == slots.Net || b.Kind != slots.Committed {
		return nil, nil
	}
	if channel == "" {
		return nil, errors.New("upgrades.poll is set, and neither the node config nor the image names a channel")
	}
	p := &poller{every: every, clock: clock.New(), log: log}
	if cfg.Upgrades.Window != "" {
		w, err := nodeconfig.ParseWindow(cfg.Upgrades.Window)
		if err != nil {
			return nil, err
		}
		p.window = &w
	}
	f := follower{channel, cfg, log}
	p.look, p.bring, p.apply = f.look, f.bring, f.apply
	return p, nil
}

// follower is what a poller does on a node.
type follower struct {
	channel string
	cfg     *nodeconfig.Config
	log     *slog.Logger
}

// holder is the follower, as others meet it. It does not wait: it comes again.
func (f follower) holder() holder { return holder{"following " + f.channel, 0, io.Discard, f.log} }

func (f follower) find(ctx context.Context, u *updater.Updater) (*registry.Published, error) {
	// Files that it names may come and go, so they are read each time.
	o, err := registryOptions(f.cfg, f.channel, f.cfg.Upgrades.PlainHTTP)
	if err != nil {
		return nil, err
	}
	img, _, err := find(ctx, u, f.channel, f.channel, o)
	return img, err
}

// look returns the digest of what the channel names, "" where that is nothing
// for this node: it runs already, or was left here before. What was left is not
// tried again until somebody asks for it, or the channel moves on.
func (f follower) look(ctx context.Context) (digest string, err error) {
	err = withCard(ctx, f.log, func(ctx context.Context, u *updater.Updater) error {
		img, err := f.find(ctx, u)
		if errors.Is(err, updater.ErrRuns) {
			return nil
		}
		if err != nil {
			return err
		}
		if r := slots.ReadCard(u.Card).Update; r == nil || r.Step != slots.Left || r.Digest != img.Digest {
			digest = img.Digest
		}
		return nil
	})
	return digest, err
}

// bring writes what the channel names onto the other slot.
func (f follower) bring(ctx context.Context) (digest string, err error) {
	err = withUpdater(ctx, f.holder(), func(ctx context.Context, u *updater.Updater) error {
		img, err := f.find(ctx, u)
		if err != nil {
			return err
		}
		f.log.Info("fetching a new release", "release", img.Release, "channel", f.channel)
		image, err := bring(ctx, u, img, false, false, console.Prefixed())
		digest = image.Digest
		return err
	})
	return digest, err
}

// apply restarts into what was brought.
func (f follower) apply(ctx context.Context, digest string) error {
	return withUpdater(ctx, f.holder(), func(ctx context.Context, u *updater.Updater) error {
		return arm(ctx, u, updater.Order{Digest: digest, Channel: channelOf("", f.channel)}, "", io.Discard, f.log)
	})
}
