// Package program is pikelet-backup, which backs up the k3s server of the node that
// it runs on, and restores it. It is a program of its own for the size of SQLite.
package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/device/agent/shutdown"
	"github.com/pikelet-os/pikelet/internal/device/agent/statefile"
	"github.com/pikelet-os/pikelet/internal/device/answers"
	"github.com/pikelet-os/pikelet/internal/device/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Main runs a verb with its arguments, and returns the exit status: 0 for success,
// 1 for failure.
func Main(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use: "pikelet-backup", Short: "back up the k3s server of this node, and restore it", SilenceErrors: true, SilenceUsage: true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(newWrite(), newRestore(), newNow(), newRun(), newFetch(),
		newStatus(), newFence(), newUnfence(), newDiscard(), newDrop(), newProbe())
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "pikelet-backup:", err)
	for _, text := range hint.Of(err) {
		fmt.Fprintln(stderr, node.Hint(text))
	}
	return 1
}

func newWrite() *cobra.Command {
	var recipients []string
	var last bool
	c := &cobra.Command{
		Use: "write --recipient KEY", Short: "write a backup to standard output, which KEY alone can open", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return write(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), recipients, last)
		},
	}
	c.Flags().StringArrayVar(&recipients, "recipient", nil, "public `KEY` of age; repeatable")
	c.Flags().BoolVar(&last, "last", false, "the last one of a server that moves: it is fenced, and stopped first")
	return c
}

func newRestore() *cobra.Command {
	var replace bool
	c := &cobra.Command{
		Use: "restore [--replace]", Short: "restore a backup, decrypted, from standard input, and restart into it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return restore(c.Context(), c.InOrStdin(), c.OutOrStdout(), replace)
		},
	}
	c.Flags().BoolVar(&replace, "replace", false, "put the server that this node has aside")
	return c
}

func newNow() *cobra.Command {
	return &cobra.Command{
		Use: "now", Short: "back up to the store that the node config names, at once", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			made, err := makeNow(c.Context(), time.Now())
			if err == nil {
				fmt.Fprintf(c.OutOrStdout(), "%s, %d bytes, read back\n", made.Name, made.Size)
			}
			return err
		},
	}
}

func newRun() *cobra.Command {
	return &cobra.Command{
		Use: "run", Short: "make backups as the node config says", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error {
			return serve(c.Context(), slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil)))
		},
	}
}

func newFetch() *cobra.Command {
	return &cobra.Command{
		Use: "fetch", Short: "restore the backup that the node config names", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error { return fetch(c.Context(), c.OutOrStdout()) },
	}
}

func write(ctx context.Context, out, log io.Writer, recipients []string, last bool) error {
	list, err := age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	if err != nil {
		return fmt.Errorf("reading the recipients: %w", err)
	}
	unlock, err := runfiles.Lock(node.BackupLock)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := thisNode(ctx)
	if err != nil {
		return err
	}
	if t.Last = last; last {
		// Looked at first: a server that may run on is not stopped.
		if err := t.Fenced(); err != nil {
			return err
		}
		if err := stopServer(log); err != nil {
			return err
		}
	}
	info, err := t.Write(ctx, out, time.Now(), list...)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "backed up %s, cluster %s, k3s %s\n", info.Node, info.Cluster, info.K3s)
	return nil
}

func restore(ctx context.Context, in io.Reader, out io.Writer, replace bool) error {
	unlock, err := runfiles.Lock(node.BackupLock)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := thisNode(ctx)
	if err != nil {
		return err
	}
	t.Replace = replace
	t.KeepSeed = func(seed string) error { return statefile.Write(node.SeedFile, []byte(seed+"\n")) }
	info, err := t.Restore(ctx, in)
	if errors.Is(err, backup.ErrRestored) {
		fmt.Fprintf(out, "%v: nothing to do\n", backup.ErrRestored)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "restored %s of %s, cluster %s\n", info.Node, info.Made.Format(time.RFC3339), info.Cluster)
	fmt.Fprintln(out, node.Restarting("into the restored server"))
	return shutdown.Reboot("")
}

// thisNode returns what is known of this node.
func thisNode(ctx context.Context) (backup.Target, error) {
	var t backup.Target
	cfg, err := runfiles.Config()
	if err != nil {
		return t, err
	}
	if cfg.K3s.Role != "server" {
		return t, hint.With(backup.ErrNoServer, "set k3s.role: server in its config")
	}
	p, err := runfiles.Prepared()
	if err != nil {
		return t, err
	}
	b, err := runfiles.Boot()
	if err != nil {
		return t, err
	}
	version, err := k3s.Version()
	if err != nil {
		return t, err
	}
	t.Server = backup.Server{Dir: node.K3sServerDir, Seed: cfg.Seed, Node: p.Hostname, K3s: version, Release: b.Release}
	t.ConfigSeed, t.Token = cfg.Seed, cfg.K3s.Token
	t.Answers = k3s.Addresses(cfg)
	t.Elsewhere = func(addresses, cluster string) string {
		return answers.Elsewhere(ctx, strings.Fields(addresses), cluster)
	}
	if cfg.Seed == "" {
		text, err := os.ReadFile(node.SeedFile)
		if err != nil {
			return t, hint.With(fmt.Errorf("reading the node's seed: %w", err), "a node whose state is in memory has no lasting identity to back up")
		}
		t.Seed = strings.TrimSpace(string(text))
	}
	return t, nil
}
