package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

type vmOptions struct {
	vm.Options
	SSH   int
	Node  nodeOptions
	From  string // the node config's file
	Try   bool
	Watch bool
	Login time.Duration
}

func newVM() *cobra.Command {
	c := &cobra.Command{Use: "vm", Short: "Run images in a virtual Pi"}
	c.AddCommand(newVMRun())
	return c
}

func newVMRun() *cobra.Command {
	var o vmOptions
	c := &cobra.Command{
		Use:   "run IMAGE",
		Short: "Boot a disk image in a virtual Pi",
		Long: `Boot a disk image in a virtual Pi: a model of the firmware reads the image's
own FATs and hands its kernel to QEMU, again and again as the guest reboots.

On a terminal you are at its console; Ctrl-A X ends it. Without a terminal it
boots to the login, powers off, and exits 0 if the login came.

With --watch it waits for the image, and boots it again whenever a build has put
a new one in its place: beside pikelet build --watch, that is from a change to
its login without a hand. What the old one wrote to its card is gone then.`,
		Args: exactly(1, "the disk image"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Image = args[0]
			o.Request.Tryboot = o.Try
			if err := o.complete(); err != nil {
				return err
			}
			if o.Watch {
				return watchVM(c.Context(), o)
			}
			return runVM(c.Context(), o)
		},
	}
	f := c.Flags()
	f.BoolVar(&o.Snapshot, "snapshot", false, "leave the image file untouched")
	f.StringVar(&o.Machine, "machine", "", "virt or raspi3b (default: what the image's kernel can run on)")
	f.BoolVar(&o.Card, "card", false, "an SD card as on a Pi instead of a virtio disk")
	f.BoolVar(&o.Watch, "watch", false, "boot the image again whenever a build replaces it")
	f.BoolVar(&o.Try, "try", false, "boot the slot under trial first")
	f.IntVar(&o.Request.Partition, "partition", 0, "boot this partition first, as after \"reboot N\"")
	f.BoolVar(&o.NoWalk, "old-eeprom", false, "behave as an EEPROM from before PARTITION_WALK")
	f.IntVar(&o.SSH, "ssh", 0, "make the guest's SSH reachable on this port of loopback")
	f.StringVar(&o.From, "config", "", "put a node config, or with --node one of an inventory, onto the card first")
	o.Node.addFlags(c)
	f.DurationVar(&o.Login, "login-within", 2*time.Minute, "without a terminal: how long the login may take")
	return c
}

// complete makes options of the machine of those of the command.
func (o *vmOptions) complete() error {
	if o.SSH != 0 {
		o.Forward = map[int]int{o.SSH: 22}
	}
	if o.From == "" {
		return nil
	}
	cfg, err := o.Node.load(o.From)
	if err != nil {
		return err
	}
	o.Prepare = func(card string) error { return provision.Write(card, cfg) }
	return nil
}

func runVM(ctx context.Context, o vmOptions) error {
	if _, err := os.Stat(o.Image); err != nil {
		return fmt.Errorf("%w; build one with pikelet build", err)
	}
	o.attach()
	if onTerminal() {
		return interactive(ctx, o)
	}
	return unattended(ctx, o)
}

// attach shows console and firmware to the person.
func (o *vmOptions) attach() {
	o.Console = os.Stdout
	o.Log = func(s string) { fmt.Fprint(os.Stderr, "pikelet: "+s+"\r\n") }
}

func onTerminal() bool {
	return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd()))
}

// interactive connects the terminal to the console.
func interactive(ctx context.Context, o vmOptions) error {
	o.Log("this is the virtual Pi's console; Ctrl-A X ends it")
	m, err := vm.Start(ctx, o.Options)
	if err != nil {
		return err
	}
	defer m.Close()
	old, err := term.MakeRaw(int(os.Stdin.Fd()))
	if err != nil {
		return err
	}
	defer term.Restore(int(os.Stdin.Fd()), old)
	go io.Copy(m, os.Stdin)
	return m.Wait()
}

// prompts are what a console shows when it waits for a person: a login, or
// the shell of an image that opted into a root console.
var prompts = []string{"login: ", ":~# "}

// unattended boots to the login and powers off.
func unattended(ctx context.Context, o vmOptions) error {
	start := time.Now()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	limit := time.AfterFunc(o.Login, func() { stop(fmt.Errorf("the virtual Pi printed no login within %v", o.Login)) })
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
	fmt.Fprintf(os.Stdout, "\nlogin reached after %.1f s\n", time.Since(start).Seconds())
	if prompt == prompts[0] {
		return nil // no account has a password: all that is left is the plug
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
		return errors.New("the virtual Pi did not power off")
	}
}
