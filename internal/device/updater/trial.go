package updater

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Conclude finds out what this boot means for an upgrade, and does what is to
// be done: it sees a trial through, asks again for one that was not started or
// was cut off, and notes why one was left. It may be called any number of
// times on the same boot.
func (u *Updater) Conclude(ctx context.Context) error {
	s := slots.ReadCard(u.Card).Update
	if s == nil || u.Boot.Slot == slots.Net {
		return nil
	}
	explained := u.explain(s)
	_, verdict := slots.ClassifyBoot(u.Boot.Slot, slots.Default(u.Card, u.Table), u.Boot.Kind == slots.Trial, u.Boot.Digest, s)
	switch verdict {
	case slots.OnTrial:
		err := u.seeThrough(ctx, *s)
		if err == nil || ctx.Err() != nil {
			return err
		}
		u.Log.Error("leaving a trial that cannot go on", "release", s.Release, "err", err)
		s.Step, s.Reason = slots.Left, fmt.Sprintf("the trial could not go on: %v", err)
		return errors.Join(err, u.note(*s), u.Node.Restart(""))
	case slots.NotStarted:
		s.Starts++
		return u.askAgain(ctx, *s, "was not started")
	case slots.Retry:
		s.Cuts, s.Tries, s.Step = s.Cuts+1, 0, slots.Armed
		return u.askAgain(ctx, *s, "was cut off")
	case slots.GaveUp:
		s.Reason = fmt.Sprintf("the trial was asked for %d times, and the firmware or its kernel never got so far", slots.MaxStarts)
	case slots.Cut:
		s.Reason = "the trial was cut off more than once, and nothing says that the release was at fault: its power may have been cut"
	case slots.Failed:
	case slots.Kept:
		s.Step = slots.Finished
		return u.note(*s)
	default:
		return nil
	}
	s.Step = slots.Left
	u.Log.Warn("release was left", "release", s.Release, "reason", s.Reason)
	if err := u.note(*s); err != nil {
		return err
	}
	if text, err := ReadControl(u.Card, u.Table, slots.ReportFile); err == nil && !explained && strings.Contains(string(text), title(*s)) {
		return nil // the trial itself knew more
	}
	return u.Node.Report(u.account(*s, nil))
}

// title is how what a person reads of a release that was left begins.
func title(s slots.Update) string {
	return fmt.Sprintf("Release %s was tried in slot %s, and left.\n", s.Release, s.Slot)
}

// explain adds to the record of a trial that ended without a reason what /init or
// the firmware know of its end, and reports whether they know anything.
func (u *Updater) explain(s *slots.Update) bool {
	if u.Boot.Slot == s.Slot || s.Bad || !s.UnderWay() {
		return false
	}
	if why, failed := slots.Failure(u.Boot.Failed, s.Slot); failed && why != "" {
		s.Step, s.Bad, s.Reason = slots.Tried, true, why
		return true
	}
	if s.Step == slots.Tried && s.Reason == "" && u.Boot.Reset == Watchdog {
		s.Bad, s.Reason = true, "the node was reset in the middle of the trial, and its power was not cut: the kernel "+
			"panicked, the watchdog was not fed, or the card could not be written to"
		return true
	}
	return false
}

// askAgain asks for a trial once more, if the slot is still what was armed, and
// this node is well: what fails here would fail in the trial, and be held against
// the release. A node that was just started is given until the deadline.
func (u *Updater) askAgain(ctx context.Context, s slots.Update, why string) error {
	reason := ""
	if err := u.waitReady(ctx); err != nil {
		reason = err.Error()
	} else if err := u.stillArmed(ctx, s); err != nil {
		reason = fmt.Sprintf("slot %s is not what was armed any more: %v", s.Slot, err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if reason != "" {
		s.Step, s.Reason = slots.Left, fmt.Sprintf("the trial %s, and %s", why, reason)
		u.Log.Warn("release was left", "release", s.Release, "reason", s.Reason)
		return errors.Join(u.note(s), u.Node.Report(u.account(s, nil)))
	}
	u.Log.Warn("asking for the trial again", "release", s.Release, "reason", "the last one "+why)
	if err := u.mendAutoboot(); err != nil {
		return err
	}
	if err := u.note(s); err != nil {
		return err
	}
	return u.Node.Restart(reboot.Tryboot)
}

// waitReady returns when all checks hold on the release that runs, or with what
// still fails at the deadline.
func (u *Updater) waitReady(ctx context.Context) error {
	list, err := Soak(ctx, u.Node, 0, u.Deadline, u.Node.Checks)
	if err != nil {
		return err
	}
	return healthy(list)
}

// stillArmed reports why what a slot holds is not what was armed. Its release
// was accepted when it was; nothing lower can have come there since.
func (u *Updater) stillArmed(ctx context.Context, s slots.Update) error {
	c, err := u.readOther(ctx, s.Slot)
	if err != nil {
		return err
	}
	if err := holds(c, s.Digest); err != nil {
		return err
	}
	return u.Boot.Accept(c, Order{Return: true})
}

// seeThrough is a trial: it is committed when all checks held for the soak,
// and left when they did not before the deadline. The end of ctx is a
// shutdown: nothing is held against the release then.
func (u *Updater) seeThrough(ctx context.Context, s slots.Update) error {
	s.Step, s.Tries = slots.Tried, s.Tries+1
	if err := u.note(s); err != nil {
		return err
	}
	if s.Tries > slots.MaxTries {
		s.Bad, s.Reason = true, fmt.Sprintf("pikeletd ended %d times in the middle of the trial", slots.MaxTries)
		return u.leave(s, nil)
	}
	list, err := Soak(ctx, u.Node, u.Soak, u.Deadline, func(ctx context.Context) []node.Check {
		u.Node.Alive()
		return u.Node.Checks(ctx)
	})
	if err != nil {
		s.Step, s.Reason = slots.Left, "the node was restarted or shut down in the middle of the trial"
		return errors.Join(err, u.note(s))
	}
	switch failed := FailedChecks(list); {
	case failed != "":
		s.Bad = !outside(list)
		s.Reason = fmt.Sprintf("after %s: %s", u.Deadline, failed)
		if !s.Bad {
			s.Reason += "; the cause lies outside this node, and is not held against the release"
		}
		return u.leave(s, list)
	case s.Drill:
		s.Reason = fmt.Sprintf("this was a drill: all checks held for %s", u.Soak)
		return u.leave(s, list)
	}
	return u.commit(s)
}

// commit makes the slot that runs the default.
func (u *Updater) commit(s slots.Update) error {
	if err := Commit(u.Card, u.Table, u.Boot.Slot); err != nil {
		return err
	}
	s.Step = slots.Finished
	u.Log.Info("release is committed: all checks held", "release", s.Release, "soak", u.Soak)
	// Nothing that fails from here on makes it a trial again: the next boot
	// notes what could not be noted now.
	if err := errors.Join(u.note(s), u.Node.Committed()); err != nil {
		u.Log.Error("recording a commit", "release", s.Release, "err", err)
	}
	return nil
}

// leave ends a trial that is not kept. What is known of it is kept first.
func (u *Updater) leave(s slots.Update, list []node.Check) error {
	if !s.Bad {
		s.Step = slots.Left // the old slot has nothing to find out
	}
	err := u.note(s)
	if s.Tries <= slots.MaxTries+1 { // beyond that, this is where pikeletd ended
		err = errors.Join(err, u.Node.Report(u.account(s, list)))
	}
	if err != nil {
		u.Log.Error("recording why a release is left", "release", s.Release, "err", err)
	}
	switch {
	case s.Drill && !s.Bad:
		u.Log.Info("going back", "release", s.Release, "reason", s.Reason)
	default:
		u.Log.Error("leaving an unhealthy release", "release", s.Release, "reason", s.Reason)
	}
	return u.Node.Restart("")
}

// account is what a person reads of a release that was left.
func (u *Updater) account(s slots.Update, list []node.Check) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n\ndigest %s\n", title(s), s.Reason, s.Digest)
	if s.Bad {
		b.WriteString("This release failed here, and is refused until an upgrade asks for it again.\n")
	}
	if len(list) > 0 {
		b.WriteString("\nThe checks:\n")
	}
	for _, c := range list {
		c.Says = oneLine(c.Says)
		fmt.Fprintln(&b, c)
	}
	if log := u.Node.LastLog(); log != "" {
		fmt.Fprintf(&b, "\nThe last lines logged:\n%s\n", log)
	}
	return b.String()
}

// FailedChecks lists checks that fail, on one line; "" where all hold.
func FailedChecks(list []node.Check) string {
	var failed []string
	for _, c := range list {
		if !c.OK {
			failed = append(failed, c.Name+": "+oneLine(c.Says))
		}
	}
	return strings.Join(failed, "; ")
}

// outside reports whether every check that fails does so for a reason outside the
// node.
func outside(list []node.Check) bool {
	for _, c := range list {
		if !c.OK && !c.Outside {
			return false
		}
	}
	return true
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
