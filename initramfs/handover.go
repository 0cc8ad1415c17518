package initramfs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// prepareTime is how long pikeletd's preparation may take. Checking the
// filesystem of a large card after a power cut is what takes longest.
const prepareTime = 5 * time.Minute

// prepareNode runs "pikeletd prepare" from the verified root. A preparation
// that fails is said aloud and survived: a node that can be reached can be
// mended.
func (b *boot) prepareNode() error {
	b.boot.Stream, b.boot.Release, b.boot.BuildID, b.boot.Epoch = b.info.Stream, b.info.Release, b.info.BuildID, b.info.Epoch
	b.boot.Keys = b.info.Keys
	b.boot.Slot, b.boot.Kind = b.line.Slot, b.kind
	if b.card != nil {
		b.boot.Disk, b.boot.Failed = b.card.dev, b.card.readRecord().Text
	}
	if b.net != nil {
		b.boot.Server, b.boot.Device = b.net.server, b.net.device
	}
	b.boot.Seconds = b.seconds()
	text, err := b.boot.Encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(newRoot+node.BootFile, text, 0o644); err != nil {
		return err
	}
	giveBack, err := lendModprobe()
	if err != nil {
		say("the kernel will find no modules while the node is prepared: %v", err)
	}
	defer giveBack()
	ctx, stop := context.WithTimeout(context.Background(), prepareTime)
	defer stop()
	cmd := exec.CommandContext(ctx, node.AgentFile, "prepare")
	cmd.SysProcAttr = &unix.SysProcAttr{Chroot: newRoot}
	cmd.Dir = "/"
	cmd.Env = environment
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		say("preparing the node failed: %v; going on with what there is", err)
	}
	return nil
}

// handOver makes the root / and becomes its init. / is shared recursively:
// Kubernetes' mounts must be seen by containers (docs/platform.md 8.4).
func (b *boot) handOver() error {
	b.announce()
	if b.card != nil {
		if b.kind == slots.Committed {
			b.clearRecord()
		}
		b.card.f.Close()
	}
	if b.net != nil {
		b.report(bootapi.Report{Stage: bootapi.Started})
		if err := b.net.giveUp(); err != nil {
			say("%v", err)
		}
	}
	if b.boot.Watchdog > 1 {
		unix.Kill(b.boot.Watchdog, unix.SIGUSR1) // from here on it waits for pikeletd
	}
	// The initramfs stays in memory until its files are gone.
	os.RemoveAll("/modules")
	os.Remove("/init")
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("sharing /: %w", err)
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, environment)
}

// environment is what programs of the root are started with.
var environment = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "TERM=linux"}

// announce says on the console what is running. The hash is the promise: the
// kernel answers no read with a byte that does not lead to it.
func (b *boot) announce() {
	say("%s %s, slot %s (%s), root verified: dm-verity %.16s…, init took %.2f s and preparing %.2f s",
		b.info.Stream, b.info.Release, b.line.Slot, b.kind, b.boot.Root, b.boot.Seconds, b.seconds()-b.boot.Seconds)
	switch {
	case b.kind == slots.Rescue && b.boot.Failed != "":
		say("this is a rescue, because: %s", trimmed(b.boot.Failed))
	case b.boot.Failed != "":
		say("an earlier boot failed: %s", trimmed(b.boot.Failed))
	}
}

// clearRecord forgets an earlier failure once the default slot came up. This
// boot still knows it, from boot.json, and report.txt keeps it.
func (b *boot) clearRecord() {
	if b.card.readRecord().Text == "" {
		return
	}
	if err := b.card.clearRecord(); err != nil {
		say("clearing the record of an earlier failure: %v", err)
	}
}
