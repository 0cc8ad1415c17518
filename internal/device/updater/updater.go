package updater

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Boot is what is known of the boot that runs.
type Boot struct {
	Slot    slots.Letter
	Kind    slots.Kind
	Digest  string             // of the OCI manifest whose signature was good
	Keys    []*ecdsa.PublicKey // what the running image trusts
	Stream  string             // of the running image
	Release string             // of the running image
	Arch    string             // of this machine, as OCI says it
	Board   string             // of this machine; "" where it is not known
	Failed  string             // what /init recorded of slots that it gave up, a line each
	Reset   Reset
}

// Reset is how the boot that runs came to be.
type Reset string

// The resets a firmware tells apart.
const (
	Unknown  Reset = ""         // the firmware does not say
	PowerOn  Reset = "power on" // there was no power before
	Watchdog Reset = "watchdog" // by the watchdog, which is also how a Pi's kernel restarts it
)

// Node is the machine that is upgraded.
type Node interface {
	// Checks runs all checks, whatever the first of them says. Those that the end
	// of ctx cuts off fail.
	Checks(ctx context.Context) []node.Check
	// Cluster returns the versions of Kubernetes that concern this node; nil where
	// it has no part in a cluster.
	Cluster(ctx context.Context) (*skew.Cluster, error)
	// Restart restarts in an orderly way, with a word for the firmware.
	Restart(argument string) error
	// LastLog returns the last lines of the logs of kernel and services.
	LastLog() string
	// Report keeps a text where people find it: in report.txt and on state.
	Report(text string) error
	// BeforeArming is the last moment of the old release before the node
	// restarts; what fails here is not armed.
	BeforeArming(slots.Update) error
	// Alive tells whoever guards a trial that it goes on; Committed that there
	// is none any more, and the rest of the node with it.
	Alive()
	Committed() error
	Clock
}

// Updater upgrades a node.
type Updater struct {
	Card  medium.Medium
	Table disk.Table
	Boot  Boot
	Node  Node
	Log   *slog.Logger
	// Soak is how long all checks must hold, Deadline when a trial that has not
	// got there is left.
	Soak, Deadline time.Duration

	// info reads what an initramfs says of its image; nil is readInfo. Tests
	// have images without a real one.
	info func(initramfs io.Reader) (cmdline.Info, error)
}

// note records the state of an upgrade, and returns when that is on the card.
func (u *Updater) note(s slots.Update) error {
	s.Reason = s.Reason[:min(len(s.Reason), slots.MaxReason)]
	// The place that is written next is the older one only if the card has the
	// newer one; and what is armed was flushed, whoever wrote it.
	if err := Settle(u.Card); err != nil {
		return fmt.Errorf("recording the state of the upgrade: %w", err)
	}
	if err := slots.ChangeCard(u.Card, func(c *slots.Card) { c.Update = &s }); err != nil {
		return fmt.Errorf("recording the state of the upgrade: %w", err)
	}
	if err := Settle(u.Card); err != nil {
		return fmt.Errorf("recording the state of the upgrade: %w", err)
	}
	return nil
}

// MayStart reports why an upgrade to the image with a digest cannot start now:
// ErrNoCard, ErrInTrial, ErrUnderWay or ErrFailedHere. With again a release that
// failed on this node may be tried once more. The digest "" stands for an image
// that is not known yet.
func (u *Updater) MayStart(digest string, again bool) error {
	return mayStart(u.Boot, slots.ReadCard(u.Card).Update, digest, again)
}

// Ready reports ErrUnhealthy where a check fails on the release that runs.
func (u *Updater) Ready(ctx context.Context) error {
	list := u.Node.Checks(ctx)
	if err := ctx.Err(); err != nil {
		return err
	}
	return healthy(list)
}

// MayRun reports ErrSkew where the Kubernetes that an image brings does not go with
// the cluster that this node has a part in. Each change of the servers changes the
// answer.
func (u *Updater) MayRun(ctx context.Context, c Candidate) error {
	if c.Kubernetes == "" {
		return nil
	}
	cluster, err := u.Node.Cluster(ctx)
	return MayRun(c.Release, c.Kubernetes, cluster, err)
}

// Bring writes an image onto the other slot. The old release's own checks come
// first (ErrUnhealthy): what fails there would fail in the trial too.
func (u *Updater) Bring(ctx context.Context, img image.Image) (Written, error) {
	if err := u.Ready(ctx); err != nil {
		return Written{}, err
	}
	p, err := u.Table.Partition(u.Boot.Slot.Other().Partition())
	if err != nil {
		return Written{}, err
	}
	if err := u.mendAutoboot(); err != nil {
		return Written{}, err
	}
	return WriteSlot(ctx, u.Card, img, u.Boot.Slot.Other(), p)
}

// mendAutoboot has autoboot.txt name the slot that runs as the default and the
// other one for trials. It may not: in a rescue; and after a power cut in the
// middle of a commit, which may leave both names the same.
func (u *Updater) mendAutoboot() error {
	text, err := ReadControl(u.Card, u.Table, slots.AutobootFile)
	if err != nil {
		return fmt.Errorf("reading %q: %w", slots.AutobootFile, err)
	}
	if bytes.Equal(text, slots.EncodeAutoboot(u.Boot.Slot)) {
		return nil
	}
	return Commit(u.Card, u.Table, u.Boot.Slot)
}

// Order is what is asked of an upgrade, beside bringing an image.
type Order struct {
	Digest  string // of the OCI manifest that the other slot must hold; "" takes what it holds
	Channel string // the channel whose statement may lead to a lower release; "" is none
	Return  bool   // take what the other slot holds, whichever release that is
	Again   bool   // take a release that failed on this node before
	Drill   bool   // come back from the trial, however well it went
}

// Arm has the next boot be the trial of the other slot, and restarts into it.
// Hours may lie between bringing an image and this, so that every check is made
// here: nothing is armed that is not whole, signed by a key of the running image
// and by one of its own, and acceptable to this node, which must be well. What is
// refused is one of the errors of policy.go.
func (u *Updater) Arm(ctx context.Context, o Order) error {
	slot := u.Boot.Slot.Other()
	c, err := u.mayArm(ctx, slot, o)
	if err != nil {
		return fmt.Errorf("arming slot %q: %w", slot, err)
	}
	s := slots.Update{Step: slots.Armed, Slot: slot, Digest: c.Digest, Release: c.Release, Drill: o.Drill}
	if err := u.mendAutoboot(); err != nil {
		return fmt.Errorf("arming slot %q: %w", s.Slot, err)
	}
	if err := u.Node.BeforeArming(s); err != nil {
		return fmt.Errorf("arming slot %q: %w", s.Slot, err)
	}
	if err := u.note(s); err != nil {
		return err
	}
	u.Log.Info("restarting into the trial", "release", s.Release)
	return u.Node.Restart(reboot.Tryboot)
}

// mayArm returns the image in a slot, or why it may not be armed. What the slot
// holds comes first; the checks of the node come last, when all that takes long
// is over.
func (u *Updater) mayArm(ctx context.Context, slot slots.Letter, o Order) (Candidate, error) {
	c, err := u.readOther(ctx, slot)
	if err != nil {
		return c, err
	}
	if err := holds(c, o.Digest); err != nil {
		return c, err
	}
	if err := u.MayStart(c.Digest, o.Again); err != nil {
		return c, err
	}
	if err := u.Boot.Accept(c, o); err != nil {
		return c, err
	}
	if err := u.MayRun(ctx, c); err != nil {
		return c, err
	}
	return c, u.Ready(ctx)
}
