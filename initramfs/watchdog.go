package initramfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// The hardware of every Pi up to 4 counts to 15.99 s at most, and kernels
// before June 2026 cut longer requests to nonsense (docs/platform.md 2.5): 15 s
// unless the image says less, which the spec allows down to 6 s, fed every 2 s.
const (
	watchdogSeconds = 15
	feedEvery       = 2 * time.Second
)

// In a trial the feeder also wants to hear from pikeletd: from the hand-over on
// within the image's own deadline, or beginTime where that is longer, because
// the services before pikeletd wait for disks and networks; and then, as long
// as the trial goes on, at least every lifeSign. pikeletd runs its checks every
// two seconds, and each may take a while.
const (
	beginTime = 5 * time.Minute
	lifeSign  = time.Minute
)

// feederName is what the feeder is called in a list of processes. /init runs
// itself under this name.
const feederName = "pikelet-watchdog"

// startFeeder opens the watchdog and leaves it to a process that outlives
// /init: when the kernel hangs, the hardware resets the machine, and a trial
// is over. A machine without a watchdog goes without, and so does one whose
// watchdog does not work, after saying so: failing the boot over it would take
// both slots down in turn.
func (b *boot) startFeeder() error {
	var dev *os.File
	if !b.line.Has(cmdline.WatchdogOff) {
		var err error
		if dev, err = b.openWatchdog(); err != nil {
			say("this boot is not guarded by the watchdog: %v", err)
		}
	}
	if dev == nil && b.kind != slots.Trial {
		return nil // a trial is watched all the same, by the feeder alone
	}
	if err := b.leaveWatchdog(dev); err != nil {
		say("this boot is not guarded: %v", err)
	}
	return nil
}

// openWatchdog returns the open watchdog; nil where the machine has none.
func (b *boot) openWatchdog() (*os.File, error) {
	dev, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	seconds := b.info.Watchdog
	if seconds <= 0 || seconds > watchdogSeconds {
		seconds = watchdogSeconds
	}
	if err := unix.IoctlSetPointerInt(int(dev.Fd()), unix.WDIOC_SETTIMEOUT, seconds); err != nil {
		say("the watchdog keeps its own timeout: %v", err)
	}
	return dev, nil
}

// leaveWatchdog starts the feeder, with the watchdog, if there is one, and the
// card that it writes its reason on.
func (b *boot) leaveWatchdog(dev *os.File) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{feederName, string(b.kind), string(b.line.Slot), b.deadline().String()}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	if dev == nil {
		dev = null
	} else {
		defer dev.Close()
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		console = null
	} else {
		defer console.Close()
	}
	cmd.Stdout = console
	cmd.ExtraFiles = []*os.File{dev, null}
	if b.kind == slots.Trial {
		cmd.ExtraFiles[1] = b.card.f
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.boot.Watchdog = cmd.Process.Pid
	return nil
}

// deadline is when a trial of this image must be over. The image says it
// itself; where it can't be read, what the builder takes without being told.
func (b *boot) deadline() time.Duration {
	text, err := os.ReadFile(newRoot + node.DefaultsFile)
	if err != nil {
		return usualDeadline
	}
	d, err := node.DecodeDefaults(text)
	if err != nil {
		return usualDeadline
	}
	return d.Deadline
}

const usualDeadline = 10 * time.Minute

// feed is the feeder. It ends with the machine. USR1 is a sign of life from
// pikeletd, and the first of all from /init when it hands over; USR2 says that
// there is no trial any more.
func feed() {
	dev := os.NewFile(3, "watchdog")
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGUSR1, unix.SIGUSR2)
	w := newWatch(os.Args[1:])
	tick := time.NewTicker(feedEvery)
	start := time.Now()
	hungry := false
	for {
		if why := w.late(time.Since(start)); why != "" {
			w.giveUp(os.NewFile(4, "card"), why)
		}
		if _, err := dev.Write([]byte{0}); err != nil && !hungry {
			hungry = true
			say("the watchdog can't be fed: %v", err)
		}
		select {
		case s := <-signals:
			w.hear(s == unix.SIGUSR1, time.Since(start))
		case <-tick.C:
		}
	}
}

// watch is what the feeder knows of a trial.
type watch struct {
	slot     slots.Letter
	trial    bool
	deadline time.Duration
	heard    int           // signs of life
	last     time.Duration // when the last one came
}

func newWatch(args []string) *watch {
	w := &watch{}
	if len(args) == 3 {
		w.trial, w.slot = slots.Kind(args[0]) == slots.Trial, slots.Letter(args[1])
		w.deadline, _ = time.ParseDuration(args[2])
	}
	w.deadline = max(w.deadline, beginTime)
	return w
}

// hear takes a sign of life, or the end of the trial.
func (w *watch) hear(alive bool, now time.Duration) {
	w.trial = w.trial && alive
	w.heard, w.last = w.heard+1, now
}

// late says what a trial has waited for too long; "" where all is well.
func (w *watch) late(now time.Duration) string {
	waited := now - w.last
	switch {
	case !w.trial:
	case w.heard == 0 && waited > prepareTime+time.Minute:
		return fmt.Sprintf("preparing the node did not end within %v", prepareTime+time.Minute)
	case w.heard == 1 && waited > w.deadline:
		return fmt.Sprintf("pikeletd did not begin within %v", w.deadline)
	case w.heard > 1 && waited > lifeSign:
		return fmt.Sprintf("pikeletd gave no sign of life for %v", lifeSign)
	}
	return ""
}

// giveUp writes down why a trial is over, and restarts into the default slot.
// Where even that hangs, the watchdog is not fed any more.
func (w *watch) giveUp(f *os.File, why string) {
	say("this trial is over: %s", why)
	c := &card{f: f}
	if err := c.writeRecord(slots.AddFailure("", w.slot, why)); err != nil {
		say("writing the record: %v", err)
	}
	say("%v", reboot.With(""))
	select {}
}
