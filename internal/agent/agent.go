// Package agent is pikeletd, the program of ours in the root: it makes a
// machine out of an image every node shares, says how it came up, and reboots
// it into the slot it is told to.
package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/reboot"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// Usage is what pikeletd answers to a verb it does not know.
const Usage = `pikeletd status           how this node came up
pikeletd reboot           restart, into the default slot
pikeletd reboot --try     restart into the other slot, once
pikeletd reboot --rescue  restart into the other slot without a trial
`

// Run executes one verb.
func Run(args []string, out io.Writer) error {
	switch strings.Join(args, " ") {
	case "prepare":
		return Prepare(out)
	case "status":
		return status(out)
	case "reboot":
		return askReboot("")
	case "reboot --try":
		return askReboot(reboot.Tryboot)
	case "reboot --rescue":
		b, err := readBoot()
		if err != nil {
			return err
		}
		return askReboot(fmt.Sprint(b.Slot.Other().Partition()))
	case "reboot --now":
		return rebootNow()
	}
	return errors.New("usage:\n" + Usage)
}

func readBoot() (node.Boot, error) {
	b, err := os.ReadFile(node.BootFile)
	if err != nil {
		return node.Boot{}, err
	}
	return node.DecodeBoot(b)
}

func status(out io.Writer) error {
	b, err := readBoot()
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, describe(b))
	return err
}

func describe(b node.Boot) string {
	var s strings.Builder
	fmt.Fprintf(&s, "image   %s %s (build %s)\n", b.Stream, b.Release, b.BuildID)
	fmt.Fprintf(&s, "slot    %s, %s, on %s\n", b.Slot, b.Kind, b.Disk)
	fmt.Fprintf(&s, "root    verified by dm-verity, root hash %s\n", b.Root)
	fmt.Fprintf(&s, "signed  %s\n", b.Signed)
	if b.Watchdog != 0 {
		s.WriteString("guarded by the hardware watchdog\n")
	}
	if b.Failed != "" {
		head := "failed "
		if b.Kind == slots.Rescue {
			head = "RESCUE "
		}
		fmt.Fprintf(&s, "%s %s\n", head, strings.ReplaceAll(b.Failed, "\n", "\n        "))
	}
	return s.String()
}

// rebootFile holds what to tell the firmware when the shutdown is done.
const rebootFile = "/run/pikelet/reboot"

// askReboot starts an orderly shutdown. Services stop and disks are synced
// first; the last action of the shutdown is rebootNow.
func askReboot(argument string) error {
	if err := os.WriteFile(rebootFile, []byte(argument), 0o600); err != nil {
		return err
	}
	return unix.Kill(1, unix.SIGTERM) // busybox init: run the shutdown actions, then reboot
}

// rebootNow restarts with what askReboot left. Where nothing was left, a
// poweroff or a reboot somebody else asked for, it does nothing.
func rebootNow() error {
	b, err := os.ReadFile(rebootFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return reboot.With(string(b))
}

// Prepare makes this machine out of the image, the same one on every boot. It
// runs as a child of /init, before OpenRC reads anything; /etc and /var are
// memory over the root. Each part is tried even when one before it failed.
func Prepare(out io.Writer) error {
	b, err := readBoot()
	if err != nil {
		return err
	}
	name := hostname(b.Stream, serial())
	return errors.Join(
		write("/etc/hostname", name+"\n"),
		write("/etc/hosts", "127.0.0.1\tlocalhost localhost.localdomain\n::1\tlocalhost localhost.localdomain\n127.0.1.1\t"+name+"\n"),
		write("/etc/motd", motd(b, isOpen())),
		consoles(),
		spareFeeder(b.Watchdog),
	)
}

// spareFeeder tells OpenRC's killprocs to leave the watchdog's feeder alone:
// a shutdown may take longer than the hardware waits, flushing a slow disk.
func spareFeeder(pid int) error {
	if pid == 0 {
		return nil
	}
	return write("/etc/conf.d/killprocs", fmt.Sprintf("# Written on each boot by pikeletd.\nkillall5_opts=\"-o %d\"\n", pid))
}

// write writes one of the files that node.Written lists.
func write(name, text string) error { return os.WriteFile(name, []byte(text), 0o644) }

// serial returns the board's serial number, or "" where it has none.
func serial() string {
	b, err := os.ReadFile("/proc/device-tree/serial-number")
	if err != nil {
		return ""
	}
	return strings.TrimRight(string(b), "\x00\n")
}

// hostname names a node after its image and the last eight digits of its
// serial, which tell boards apart (FACTS 4).
func hostname(stream, serial string) string {
	if len(serial) > 8 {
		serial = serial[len(serial)-8:]
	}
	if serial == "" {
		return stream
	}
	return stream + "-" + strings.ToLower(serial)
}

// isOpen says whether whoever reaches the console is root: an image to try
// things with.
func isOpen() bool {
	_, err := os.Stat(node.RootConsoleFile)
	return err == nil
}

// motd is what a login shows. An image with an open console also says what to
// try.
func motd(b node.Boot, open bool) string {
	s := "\nPikelet " + b.Stream + " " + b.Release + "\n\n" + describe(b)
	switch {
	case b.Kind == slots.Trial:
		s += "\nThis is a trial of slot " + string(b.Slot) + ": any reboot goes back to slot " + string(b.Slot.Other()) + ".\n"
	case open:
		s += "\nTry: pikeletd status; pikeletd reboot --try (slot " + string(b.Slot.Other()) + ", once); touch /usr/x; poweroff\n"
	}
	return s + "\n"
}

// consoles adds a getty for each console the kernel has: which serial port
// that is differs from board to board. The getty asks for a login, and no
// account has a password unless a layer brought one, or opens a root shell
// where the image's spec opted into it.
func consoles() error {
	b, err := os.ReadFile("/sys/class/tty/console/active")
	if err != nil {
		return err
	}
	getty := "/sbin/getty -L 0 %[1]s vt100"
	if isOpen() {
		getty = "/sbin/getty -L -n -l " + node.RootConsoleFile + " 0 %[1]s vt100"
	}
	var lines strings.Builder
	names := strings.Fields(string(b))
	sort.Strings(names)
	for _, tty := range names {
		fmt.Fprintf(&lines, "%[1]s::respawn:"+getty+"\n", filepath.Base(tty))
	}
	tab, err := os.ReadFile("/etc/inittab")
	if err != nil {
		return err
	}
	return write("/etc/inittab", string(tab)+lines.String())
}
