// Package agent is pikeletd, the program of ours in the root: it makes a
// machine out of an image every node shares, says how it came up, and reboots
// it into the slot it is told to.
package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Usage is what pikeletd answers to a verb it does not know.
const Usage = `pikeletd status [--json]  how this node came up, and how it is
pikeletd check            what the node needs, and what of it is missing
pikeletd config           take a node config from standard input, for the next boot
pikeletd reset            forget config and identity, and start over; --volume: the cluster's data too
pikeletd volume forget    take a blank disk where the node had a volume that is gone
pikeletd upgrade REF      bring an image onto the other slot and try it; it is kept if it is well.
                          --drill: come back however well it went; --again: one that failed here;
                          --dry-run: say how it would come, and how much that is, and do nothing
pikeletd rollback         try what the other slot holds; it is kept if it is well. --drill as above
pikeletd poweroff         stop, also while a NAS is down: the system's own poweroff flushes all disks first
pikeletd reboot           restart, into the default slot
pikeletd reboot --try     restart into the other slot, once
pikeletd reboot --rescue  restart into the other slot without a trial
`

// Run executes one verb.
func Run(args []string, out io.Writer) error {
	switch {
	case len(args) > 0 && args[0] == "upgrade":
		return upgrade(args[1:], out)
	case len(args) > 0 && args[0] == "rollback":
		return rollback(args[1:], out)
	}
	switch strings.Join(args, " ") {
	case "prepare":
		return Prepare(out)
	case "run":
		return daemon()
	case "volume start":
		return startVolume(out)
	case "volume stop":
		return stopVolume(out)
	case "volume forget":
		return forgetVolume(out)
	case "k3s":
		return runK3s(out)
	case "status":
		return status(out, false)
	case "status --json":
		return status(out, true)
	case "config":
		p, err := readPrepared()
		if err != nil {
			return err
		}
		return nodeConfigs(nil).takeSent(os.Stdin, out, machine(), p.State)
	case "check":
		return check(out)
	case "reset", "reset --yes", "reset --volume", "reset --volume --yes":
		return reset(out, slices.Contains(args, "--volume"), slices.Contains(args, "--yes"))
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
	case "poweroff":
		return unix.Kill(1, unix.SIGUSR2) // busybox init: run the shutdown actions, then power off
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

func readPrepared() (node.Prepared, error) {
	b, err := os.ReadFile(node.ReportFile)
	if err != nil {
		return node.Prepared{}, err
	}
	return node.DecodePrepared(b)
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
// poweroff or a reboot somebody else asked for, it only takes away iSCSI disks
// that are still there.
func rebootNow() error {
	offlineLUNs()
	b, err := os.ReadFile(rebootFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return reboot.With(string(b))
}

// write writes one of the files that node.Written lists.
func write(name, text string) error { return os.WriteFile(name, []byte(text), 0o644) }

// isOpen says whether whoever reaches the console is root: an image to try
// things with.
func isOpen() bool {
	_, err := os.Stat(node.RootConsoleFile)
	return err == nil
}

// motd is what a login shows. An image with an open console also says what to
// try.
func motd(b node.Boot, p node.Prepared, open bool) string {
	s := "\nPikelet " + b.Stream + " " + b.Release + "\n\n" + describe(b, p)
	switch {
	case b.Kind == slots.Trial:
		s += "\nThis is a trial of slot " + string(b.Slot) + ": any reboot goes back to slot " + string(b.Slot.Other()) + ".\n"
	case open && b.Slot == slots.Net:
		s += "\nTry: pikeletd status; touch /usr/x; poweroff\n"
	case open:
		s += "\nTry: pikeletd status; pikeletd reboot --try (slot " + string(b.Slot.Other()) + ", once); touch /usr/x; poweroff\n"
	}
	return s + "\n"
}
