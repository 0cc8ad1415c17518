package initramfs

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/initramfs/cmdline"
)

// The hardware of every Pi up to 4 counts to 15.99 s at most, and kernels
// before June 2026 cut longer requests to nonsense (FACTS 2.5): 15 s unless
// the image says less, which the spec allows down to 6 s, fed every 2 s.
const (
	watchdogSeconds = 15
	feedEvery       = 2 * time.Second
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
	if b.line.Has(cmdline.WatchdogOff) {
		return nil
	}
	if err := b.leaveWatchdog(); err != nil {
		say("this boot is not guarded by the watchdog: %v", err)
	}
	return nil
}

// leaveWatchdog hands the open watchdog to the feeder.
func (b *boot) leaveWatchdog() error {
	dev, err := os.OpenFile("/dev/watchdog", os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dev.Close()
	seconds := b.info.Watchdog
	if seconds <= 0 || seconds > watchdogSeconds {
		seconds = watchdogSeconds
	}
	if err := unix.IoctlSetPointerInt(int(dev.Fd()), unix.WDIOC_SETTIMEOUT, seconds); err != nil {
		say("the watchdog keeps its own timeout: %v", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{feederName}
	cmd.ExtraFiles = []*os.File{dev}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	b.boot.Watchdog = cmd.Process.Pid
	return nil
}

// feed is the feeder. It ends with the machine.
func feed() {
	dev := os.NewFile(3, "watchdog")
	for {
		if _, err := dev.Write([]byte{0}); err != nil {
			return
		}
		time.Sleep(feedEvery)
	}
}
