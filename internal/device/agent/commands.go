package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/console"
	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/prepare"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/shutdown"
	"github.com/pikelet-os/pikelet/internal/device/agent/upgrade"
	"github.com/pikelet-os/pikelet/internal/device/agent/volume"
	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Exit statuses of pikeletd.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError reports invalid arguments (exit status 2).
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// Main runs one verb of pikeletd with its arguments and returns the exit status:
// 0 for success and help, 1 for failure, 2 for invalid arguments. Errors are
// printed on stderr, each piece of advice on a line of its own.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "pikeletd:", err)
	for _, text := range hint.Of(err) {
		fmt.Fprintln(stderr, node.Hint(text))
	}
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

func newRoot() *cobra.Command {
	root := newGroup("pikeletd", "Pikelet's program on a node")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return hint.Withf(usageError{err}, "%s --help lists the flags", c.CommandPath())
	})
	root.AddCommand(
		newStatus(), newCheck(), newConfig(), newReset(), newUpgrade(), newRollback(), newReboot(), newPowerOff(), newVolume(), newBackup(),
		newKubeconfig(),
		// Verbs of services and of /init.
		hidden("prepare", "make this node out of the image", func(c *cobra.Command) error { return prepare.Run(c.OutOrStdout(), consoleLog()) }),
		hidden("run", "run the daemon", cancellable(func(ctx context.Context, c *cobra.Command) error {
			return daemon(ctx, consoleLog(), c.ErrOrStderr())
		})),
		hidden("k3s", "wait for what k3s needs, and become k3s", func(c *cobra.Command) error { return k3s.Run(c.OutOrStdout(), consoleLog()) }),
	)
	return root
}

// newGroup returns a command that only has others below it.
func newGroup(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		Args: func(c *cobra.Command, args []string) error {
			err := errors.New("missing command")
			if len(args) > 0 {
				err = fmt.Errorf("unknown command %q", c.CommandPath()+" "+args[0])
			}
			return hint.Withf(usageError{err}, "%s --help lists the commands", c.CommandPath())
		},
		RunE: func(*cobra.Command, []string) error { return nil },
	}
}

// newVerb returns a command without arguments.
func newVerb(use, short string, run func(*cobra.Command) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactArgs(0), DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, _ []string) error { return run(c) },
	}
}

func hidden(use, short string, run func(*cobra.Command) error) *cobra.Command {
	c := newVerb(use, short, run)
	c.Hidden = true
	return c
}

// exactArgs is cobra.ExactArgs with exit status 2.
func exactArgs(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return hint.Withf(usageError{fmt.Errorf("got %d arguments, want %d: %s", len(args), n, c.UseLine())},
				"%s --help says more", c.CommandPath())
		}
		return nil
	}
}

// cancellable ends ctx on SIGTERM and SIGINT; a second signal ends the program.
// The other verbs keep the default, to end at once.
func cancellable(run func(context.Context, *cobra.Command) error) func(*cobra.Command) error {
	return func(c *cobra.Command) error {
		ctx, stop := signal.NotifyContext(c.Context(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		context.AfterFunc(ctx, stop)
		return run(ctx, c)
	}
}

func newPowerOff() *cobra.Command {
	c := newVerb("poweroff", "stop the node, also while a NAS is down", func(*cobra.Command) error { return shutdown.PowerOff() })
	c.Long = "Stop the node, also while a NAS is down: the system's own poweroff flushes all disks first."
	return c
}

func newReboot() *cobra.Command {
	var try, rescue, now bool
	c := newVerb("reboot [--try | --rescue]", "restart, into the default slot", func(*cobra.Command) error {
		switch {
		case now:
			return shutdown.Finish()
		case try:
			return shutdown.Reboot(reboot.Tryboot)
		case rescue:
			b, err := runfiles.Boot()
			if err != nil {
				return err
			}
			return shutdown.Reboot(fmt.Sprint(b.Slot.Other().Partition()))
		}
		return shutdown.Reboot("")
	})
	f := c.Flags()
	f.BoolVar(&try, "try", false, "restart into the other slot, once")
	f.BoolVar(&rescue, "rescue", false, "restart into the other slot without a trial")
	f.BoolVar(&now, "now", false, "restart at once: the last action of a shutdown")
	_ = f.MarkHidden("now") // the flag exists
	exclusive(c, "try", "rescue", "now")
	return c
}

// exclusive refuses two of the flags at once. It is
// cobra.Command.MarkFlagsMutuallyExclusive with exit status 2.
func exclusive(c *cobra.Command, names ...string) {
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		first := ""
		for _, n := range names {
			switch {
			case !c.Flags().Changed(n):
			case first != "":
				return usageError{fmt.Errorf("--%s and --%s exclude each other", first, n)}
			default:
				first = n
			}
		}
		return nil
	}
}

func newVolume() *cobra.Command {
	group := newGroup("volume", "the disk on which k3s and pods keep their data")
	group.AddCommand(
		hidden("start", "open the volume", func(c *cobra.Command) error { return volume.Start(c.OutOrStdout(), consoleLog()) }),
		hidden("stop", "close the volume", func(c *cobra.Command) error { return volume.Stop(c.OutOrStdout()) }),
		newVerb("forget", "take a blank disk where the node had a volume that is gone", func(c *cobra.Command) error {
			return volume.Forget(c.OutOrStdout())
		}),
		newUnlock(),
	)
	return group
}

func newUnlock() *cobra.Command {
	var isNew bool
	c := newVerb("unlock [--new]", "open an encrypted volume with the passphrase from standard input", func(c *cobra.Command) error {
		return volume.Unlock(c.InOrStdin(), c.OutOrStdout(), isNew, consoleLog())
	})
	c.Flags().BoolVar(&isNew, "new", false, "make the passphrase that of a blank disk")
	return c
}

func newUpgrade() *cobra.Command {
	var o upgrade.Options
	c := &cobra.Command{
		Use: "upgrade [flags] REFERENCE", Short: "bring an image onto the other slot and try it; it is kept if it is well",
		Example: "  pikeletd upgrade registry.example/pi/lab:1.4\n" +
			"  pikeletd upgrade --dry-run registry.example/pi/lab:stable\n" +
			"  pikeletd upgrade /var/lib/pikelet/volume/lab-1.4.tar",
		Args: exactArgs(1),
	}
	c.Long = "Bring an image onto the other slot and restart into its trial. It is kept if all checks hold.\n" +
		"REFERENCE names an image in a registry, or a directory or archive that pikelet pull wrote."
	f := c.Flags()
	f.BoolVar(&o.PlainHTTP, "plain-http", false, "speak HTTP without TLS to the registry")
	f.BoolVar(&o.Again, "again", false, "take a release that failed here before")
	f.BoolVar(&o.Drill, "drill", false, "try it, and come back however well it went")
	f.BoolVar(&o.DryRun, "dry-run", false, "print how the image would be fetched, and how much that is, and do nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		return cancellable(func(ctx context.Context, c *cobra.Command) error {
			return withFlags(upgrade.To(ctx, args[0], o, c.OutOrStdout(), consoleLog()))
		})(c)
	}
	return c
}

func newRollback() *cobra.Command {
	var o upgrade.Options
	c := newVerb("rollback [flags]", "try what the other slot holds; it is kept if it is well",
		cancellable(func(ctx context.Context, c *cobra.Command) error {
			return withFlags(upgrade.Rollback(ctx, o, c.OutOrStdout(), consoleLog()))
		}))
	f := c.Flags()
	f.BoolVar(&o.Drill, "drill", false, "try it, and come back however well it went")
	f.BoolVar(&o.Again, "again", false, "take a release that failed here before")
	return c
}

// withFlags adds to errors of libraries, which know no flags, the one that helps.
func withFlags(err error) error {
	switch {
	case errors.Is(err, updater.ErrFailedHere):
		return hint.With(err, "say --again to try it all the same")
	case errors.Is(err, registry.ErrWithoutTLS):
		return hint.With(err, "say --plain-http to use the registry without TLS")
	}
	return err
}

// consoleLog returns the log of services and the daemon: the console of the node.
func consoleLog() *slog.Logger { return slog.New(console.NewHandler(console.Writer{}, "pikelet")) }

func newBackup() *cobra.Command {
	return &cobra.Command{
		Use: "backup write | restore | now", Short: "back up this node's k3s server, or restore it", DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			err := unix.Exec(node.BackupProgram, append([]string{node.BackupProgram}, args...), os.Environ())
			if errors.Is(err, fs.ErrNotExist) {
				return hint.With(errors.New("this image makes no backups"), "add the overlay backup to its spec")
			}
			return fmt.Errorf("running %s: %w", node.BackupProgram, err)
		},
	}
}
