package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// backupOptions are those of pikelet backup.
type backupOptions struct {
	ssh        overSSH
	file, to   string
	identity   nodeOptions
	recipients []string
	at         storeOptions
}

func newBackup(a *app) *cobra.Command {
	var o backupOptions
	c := &cobra.Command{
		Use:   "backup HOST",
		Short: "Back up the k3s server of a node to a file",
		Long: `Back up the k3s server of a node, while it runs: its datastore, certificates and
tokens, and the identity of the node. The backup is encrypted to your age keys, or to
those that --recipient names; no node can open it. A key of yours also has the file
read back and checked to its last byte. Agents and volumes are not part of it.

With --to the backup goes to a store, such as a NAS or a bucket, and is read back from
there too. Nodes do so by themselves, by a schedule, with backup in their config.

The image of the node needs the overlay backup. A server with etcd makes its own
snapshots.
` + storeHelp,
		Example: `  pikelet backup attic.local
  pikelet backup attic.local -o attic.backup --recipient age1...
  pikelet backup attic.local --to sftp://pi@nas.lan/backups`,
		GroupID: groupNodes,
		Args:    exactly(1, "a host, as ssh takes it"),
		RunE:    func(c *cobra.Command, args []string) error { return o.run(c.Context(), a, args[0]) },
	}
	f := c.Flags()
	f.StringVarP(&o.file, "output", "o", "", "`FILE` to write (default: HOST-TIME.backup)")
	f.StringArrayVarP(&o.recipients, "recipient", "r", nil, "public `KEY` that opens the backup; repeatable (default: those of --identity)")
	f.StringVar(&o.to, "to", "", "`ADDRESS` of a store that keeps the backup")
	c.MarkFlagsMutuallyExclusive("to", "output")
	o.at.addFlags(c)
	addIdentityFlag(c, &o.identity.identity)
	o.ssh.addFlags(c)
	return c
}

// run makes a backup of a host, in a file or in a store.
func (o *backupOptions) run(ctx context.Context, a *app, host string) error {
	file, recipients := o.file, o.recipients
	keys, err := o.identity.keys()
	if err != nil {
		return err
	}
	if len(recipients) == 0 {
		recipients = keys.Recipients()
	}
	if len(recipients) == 0 {
		return hint.With(usagef("no key to encrypt the backup to"),
			"age-keygen -o "+keys.File+" makes one; or name a public one with --recipient")
	}
	if o.to != "" {
		dir, err := os.MkdirTemp("", "pikelet-backup-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		file = filepath.Join(dir, "backup")
	}
	if file == "" {
		file = fmt.Sprintf("%s-%s.backup", strings.ReplaceAll(host, "/", "_"), time.Now().UTC().Format("20060102T150405Z"))
	}
	info, checked, err := a.fetchBackup(ctx, &o.ssh, host, file, recipients, keys)
	if err != nil {
		return fmt.Errorf("backing up %s: %w", host, err)
	}
	out, text := map[string]any{"file": file, "checked": checked}, file
	if o.to != "" {
		node, made := host, time.Now()
		if checked {
			node, made = info.Node, info.Made
		}
		name, err := keepBackup(ctx, o.at, o.to, file, node, made)
		if err != nil {
			return fmt.Errorf("backing up %s to %s: %w", host, o.to, err)
		}
		out, text = map[string]any{"store": o.to, "name": name, "checked": checked}, name
	}
	if checked {
		out["backup"] = info
		text += fmt.Sprintf("\n%s, cluster %s, k3s %s, read back to its last byte", info.Node, info.Cluster, info.K3s)
	} else {
		a.log.Warn("the backup was not read back: " + withoutKey(keys))
	}
	a.result(out, text)
	return nil
}

// withoutKey says why no key opens a backup.
func withoutKey(keys *provision.Keys) string {
	if len(keys.Identities()) == 0 {
		return "no age keys in " + keys.File
	}
	return "it is encrypted to other keys than those in " + keys.File
}

// fetchBackup has a node write a backup to a file, which is there only once it is
// whole. checked is false where no key here opens it. more are flags for the node.
func (a *app) fetchBackup(ctx context.Context, ssh *overSSH, host, file string, recipients []string, keys *provision.Keys,
	more ...string,
) (info backup.Info, checked bool, err error) {
	verb := append([]string{"backup", "write"}, more...)
	for _, r := range recipients {
		verb = append(verb, "--recipient", r)
	}
	cmd, err := ssh.command(ctx, host, verb)
	if err != nil {
		return info, false, err
	}
	part := file + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return info, false, err
	}
	defer os.Remove(part)
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, a.err
	if err := cmd.Run(); err != nil {
		return info, false, err
	}
	info, err = checkBackup(f, keys)
	if err != nil && !errors.Is(err, backup.ErrKey) {
		return info, false, err
	}
	checked = err == nil
	if err := errors.Join(f.Sync(), os.Rename(part, file), atomicfile.Sync(filepath.Dir(file))); err != nil {
		return info, false, err
	}
	return info, checked, nil
}

// checkBackup reads a backup to its last byte.
func checkBackup(f io.ReadSeeker, keys *provision.Keys) (backup.Info, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return backup.Info{}, err
	}
	plain, err := backup.Decrypt(f, keys.Identities()...)
	if err != nil {
		return backup.Info{}, err
	}
	return backup.Extract(plain, func(backup.Info) error { return nil }, func(_ string, _ int64, r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
}

func newRestore(a *app) *cobra.Command {
	var ssh overSSH
	var identity nodeOptions
	var replace, check, forConfig bool
	var at storeOptions
	c := &cobra.Command{
		Use:   "restore BACKUP [HOST]",
		Short: "Restore a backup of a k3s server to a node",
		Long: `Restore a backup of a k3s server to a node: the node checks it, and restarts as that
server, with the cluster's certificates, tokens and objects. Agents find it again
where it has the address that they know. BACKUP is a file, or ADDRESS/NAME in a store.

A node that is a server already is refused; --replace puts what it has aside. A
backup of a newer Kubernetes than the node's release has is refused too. With
--check the backup alone is read, and nothing is sent.

With --for-config nothing is sent either: printed is what makes a fresh node restore the
backup by itself, for its config. The key in it opens this backup alone, and is encrypted
to your own keys as all secrets of an inventory are.
` + storeHelp,
		Example: `  pikelet restore attic-20261130T030000Z.backup attic.local
  pikelet restore --check attic-20261130T030000Z.backup
  pikelet restore s3://backups/homes/attic-20261130T030000Z.backup --for-config`,
		GroupID: groupNodes,
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			if (check || forConfig) == (len(args) == 2) {
				return usagef("want a backup and a host, or a backup and --check or --for-config")
			}
			keys, err := identity.keys()
			if err != nil {
				return err
			}
			failed := func(err error) error {
				if errors.Is(err, backup.ErrKey) {
					err = hint.With(errors.New(withoutKey(keys)), "name the file with your age keys with --identity")
				}
				return fmt.Errorf("restoring %s: %w", args[0], err)
			}
			file, dir, err := fromStore(c.Context(), at, args[0])
			if err != nil {
				return failed(err)
			}
			defer os.RemoveAll(dir)
			info, err := a.restore(c.Context(), &ssh, append([]string{file}, args[1:]...), keys, replace)
			if err != nil {
				return failed(err)
			}
			if forConfig {
				name, key, err := restoreConfig(file, keys)
				if err != nil {
					return failed(err)
				}
				a.result(map[string]any{"name": name, "key": key}, fmt.Sprintf("restore:\n  name: %s\n  key: %s", name, key))
				return nil
			}
			a.result(map[string]any{"backup": info, "restored": !check},
				fmt.Sprintf("%s of %s, cluster %s, k3s %s", info.Node, info.Made.Format(time.RFC3339), info.Cluster, info.K3s))
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&replace, "replace", false, "put the server that the node has aside")
	f.BoolVar(&check, "check", false, "read the backup, and restore nothing")
	f.BoolVar(&forConfig, "for-config", false, "print what has a fresh node restore the backup, and restore nothing")
	c.MarkFlagsMutuallyExclusive("replace", "check", "for-config")
	at.addFlags(c)
	addIdentityFlag(c, &identity.identity)
	ssh.addFlags(c)
	return c
}

// restore reads a backup to its last byte, and then sends it, decrypted, to a host,
// if there is one.
func (a *app) restore(ctx context.Context, ssh *overSSH, args []string, keys *provision.Keys, replace bool) (backup.Info, error) {
	f, err := os.Open(args[0])
	if err != nil {
		return backup.Info{}, err
	}
	defer f.Close()
	info, err := checkBackup(f, keys)
	if err != nil || len(args) == 1 {
		return info, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return info, err
	}
	plain, err := backup.Decrypt(f, keys.Identities()...)
	if err != nil {
		return info, err
	}
	verb := []string{"backup", "restore"}
	if replace {
		verb = append(verb, "--replace")
	}
	cmd, err := ssh.command(ctx, args[1], verb)
	if err != nil {
		return info, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = plain, a.err, a.err
	return info, cmd.Run()
}
