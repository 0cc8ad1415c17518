package updater

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"fmt"
	"time"

	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/medium"
	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/reboot"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// Boot is what is known of the boot that runs.
type Boot struct {
	Slot   slots.Letter
	Kind   slots.Kind
	Digest string             // of the OCI manifest whose signature was good
	Keys   []*ecdsa.PublicKey // what the running image trusts
	Failed string             // what /init wrote down of slots that it gave up, a line each
	Reset  Reset
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
	// Checks runs all checks, whatever the first of them says.
	Checks() []node.Check
	// Restart restarts in an orderly way, with a word for the firmware.
	Restart(argument string) error
	// Tell says something on the console.
	Tell(text string)
	// Log returns the last lines of what was logged.
	Log() string
	// Report keeps a text where people find it: in report.txt and on state.
	Report(text string) error
	// BeforeArming is the last moment of the old release before the node
	// restarts; what fails here is not armed.
	BeforeArming(slots.Update) error
	// Alive tells whoever guards a trial that it goes on; Committed that there
	// is none any more, and the rest of the node with it.
	Alive()
	Committed() error
	// Elapsed is a clock that nobody sets.
	Elapsed() time.Duration
	Sleep(time.Duration)
}

// Updater upgrades a node.
type Updater struct {
	Card  medium.Medium
	Table disk.Table
	Boot  Boot
	Node  Node
	// Soak is how long all checks must hold, Deadline when a trial that has not
	// got there is left.
	Soak, Deadline time.Duration
}

// checkEvery is how often a trial runs its checks.
const checkEvery = 2 * time.Second

// note writes down how far an upgrade is, and returns when that is on the
// card.
func (u *Updater) note(s slots.Update) error {
	s.Reason = s.Reason[:min(len(s.Reason), slots.MaxReason)]
	if err := slots.ChangeCard(u.Card, func(c *slots.Card) { c.Update = &s }); err != nil {
		return fmt.Errorf("writing down how far the upgrade is: %w", err)
	}
	if err := u.Card.Flush(); err != nil {
		return fmt.Errorf("writing down how far the upgrade is: %w", err)
	}
	return nil
}

func (u *Updater) tell(format string, args ...any) { u.Node.Tell(fmt.Sprintf(format, args...)) }

// MayStart says why this is not the moment for an upgrade, or that an image
// failed on this node before. again takes it all the same.
func (u *Updater) MayStart(img slots.Image, again bool) error {
	record := slots.ReadCard(u.Card).Update
	switch {
	case u.Boot.Slot == slots.Net:
		return fmt.Errorf("this node has no card; it takes another image when it is started with one")
	case u.Boot.Kind == slots.Trial:
		return fmt.Errorf("this boot is a trial; wait until it is committed or left")
	case record == nil:
		return nil
	case record.UnderWay():
		return fmt.Errorf("release %s is being tried", record.Release)
	case record.Step == slots.Left && record.Bad && record.Digest == img.Digest && !again:
		return fmt.Errorf("release %s failed on this node before: %s; say --again to try it all the same", record.Release, record.Reason)
	}
	return nil
}

// Ready says what would fail a trial on the release that runs already.
func (u *Updater) Ready() error {
	if failed := FailedChecks(u.Node.Checks()); failed != "" {
		return fmt.Errorf("this node is not well, and would not be with another release: %s", failed)
	}
	return nil
}

// Bring writes an image onto the other slot. What the old release's own
// checks say comes first: what fails there would fail in the trial too.
func (u *Updater) Bring(ctx context.Context, img slots.Image) (Written, error) {
	if err := u.Ready(); err != nil {
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
		return fmt.Errorf("reading %s: %w", slots.AutobootFile, err)
	}
	if bytes.Equal(text, slots.EncodeAutoboot(u.Boot.Slot)) {
		return nil
	}
	return Commit(u.Card, u.Table, u.Boot.Slot)
}

// Arm has the next boot be the trial of the other slot, and restarts into it.
// It reads the slot first: nothing is armed that is not whole, signed by a key
// of the running image, and the image that was asked for.
func (u *Updater) Arm(ctx context.Context, s slots.Update) error {
	s.Step, s.Slot = slots.Armed, u.Boot.Slot.Other()
	m, digest, err := ReadSlot(ctx, u.Card, u.Table, s.Slot, u.Boot.Keys)
	if err != nil {
		return fmt.Errorf("slot %s is not armed: %w", s.Slot, err)
	}
	if s.Digest != "" && s.Digest != digest {
		return fmt.Errorf("slot %s is not armed: it holds %s, not %s", s.Slot, digest, s.Digest)
	}
	s.Digest, s.Release = digest, m.Release
	if err := u.mendAutoboot(); err != nil {
		return fmt.Errorf("slot %s is not armed: %w", s.Slot, err)
	}
	if err := u.Node.BeforeArming(s); err != nil {
		return fmt.Errorf("slot %s is not armed: %w", s.Slot, err)
	}
	if err := u.note(s); err != nil {
		return err
	}
	u.tell("%s%s", node.Restarting, s.Release)
	return u.Node.Restart(reboot.Tryboot)
}
