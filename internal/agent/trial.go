package agent

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/agent/updater"
	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/reboot"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// checkEvery is how often a trial runs its checks.
const checkEvery = 2 * time.Second

// concludeUpgrade finds out what this boot means for an upgrade, and does what
// is to be done: it sees a trial through, asks again for one that was not
// started, and notes why one was left.
func concludeUpgrade() error {
	b, err := readBoot()
	if err != nil || b.Slot == slots.Net {
		return err
	}
	c, err := openCard(b.Disk)
	if err != nil {
		return err
	}
	defer c.f.Close()
	u := slots.ReadCard(c.f).Update
	if u == nil {
		return nil
	}
	if why := initSaid(b.Failed, u.Slot); why != "" && u.Step == slots.Armed && b.Slot != u.Slot {
		u.Step, u.Bad, u.Reason = slots.Tried, true, why // /init of the trial got so far
	}
	text, err := c.readControl(slots.AutobootFile)
	if err != nil {
		return err
	}
	def, err := slots.DecodeAutoboot(text)
	if err != nil {
		def = ""
	}
	_, verdict := slots.Judge(b.Slot, def, b.Kind == slots.Trial, b.Signed, u)
	switch verdict {
	case slots.OnTrial:
		if err := seeThrough(c, b, *u); err != nil {
			tell("the trial of release %s cannot be seen through, and is left: %v", u.Release, err)
			return errors.Join(err, askReboot(""))
		}
		return nil
	case slots.NotStarted:
		u.Starts++
		tell("the trial of release %s was not started; asking for it again", u.Release)
		if err := c.note(*u); err != nil {
			return err
		}
		return askReboot(reboot.Tryboot)
	case slots.GaveUp:
		u.Step, u.Reason = slots.Left, fmt.Sprintf("the trial was asked for %d times, and the firmware or its kernel never got so far", slots.MaxStarts)
	case slots.Failed:
		u.Step = slots.Left
	case slots.Cut:
		u.Step, u.Reason = slots.Left, "the trial ended without a word: its power was cut, or something reset the node"
	case slots.Kept:
		u.Step = slots.Finished
	default:
		return nil
	}
	if u.Step == slots.Left {
		tell("release %s was left: %s", u.Release, u.Reason)
	}
	return c.note(*u)
}

// initSaid returns what /init wrote down of a slot that it gave up.
func initSaid(failed string, l slots.Letter) string {
	for _, line := range strings.Split(failed, "\n") {
		if why, ok := strings.CutPrefix(line, "slot "+string(l)+": "); ok {
			return why
		}
	}
	return ""
}

// seeThrough is a trial: it is committed when all checks held for the soak,
// and left when they did not before the deadline.
func seeThrough(c *card, b node.Boot, u slots.Update) error {
	u.Step = slots.Tried
	if err := c.note(u); err != nil {
		return err
	}
	d, err := readDefaults()
	if err != nil {
		return err
	}
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	start, since := time.Now(), time.Now()
	for ; ; time.Sleep(checkEvery) {
		failed := failedChecks(runChecks(cfg))
		switch {
		case failed == "" && time.Since(since) >= d.Soak:
			if err := updater.Commit(cardMedium{c.f}, c.table, b.Slot); err != nil {
				return err
			}
			u.Step = slots.Finished
			tell("release %s is committed: all checks held for %s", u.Release, d.Soak)
			// Nothing that fails from here on makes it a trial again: the next boot
			// notes what could not be noted now.
			if err := errors.Join(c.note(u), nowCommitted(b)); err != nil {
				tell("release %s is committed, and not all of the node knows: %v", u.Release, err)
			}
			return nil
		case failed != "" && time.Since(start) >= d.Deadline:
			u.Bad, u.Reason = true, fmt.Sprintf("after %s: %s", d.Deadline, failed)
			if err := c.note(u); err != nil {
				return err
			}
			tell("release %s is not well, and is left: %s", u.Release, failed)
			return askReboot("")
		case failed != "":
			since = time.Now()
		}
	}
}

// nowCommitted has the rest of the node know that this boot is no trial any
// more.
func nowCommitted(b node.Boot) error {
	b.Kind = slots.Committed
	text, err := b.Encode()
	if err != nil {
		return err
	}
	if err := replaceFile(node.BootFile, text, 0o644); err != nil {
		return err
	}
	p, err := readPrepared()
	if err != nil {
		return err
	}
	return write("/etc/motd", motd(b, p, isOpen()))
}

func readDefaults() (node.Defaults, error) {
	b, err := os.ReadFile(node.DefaultsFile)
	if err != nil {
		return node.Defaults{}, err
	}
	return node.DecodeDefaults(b)
}

// tell says something on the console.
func tell(format string, args ...any) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return // there is none, and nobody to read it
	}
	defer f.Close()
	fmt.Fprintf(f, "pikelet: "+format+"\n", args...)
}
