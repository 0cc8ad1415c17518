// Package upgrade finds images for this node, brings them onto the other slot and
// tries them, when it is asked to and when a channel has a new one.
package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/device/agent/card"
	"github.com/pikelet-os/pikelet/internal/device/agent/console"
	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/machine"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// arch is what this program runs on, as OCI names it.
const arch = "arm64"

// Options of an upgrade, beside the image.
type Options struct {
	PlainHTTP bool // speak HTTP without TLS to the registry
	Again     bool // take a release that failed on this node before
	Drill     bool // come back from the trial, however well it went
	DryRun    bool // only say how the image would come here
}

// To brings the image that ref names onto the other slot, arms it, and restarts
// into its trial. What refuses does so before anything is written, with an error
// of updater's policy. The end of ctx ends an upgrade that is not armed yet.
func To(ctx context.Context, ref string, o Options, out io.Writer, log *slog.Logger) error {
	h := holder{"upgrade to " + ref, lockPatience, out, log}
	return withUpdater(ctx, h, func(ctx context.Context, u *updater.Updater) error {
		return upgradeTo(ctx, u, ref, o, out, log)
	})
}

// upgradeTo upgrades to the image that a reference names.
func upgradeTo(ctx context.Context, u *updater.Updater, ref string, o Options, out io.Writer, log *slog.Logger) error {
	if err := u.MayStart("", o.Again); err != nil {
		return err // before the registry is asked for anything
	}
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	d, err := runfiles.Defaults()
	if err != nil {
		return err
	}
	options, err := registryOptions(cfg, ref, o.PlainHTTP)
	if err != nil {
		return err
	}
	img, channel, err := find(ctx, u, ref, followed(cfg, d), options)
	if errors.Is(err, updater.ErrRuns) {
		fmt.Fprintf(out, "release %s is what this node runs\n", img.Release)
		return nil
	}
	if err != nil {
		return err
	}
	written, err := bring(ctx, u, img, o.Again, o.DryRun, out)
	if err != nil || o.DryRun {
		return err
	}
	order := updater.Order{Digest: written.Digest, Channel: channel, Again: o.Again, Drill: o.Drill}
	return arm(ctx, u, order, img.Release, out, log)
}

// bring writes an image onto the other slot by the cheapest strategy that works,
// or, on a dry run, only prints the strategies.
func bring(ctx context.Context, u *updater.Updater, published *registry.Published, again, dry bool, out io.Writer) (image.Image, error) {
	ctx, stop := context.WithTimeout(ctx, bringTime(published.Manifest))
	defer stop()
	img := published.Image
	if err := u.MayStart(img.Digest, again); err != nil {
		return img, err
	}
	if err := firmwareCanTry(u, out); err != nil {
		return img, err
	}
	log := slog.New(console.NewHandler(out, ""))
	fmt.Fprintf(out, "%s %s is good, and goes to slot %s\n", published.Stream, published.Release, u.Boot.Slot.Other())
	strategies := u.Strategies(ctx, sourceOf(ctx, published, u.Boot, log), log)
	fmt.Fprintln(out, describe(strategies[0], published))
	if dry {
		for _, s := range strategies[1:] {
			if err := s.Plan(ctx); err != nil {
				fmt.Fprintf(out, "not by %s: %v\n", s.Name, err)
				continue
			}
			fmt.Fprintln(out, "else "+describe(s, published))
		}
		return img, nil
	}
	defer sparing()()
	w, err := u.BringBy(ctx, strategies, log)
	if err != nil {
		return img, err
	}
	fmt.Fprintf(out, "%.1f MB were written, %.1f MB were there already; all of it reads back as it should\n",
		float64(w.Bytes)/1e6, float64(w.Same)/1e6)
	return img, nil
}

// firmwareCanTry reports why this machine's firmware does not start trials
// (updater.ErrFirmware).
func firmwareCanTry(u *updater.Updater, out io.Writer) error {
	f := boards.Firmware{Built: machine.Firmware().Bootloader}
	if at, size, err := slots.ControlFile(u.Card, u.Table, slots.BootcodeFile); err == nil && size <= card.MaxControl {
		f.Bootcode = make([]byte, size)
		if _, err := u.Card.ReadAt(f.Bootcode, at); err != nil {
			f.Bootcode = nil
		}
	}
	warning, err := updater.FirmwareCanTry(u.Boot.Board, f)
	if warning != "" {
		fmt.Fprintf(out, "note: %s\n", warning)
	}
	return hint.With(err, firmwareHint(u.Boot.Board))
}

// firmwareHint returns how the firmware of a board is renewed.
func firmwareHint(board string) string {
	if b, err := boards.Find(board); err == nil && b.Bootcode {
		return "put the card into a card reader, and run pikelet flash --repair-control DEVICE there"
	}
	return "run rpi-eeprom-update -a on Raspberry Pi OS, or start the bootloader card of Raspberry Pi Imager"
}

// arm restarts into a trial. Where that fails, k3s runs on: it was stopped for
// a copy of its datastore.
func arm(ctx context.Context, u *updater.Updater, o updater.Order, release string, out io.Writer, log *slog.Logger) error {
	if err := firmwareCanTry(u, io.Discard); err != nil {
		return err
	}
	if err := u.Arm(ctx, o); err != nil {
		k3s.Start(log)
		return err
	}
	fmt.Fprintln(out, node.Restarting(release))
	return nil
}

// Rollback restarts into a trial of what the other slot holds, as it is there.
func Rollback(ctx context.Context, o Options, out io.Writer, log *slog.Logger) error {
	return withUpdater(ctx, holder{"rollback", lockPatience, out, log}, func(ctx context.Context, u *updater.Updater) error {
		other := u.Boot.Slot.Other()
		c, err := updater.ReadSlot(ctx, u.Card, u.Table, other, u.Boot.Keys)
		if err != nil {
			return fmt.Errorf("reading slot %q, which is to be gone back to: %w", other, err)
		}
		if err := firmwareCanTry(u, out); err != nil {
			return err
		}
		fmt.Fprintf(out, "slot %s holds %s %s, whole and signed\n", other, c.Stream, c.Release)
		return arm(ctx, u, updater.Order{Digest: c.Digest, Return: true, Again: o.Again, Drill: o.Drill}, c.Release, out, log)
	})
}

// withUpdater runs do with the card open, while no other process upgrades.
func withUpdater(ctx context.Context, h holder, do func(context.Context, *updater.Updater) error) error {
	unlock, err := h.lock(ctx, upgradeLock)
	if err != nil {
		return err
	}
	defer unlock()
	return withCard(ctx, h.log, do)
}

// withCard runs do with the card open, for what changes nothing of it.
func withCard(ctx context.Context, log *slog.Logger, do func(context.Context, *updater.Updater) error) error {
	b, err := runfiles.Boot()
	if err != nil {
		return err
	}
	if b.Slot == slots.Net {
		return updater.ErrNoCard
	}
	u, done, err := newUpdater(b, log)
	if err != nil {
		return err
	}
	defer done()
	return do(ctx, u)
}

// How long a registry may take in all: each request has its own bound, and there
// may be many of them. The upgrade lock is held meanwhile.
const (
	findTime  = 10 * time.Minute
	bringBase = time.Hour
	bringRate = 32 << 10 // bytes a second, from then on
)

// bringTime returns how long bringing an image may take.
func bringTime(m *image.Manifest) time.Duration {
	all := int64(0)
	for _, f := range m.Files {
		all += f.Size
	}
	return bringBase + time.Duration(all/bringRate)*time.Second
}

// findImage finds the image that a reference names, and refuses what this node
// does not run. It returns the channel that was asked for too: the reference's
// own, or the one that this node follows. For the image that runs the error is
// updater.ErrRuns.
func findImage(ctx context.Context, ref, follows string, o registry.Options, b updater.Boot) (*registry.Published, string, error) {
	finding, stop := context.WithTimeout(ctx, findTime)
	defer stop()
	place, tag, err := registry.Locate(ref, o)
	if err != nil {
		return nil, "", err
	}
	img, err := registry.Open(finding, place, tag, registry.Want{Keys: b.Keys, Arch: b.Arch, Stream: b.Stream})
	if err != nil {
		return nil, "", err
	}
	channel := channelOf(tag, follows)
	c := updater.Candidate{Manifest: img.Manifest, Digest: img.Digest, Signatures: img.Signature.Signatures}
	return img, channel, b.Accept(c, updater.Order{Channel: channel})
}

// find is findImage, and refuses what does not go with the cluster of this node
// (updater.ErrSkew): before anything is written.
func find(ctx context.Context, u *updater.Updater, ref, follows string, o registry.Options) (*registry.Published, string, error) {
	img, channel, err := findImage(ctx, ref, follows, o, u.Boot)
	if err != nil {
		return img, channel, err
	}
	return img, channel, u.MayRun(ctx, updater.Candidate{Manifest: img.Manifest, Digest: img.Digest})
}

// followed returns the reference of the channel that this node follows; "" for
// none.
func followed(cfg *nodeconfig.Config, d node.Defaults) string {
	return cmp.Or(cfg.Upgrades.Channel, d.Channel)
}

// channelOf returns the channel whose statements count for what was asked for.
// The tag of a channel is that channel; a release, a digest, a directory and an
// archive are of none, and what counts is the channel that this node follows.
func channelOf(tag, follows string) string {
	if registry.IsChannel(tag) {
		return tag
	}
	_, name, _ := strings.Cut(follows[strings.LastIndex(follows, "/")+1:], ":")
	if !registry.IsChannel(name) {
		return ""
	}
	return name
}
