package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

type vmOptions struct {
	vm.Options
	SSH       int
	Node      nodeOptions
	Inventory string
	Try       bool
	Watch     bool
	Login     time.Duration
}

func newVM(a *app) *cobra.Command {
	c := group(&cobra.Command{Use: "vm", Short: "Run images in a virtual Pi", GroupID: groupBoot})
	c.AddCommand(newVMRun(a))
	return c
}

func newVMRun(a *app) *cobra.Command {
	var o vmOptions
	c := &cobra.Command{
		Use:   "run IMAGE",
		Short: "Boot a disk image in a virtual Pi",
		Long: `Boot a disk image in a virtual Pi: a model of the firmware reads the image's own
FATs and hands its kernel to QEMU, again at each reboot of the guest.

A terminal becomes the console of the virtual Pi; Ctrl-A X ends it. Without a
terminal the virtual Pi boots to the login prompt and powers off; the exit status
is 0 if the prompt appeared.

With --watch, pikelet waits for the image, and boots it again whenever a build
replaces it; run pikelet build --watch beside it. What the guest wrote to its card
is lost then.`,
		Example: `  pikelet vm run --snapshot out/disk.img
  pikelet vm run --inventory nodes.yaml --node attic --ssh 2222 --snapshot out/disk.img`,
		Args: exactly(1, "the disk image"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Image = args[0]
			o.Request.Tryboot = o.Try
			if err := o.complete(); err != nil {
				return err
			}
			if o.Watch {
				return watchVM(c.Context(), o, a)
			}
			return runVM(c.Context(), o, a)
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Snapshot, "snapshot", false, "do not write to the image file")
	f.StringVar(&o.Machine, "machine", "", "`MACHINE`: virt or raspi3b (default: the one that the image's kernel supports)")
	f.BoolVar(&o.Card, "card", false, "attach the image as an SD card instead of a virtio disk")
	f.BoolVar(&o.Watch, "watch", false, "boot the image again whenever a build replaces it")
	f.BoolVar(&o.Try, "try", false, "boot the slot under trial first")
	f.IntVar(&o.Request.Partition, "partition", 0, "boot partition `NUMBER` first, as after \"reboot NUMBER\"")
	complete(c, "partition", completeSlot)
	f.BoolVar(&o.NoWalk, "old-eeprom", false, "model an EEPROM without PARTITION_WALK")
	f.IntVar(&o.SSH, "ssh", 0, "forward this `PORT` of loopback to the guest's SSH server")
	f.StringVar(&o.Inventory, "inventory", "", "write the config of a node from `FILE`, an inventory or a node config, to the card first")
	o.Node.addFlags(c)
	f.DurationVar(&o.Login, "login-within", 2*time.Minute, "time limit for the login prompt, without a terminal")
	return c
}

// complete derives the options of the machine from those of the command.
func (o *vmOptions) complete() error {
	if o.SSH != 0 {
		o.Forward = map[int]int{o.SSH: 22}
	}
	if o.Inventory == "" {
		return nil
	}
	cfg, err := o.Node.load(o.Inventory)
	if err != nil {
		return err
	}
	o.Prepare = func(card string) error { return provision.Write(card, cfg) }
	return nil
}

func runVM(ctx context.Context, o vmOptions, a *app) error {
	if _, err := os.Stat(o.Image); err != nil {
		return hint.With(err, "build one with pikelet build")
	}
	o.attach(a)
	if a.onTerminal() {
		return interactive(ctx, o, a)
	}
	return unattended(ctx, o, a)
}

// attach shows the console and the messages of the firmware. With --json the
// console goes to standard error, apart from the result.
func (o *vmOptions) attach(a *app) {
	o.Console, o.Log = a.out, a.log
	if a.json {
		o.Console = a.err
	}
	if !a.json && a.onTerminal() { // which is in raw mode
		h := newTextHandler(a, slog.LevelInfo)
		h.w = rawLines{a.err}
		o.Log = slog.New(h)
	}
}

// rawLines writes lines to a terminal in raw mode, marked as ours.
type rawLines struct{ w io.Writer }

// Write implements io.Writer.
func (r rawLines) Write(b []byte) (int, error) {
	if _, err := fmt.Fprintf(r.w, "pikelet: %s", bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (a *app) onTerminal() bool { return isTerminal(a.in) && isTerminal(a.out) }

// rawTerminal puts the terminal of standard input into raw mode.
func (a *app) rawTerminal() (restore func(), err error) {
	fd := int(a.in.(*os.File).Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { term.Restore(fd, old) }, nil
}

// loginReached prints how long a boot took.
func (a *app) loginReached(seconds float64) {
	end := "\n"
	if a.onTerminal() {
		end = "\r\n"
	}
	if a.json {
		a.result(map[string]float64{"loginSeconds": seconds}, "")
		return
	}
	fmt.Fprintf(a.out, "%slogin reached after %.1f s%s", end, seconds, end)
}

// interactive connects the terminal to the console.
func interactive(ctx context.Context, o vmOptions, a *app) error {
	o.Log.Info("connecting to the console of the virtual Pi", "hint", "Ctrl-A X ends it")
	m, err := vm.Start(ctx, o.Options)
	if err != nil {
		return err
	}
	defer m.Close()
	restore, err := a.rawTerminal()
	if err != nil {
		return err
	}
	defer restore()
	go io.Copy(m, a.in)
	return m.Wait()
}

// prompts are what a console shows when it waits for input: a login prompt, or
// the shell of an image with a root console.
var prompts = []string{"login: ", ":~# "}

// unattended boots to the login and powers off.
func unattended(ctx context.Context, o vmOptions, a *app) error {
	start := time.Now()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	limit := time.AfterFunc(o.Login, func() { stop(fmt.Errorf("timed out after %v waiting for the login prompt of the virtual Pi", o.Login)) })
	m, err := vm.Start(ctx, o.Options)
	if err != nil {
		return err
	}
	defer m.Close()
	prompt, err := m.ExpectAny(prompts...)
	limit.Stop()
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	a.loginReached(time.Since(start).Seconds())
	if prompt == prompts[0] {
		return nil // no account has a password, so no one can log in to power off
	}
	if _, err := io.WriteString(m, "poweroff\n"); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(o.Login):
		return errors.New("timed out waiting for the virtual Pi to power off")
	}
}
