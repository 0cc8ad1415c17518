// Package initramfs is what /init does: from the kernel's hand-over to the
// verified root's own init.
//
// It is a straight line: each step returns an error, and one place, fail,
// decides what failure looks like. There is no switch to skip a check.
package initramfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// boot is what the steps find out, one after the other.
type boot struct {
	start time.Time
	info  cmdline.Info
	line  cmdline.Line
	card  *card    // nil without one
	net   *network // nil with a card
	kind  slots.Kind
	def   slots.Letter
	img   *image.Manifest
	boot  node.Boot
}

// Main is /init. It returns only when it has nothing to return to: PID 1 must
// not end.
func Main() {
	switch os.Args[0] {
	case feederName:
		feed()
		return
	case modprobeName:
		say("modprobe: %v", modprobe())
		os.Exit(1)
	}
	b := &boot{start: time.Now()}
	err := b.run()
	b.fail(err)
}

func (b *boot) run() error {
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"mounting the basics", mountBasics},
		{"reading what this image is", b.readInfo},
		{"reading the kernel command line", b.readWords},
		{"loading kernel modules", b.loadModules},
		{"finding the slot", b.findSlot},
		{"finding out what this boot is", b.judge},
		{"checking the slot", b.checkSlot},
		{"opening the root", b.openRoot},
		{"starting the watchdog", b.startFeeder},
		{"preparing the root", b.prepareRoot},
		{"setting the clock", b.setClock},
		{"preparing the node", b.prepareNode},
		{"handing over", b.handOver},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

// say prints to the console, whatever the kernel's log level is.
func say(format string, args ...any) { fmt.Printf("pikelet: "+format+"\n", args...) }

func mountBasics() error {
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	return os.MkdirAll("/run/pikelet", 0o755)
}

func (b *boot) readInfo() error {
	text, err := os.ReadFile(cmdline.InfoFile)
	if err != nil {
		return err
	}
	b.info, err = cmdline.DecodeInfo(text)
	return err
}

// readWords reads what the kernel was told. Which slot this is the firmware
// knows better, where it says so: words may be damaged, and the check of the
// slot then names the damage, with the card at hand to write it on and the
// right other slot to start. A partition of 0 is "unknown"
// (docs/platform.md 2.3).
func (b *boot) readWords() error {
	words, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	b.line, err = cmdline.Parse(words)
	n, ok := firmware("partition")
	if l, known := slots.OfPartition(int(n)); ok && known {
		b.line.Slot = l
		return nil
	}
	return err
}

// loadModules loads the packed modules in their order, each after comparing
// it with the digest in the image's own description: a damaged card is told
// apart from a driver that does not work. A damaged module fails the boot,
// but the others are loaded first: the card's driver among them is what lets
// the failure be written down and the other slot be started.
func (b *boot) loadModules() error {
	var problems []error
	for _, m := range b.info.Modules {
		if m.Net && b.line.Slot != slots.Net {
			continue
		}
		data, err := readModule(m)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		// A module whose hardware is absent may refuse to load; what is
		// really missing shows when the slot is looked for.
		if err := unix.InitModule(data, ""); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			say("module %s: %v", filepath.Base(m.Path), err)
		}
	}
	return errors.Join(problems...)
}

// readModule returns a module's bytes, which are those that were built.
func readModule(m cmdline.Module) ([]byte, error) {
	name := filepath.Base(m.Path)
	data, err := os.ReadFile(m.Path)
	if err != nil {
		return nil, fmt.Errorf("module %s is missing: the kernel could not unpack this initramfs whole, the card may be damaged", name)
	}
	if got := image.DigestOf(data); got != m.Digest {
		return nil, fmt.Errorf("module %s was changed: digest mismatch: got %s, want %s", name, got, m.Digest)
	}
	return data, nil
}

// firmware reads an integer the firmware left in the device tree. ok is false
// where it left none.
func firmware(name string) (value uint32, ok bool) {
	b, err := os.ReadFile("/proc/device-tree/chosen/bootloader/" + name)
	if err != nil || len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

// judge compares the running slot with the default and the firmware's mark.
func (b *boot) judge() error {
	if b.card != nil {
		b.def = b.card.defaultSlot()
	}
	b.kind = b.what()
	return nil
}

// what says what this boot is. Firmware that leaves no mark of a trial is known
// by the record: the slot that was armed runs, and is not the default. Whether
// it is the image that was armed pikeletd finds out.
func (b *boot) what() slots.Kind {
	if b.card == nil {
		return slots.KindOf(b.line.Slot, "", false)
	}
	tryboot, _ := firmware("tryboot")
	kind := slots.KindOf(b.line.Slot, b.card.defaultSlot(), tryboot == 1)
	u := slots.ReadCard(b.card.f).Update
	if kind == slots.Rescue && b.card.defaultSlot() != "" && u.UnderWay() && u.Slot == b.line.Slot {
		return slots.Trial
	}
	return kind
}

// setClock puts the clock to the build epoch at least: Pis have no clock of
// their own, and certificates are not valid in 1970.
func (b *boot) setClock() error {
	if epoch := time.Unix(b.info.Epoch, 0); time.Now().Before(epoch) {
		tv := unix.NsecToTimeval(epoch.UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			return err
		}
	}
	return nil
}

// seconds since /init started, by the clock that settimeofday does not move.
func (b *boot) seconds() float64 { return time.Since(b.start).Seconds() }

// trimmed returns a text on one line.
func trimmed(s string) string { return strings.Join(strings.Fields(s), " ") }
