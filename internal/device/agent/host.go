package agent

import (
	"crypto/ecdsa"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/medium"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// cardMedium is the card as it is written to.
type cardMedium struct{ *os.File }

// Flush implements medium.Medium.
func (c cardMedium) Flush() error { return c.Sync() }

// Forget implements medium.Medium.
func (c cardMedium) Forget() error { return unix.IoctlSetInt(int(c.Fd()), unix.BLKFLSBUF, 0) }

// StartWriting implements medium.Starter.
func (c cardMedium) StartWriting(at, n int64) {
	_ = unix.SyncFileRange(int(c.Fd()), at, n, unix.SYNC_FILE_RANGE_WRITE) // what is not begun now the flush does
}

// StartReading implements medium.Starter.
func (c cardMedium) StartReading(at, n int64) {
	_ = unix.Fadvise(int(c.Fd()), at, n, unix.FADV_WILLNEED) // what is not begun now the read does
}

var _ interface {
	medium.Medium
	medium.Starter
} = cardMedium{}

// host is this machine, as the updater sees it.
type host struct {
	boot  node.Boot
	cfg   *nodeconfig.Config
	card  *card
	start time.Time
}

var _ updater.Node = host{}

// newUpdater returns what upgrades this node, and a function that closes it.
func newUpdater(b node.Boot) (*updater.Updater, func(), error) {
	cfg, err := readConfig()
	if err != nil {
		return nil, nil, err
	}
	d, err := readDefaults()
	if err != nil {
		return nil, nil, err
	}
	keys, err := trusted(b)
	if err != nil {
		return nil, nil, err
	}
	if b.Slot == slots.Net {
		return nil, nil, errors.New("this node has no card: what it runs its boot server says, and it restarts into it")
	}
	c, err := openCard(b.Disk)
	if err != nil {
		return nil, nil, err
	}
	return &updater.Updater{
		Card: cardMedium{c.f}, Table: c.table, Soak: d.Soak, Deadline: d.Deadline,
		Boot: updater.Boot{
			Slot: b.Slot, Kind: b.Kind, Digest: b.Signed, Keys: keys, Stream: b.Stream, Release: b.Release,
			Arch: arch, Board: board(), Failed: b.Failed, Reset: lastReset(),
		},
		Node: host{boot: b, cfg: cfg, card: c, start: time.Now()},
	}, func() { c.f.Close() }, nil
}

// trusted returns the keys the running image trusts.
func trusted(b node.Boot) ([]*ecdsa.PublicKey, error) {
	var keys []*ecdsa.PublicKey
	for _, text := range b.Keys {
		k, err := image.ParsePublicKey([]byte(text))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// hadWatchdog is the bit of the SoC's reset status that a reset by its
// watchdog leaves, HADWRF of PM_RSTS (include/linux/mfd/bcm2835-pm.h). It is
// none of those that carry a partition number (docs/platform.md 2.2), and gone
// after a power cut.
const hadWatchdog = 1 << 5

// lastReset says how this boot came to be, as far as the firmware tells
// (docs/platform.md 2.3).
func lastReset() updater.Reset {
	b, err := os.ReadFile("/proc/device-tree/chosen/bootloader/rsts")
	switch {
	case err != nil || len(b) != 4:
		return updater.Unknown
	case binary.BigEndian.Uint32(b)&hadWatchdog != 0:
		return updater.Watchdog
	}
	return updater.PowerOn
}

// Checks implements updater.Node.
func (m host) Checks() []node.Check { return runChecks(m.cfg) }

// Restart implements updater.Node.
func (m host) Restart(argument string) error {
	m.Alive() // a shutdown takes its time, and in a trial no more than is given to a sign of life
	return askReboot(argument)
}

// Tell implements updater.Node.
func (m host) Tell(text string) { tell(text) }

// Log implements updater.Node.
func (m host) Log() string { return lastLines() }

// Report implements updater.Node.
func (m host) Report(text string) error {
	old, err := m.card.readControl(slots.ReportFile)
	if err == nil {
		head, _, _ := strings.Cut(string(old), updater.Heading)
		err = m.card.writeControl(slots.ReportFile, strings.TrimRight(head, "\n\x00")+"\n\n"+updater.Heading+"\n"+text)
	}
	if mounted(node.StateDir) {
		err = errors.Join(err, replaceFile(node.StateDir+"/report.txt", []byte(text), 0o644))
	}
	return err
}

// BeforeArming implements updater.Node.
func (m host) BeforeArming(u slots.Update) error { return saveDatastore(m.cfg, m.boot, u) }

// Alive implements updater.Node.
func (m host) Alive() { m.tellFeeder(unix.SIGUSR1) }

// Committed implements updater.Node.
func (m host) Committed() error {
	m.tellFeeder(unix.SIGUSR2)
	return nowCommitted(m.boot)
}

// tellFeeder sends the watchdog's feeder one of its signals: USR1 for a sign
// of life, USR2 when no trial is to be guarded any more.
func (m host) tellFeeder(s unix.Signal) {
	if m.boot.Watchdog > 1 {
		unix.Kill(m.boot.Watchdog, s) // without a feeder nobody waits for it
	}
}

// Elapsed implements updater.Node.
func (m host) Elapsed() time.Duration { return time.Since(m.start) }

// Sleep implements updater.Node.
func (m host) Sleep(d time.Duration) { time.Sleep(d) }

// tell says something on the console.
func tell(text string) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return // there is none, and nobody to read it
	}
	defer f.Close()
	fmt.Fprintf(f, "pikelet: %s\n", text)
}

// console tells each line that is written to it; a Write is a whole line.
type console struct{}

// Write implements io.Writer.
func (console) Write(line []byte) (int, error) {
	tell(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}

// What of the logs goes into a report: with all the rest it has 16 KiB.
const (
	logLines = 25
	logBytes = 3500
)

// lastLines returns the last lines of the kernel's log and of k3s'.
func lastLines() string {
	var b strings.Builder
	add := func(what, text string) {
		if text = tail(text); text != "" {
			fmt.Fprintf(&b, "-- %s\n%s\n", what, text)
		}
	}
	buf := make([]byte, 256<<10)
	if n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf); err == nil {
		add("the kernel", kernelLines(string(buf[:n])))
	}
	for _, name := range []string{"/var/log/messages", "/var/log/k3s.log"} {
		add(name, endOf(name))
	}
	return b.String()
}

// kernelLines returns the kernel's log without its debugging, and without the
// level in front of each line.
func kernelLines(text string) string {
	var list []string
	for _, line := range strings.Split(text, "\n") {
		if level, rest, ok := strings.Cut(line, ">"); ok && level != "<7" {
			list = append(list, rest)
		}
	}
	return strings.Join(list, "\n")
}

// endOf returns the end of a file.
func endOf(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(st.Size(), logBytes))
	n, _ := f.ReadAt(b, st.Size()-int64(len(b)))
	return string(b[:n])
}

// tail returns the last lines of a text.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(0, len(lines)-logLines):]
	for len(lines) > 1 && len(strings.Join(lines, "\n")) > logBytes {
		lines = lines[1:]
	}
	text = strings.Join(lines, "\n")
	return strings.ToValidUTF8(text[max(0, len(text)-logBytes):], "?")
}
