package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/console"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Requested carries out what rollouts ask this node for.
type Requested struct{ Log *slog.Logger }

// Self returns what this node knows of itself, and the image that it runs.
func (Requested) Self() (rollout.Self, rollout.Image, error) {
	b, err := runfiles.Boot()
	if err != nil {
		return rollout.Self{}, rollout.Image{}, err
	}
	running := rollout.Image{Stream: b.Stream, Release: b.Release, Digest: b.Signed, Trial: b.Kind == slots.Trial}
	return rollout.Self{Digest: b.Signed, Kind: b.Kind, Update: card.LastUpdate(b.Disk)}, running, nil
}

// holder does not wait: a rollout asks again.
func (q Requested) holder(r rollout.Request) holder {
	return holder{"rollout of " + r.Image, 0, io.Discard, q.Log}
}

// Bring writes the image that a request names to the other slot. The errors are
// those of updater's policy, of the registry and of the card.
func (q Requested) Bring(ctx context.Context, r rollout.Request) error {
	return withUpdater(ctx, q.holder(r), func(ctx context.Context, u *updater.Updater) error {
		_, _, err := q.bring(ctx, u, r)
		return err
	})
}

// bring returns the digest of what was written, and the channel whose statements
// count.
func (q Requested) bring(ctx context.Context, u *updater.Updater, r rollout.Request) (digest, channel string, err error) {
	if err := u.MayStart(r.Digest, r.Again); err != nil {
		return "", "", err
	}
	cfg, err := runfiles.Config()
	if err != nil {
		return "", "", err
	}
	d, err := runfiles.Defaults()
	if err != nil {
		return "", "", err
	}
	options, err := registryOptions(cfg, r.Image, cfg.Upgrades.PlainHTTP)
	if err != nil {
		return "", "", err
	}
	img, channel, err := find(ctx, u, r.Image, followed(cfg, d), options)
	if img != nil {
		err = cmp.Or(names(r, img.Digest), err)
	}
	if err != nil {
		return "", "", err
	}
	written, err := bring(ctx, u, img, r.Again, false, console.Prefixed())
	return written.Digest, channel, err
}

// errIndex is returned for a request by the digest of an index. The node would never
// be seen to run that: what it runs, and reports, is the image's manifest.
var errIndex = errors.New("the digest is that of an index, want that of the image's manifest")

// names reports errIndex where a request led to an image with another digest.
func names(r rollout.Request, digest string) error {
	if r.Digest == digest {
		return nil
	}
	return fmt.Errorf("%w: write image: %s@%s", errIndex, strings.TrimSuffix(r.Image, "@"+r.Digest), digest)
}

// Apply brings the image, of which nothing is written twice, and restarts into its
// trial, if mayRestart returns no error.
func (q Requested) Apply(ctx context.Context, r rollout.Request, mayRestart func(context.Context) error) error {
	return withUpdater(ctx, q.holder(r), func(ctx context.Context, u *updater.Updater) error {
		digest, channel, err := q.bring(ctx, u, r)
		if err != nil {
			return err
		}
		if err := mayRestart(ctx); err != nil {
			return err
		}
		return arm(ctx, u, updater.Order{Digest: digest, Channel: channel, Again: r.Again}, "", io.Discard, q.Log)
	})
}

// refusals are the errors that another attempt does not mend.
var refusals = []error{
	errIndex, image.ErrSignature,
	updater.ErrNoCard, updater.ErrFailedHere, updater.ErrFirmware, updater.ErrStream, updater.ErrMachine, updater.ErrOlder,
	skew.ErrKubeletNewer, skew.ErrKubeletOlder, skew.ErrServersApart, skew.ErrStep,
}

// Refused reports whether an error says that this node does not take the image.
func (Requested) Refused(err error) bool {
	for _, refusal := range refusals {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}
