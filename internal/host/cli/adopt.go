package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/adopt"
	"github.com/pikelet-os/pikelet/internal/host/importer"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// adoptOptions are the flags of pikelet adopt.
type adoptOptions struct {
	importOptions // output is the inventory
	ssh           overSSH
	file          string
	name          string
	stop, leave   bool
}

func newAdoptServer(a *app) *cobra.Command {
	var o adoptOptions
	c := &cobra.Command{
		Use:   "adopt HOST",
		Short: "Take over a k3s server that Pikelet does not run yet",
		Long: `Take over a k3s server that its installer, k3s-ansible or you set up: read its
datastore, certificates, tokens and manifests over SSH into a backup, which
pikelet restore FILE NODE --replace makes a node of Pikelet from, and its options
into an inventory with that node. What the inventory cannot hold is said line by
line. You log in there as root, or as one who may use sudo without a password;
nothing is installed there, and nothing is changed.

While k3s runs, sqlite3 or python3 there copies the datastore as it is at one moment.
Without either, --stop stops k3s for the copy: the API is away meanwhile, and pods go
on. What is written after the copy is lost, so for the move itself use
--leave-stopped, and turn the machine off before the node starts as that server: two
servers of one cluster destroy it.

Machines that wait for a boot server are adopted with pikelet nodes adopt.`,
		Example: `  pikelet adopt pi@192.168.1.10                       # a rehearsal: k3s goes on
  pikelet adopt pi@192.168.1.10 --leave-stopped --force   # the move`,
		GroupID: groupNodes,
		Args:    exactly(1, "a host, as ssh takes it"),
		RunE:    func(c *cobra.Command, args []string) error { return a.adopt(c.Context(), &o, args[0]) },
	}
	f := c.Flags()
	f.StringVarP(&o.file, "output", "o", "", "`FILE` for the backup (default: HOST-TIME.backup)")
	f.StringVar(&o.output, "inventory", "nodes.yaml", "`FILE` for the inventory")
	f.BoolVar(&o.force, "force", false, "replace an existing inventory")
	f.StringVar(&o.name, "name", "", "`NAME` of the node (default: that of the server, with -2)")
	f.BoolVar(&o.stop, "stop", false, "stop k3s for the time of the copy")
	f.BoolVar(&o.leave, "leave-stopped", false, "stop k3s, and start it again only if the copy fails")
	f.StringArrayVarP(&o.recipients, "recipient", "r", nil,
		"public `KEY` that opens the backup and the secrets; repeatable (default: those of --identity)")
	f.StringArrayVar(&o.keys, "ssh-key", nil, "`FILE.pub` with public keys of the administrator of the node; repeatable")
	addIdentityFlag(c, &o.identity.identity)
	o.ssh.addFlags(c)
	return c
}

// adopt reads a server into a backup and an inventory.
func (a *app) adopt(ctx context.Context, o *adoptOptions, host string) error {
	if strings.HasPrefix(host, "-") {
		return usagef("%q is not a host", host)
	}
	if _, err := os.Lstat(o.output); err == nil && !o.force {
		return hint.With(fmt.Errorf("%s was left as it is: %w", o.output, fs.ErrExist), "--force replaces it, and --inventory names another file")
	}
	recipients, options, err := o.prepared()
	if err != nil {
		return err
	}
	opens, err := age.ParseRecipients(strings.NewReader(strings.Join(recipients, "\n")))
	if err != nil {
		return usageError{err}
	}
	run := o.ssh.script(host, a.err)
	server, taken, err := surveyed(ctx, run, options, o.name)
	if err == nil && taken.External {
		err = hint.With(adopt.ErrExternal, "there is nothing to copy: a Pikelet server with the same datastore-endpoint in k3s.options and "+
			"the same token joins it")
	}
	if err == nil {
		err = server.Check(o.stop || o.leave)
	}
	if err != nil {
		return fmt.Errorf("adopting %s: %w", host, err)
	}
	if o.file == "" {
		o.file = fmt.Sprintf("%s-%s.backup", strings.NewReplacer("/", "_", "@", "_").Replace(host), time.Now().UTC().Format("20060102T150405Z"))
	}
	info, small, err := a.copyServer(ctx, o, run, server, taken.Node, opens)
	if err != nil {
		return fmt.Errorf("adopting %s: %w", host, err)
	}
	if taken, err = importer.Server(installed(server, o.name, strings.TrimSpace(string(small["token"]))), options); err != nil {
		return fmt.Errorf("adopting %s: the backup %s is written: %w", host, o.file, err)
	}
	if err := o.writeInventory(taken.Inventory); err != nil {
		return fmt.Errorf("the backup %s is written: %w", o.file, err)
	}
	a.adopted(o, host, info, taken)
	return nil
}

// prepared returns the public keys that open a backup, and the options of an import.
func (o *importOptions) prepared() (recipients []string, options importer.Options, err error) {
	if recipients, err = o.sealTo(); err != nil {
		return nil, options, err
	}
	if len(recipients) == 0 {
		return nil, options, hint.With(usagef("no key to encrypt the backup to"),
			"age-keygen -o age.key in pikelet's configuration directory makes one; or name a public one with --recipient")
	}
	options.Seal = func(secret string) (string, error) { return provision.Encrypt(secret, recipients) }
	options.Keys, err = o.publicKeys()
	return recipients, options, err
}

// surveyed asks what a server is, where it says that it is.
func surveyed(ctx context.Context, run adopt.Run, options importer.Options, name string) (*adopt.Server, *importer.Taken, error) {
	dir := adopt.DataDir
	for {
		server, err := adopt.Survey(ctx, run, "", dir)
		if err != nil {
			return nil, nil, err
		}
		taken, err := importer.Server(installed(server, name, ""), options)
		if err != nil {
			return nil, nil, err
		}
		if moved := taken.DataDir; moved == "" || moved == dir || !path.IsAbs(moved) || dir != adopt.DataDir {
			return server, taken, nil
		}
		dir = path.Clean(taken.DataDir)
	}
}

func installed(s *adopt.Server, name, token string) importer.Installed {
	return importer.Installed{
		Files: s.Files, Configs: s.Files.Below("etc/rancher/k3s/config.yaml.d"), Drops: s.Files.Below("etc/systemd/system/k3s.service.d"),
		Node: s.Node, NewName: name, Addresses: s.Addresses, Token: token, Static: s.Static,
	}
}

// copyServer writes a backup of a server, which is there only once it is whole and
// was read back, if a key here opens it.
func (a *app) copyServer(ctx context.Context, o *adoptOptions, run adopt.Run, s *adopt.Server, node string, opens []age.Recipient,
) (info backup.Info, small map[string][]byte, err error) {
	spool, err := os.MkdirTemp(filepath.Dir(o.file), ".pikelet-adopt-")
	if err != nil {
		return info, nil, err
	}
	defer os.RemoveAll(spool)
	defer func() {
		if err != nil && o.leave {
			err = errors.Join(err, s.Start(context.WithoutCancel(ctx), run))
		}
	}()
	part := o.file + ".part"
	f, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return info, nil, err
	}
	defer os.Remove(part)
	defer f.Close()
	how := adopt.Copying{Node: node, Spool: spool, Stop: o.stop, Leave: o.leave, Now: time.Now()}
	if info, small, err = s.Copy(ctx, run, f, how, opens...); err != nil {
		return info, nil, err
	}
	keys, err := o.identity.keys()
	if err != nil {
		return info, nil, err
	}
	if _, err := checkBackup(f, keys); errors.Is(err, backup.ErrKey) {
		a.log.Warn("the backup was not read back: it is encrypted to other keys than yours")
	} else if err != nil {
		return info, nil, err
	}
	return info, small, errors.Join(f.Sync(), os.Rename(part, o.file), atomicfile.Sync(filepath.Dir(o.file)))
}

// adopted prints what was made, and what comes next.
func (a *app) adopted(o *adoptOptions, host string, info backup.Info, taken *importer.Taken) {
	var text strings.Builder
	for i := range taken.Notes {
		taken.Notes[i].File = host + ":/" + taken.Notes[i].File
		fmt.Fprintln(&text, taken.Notes[i])
	}
	fmt.Fprintf(&text, "%s: server %s, cluster %s, k3s %s\n", o.file, info.Node, info.Cluster, info.K3s)
	fmt.Fprintf(&text, "%s: one node; %d lines to look at\n", o.output, len(taken.Notes))
	if o.leave {
		fmt.Fprintf(&text, "k3s on %s is stopped, and starts again when it boots: turn it off before the node takes its place\n", host)
	} else {
		fmt.Fprintf(&text, "k3s on %s runs, and what it writes from now on is not in the backup; --leave-stopped is for the move\n", host)
	}
	fmt.Fprintf(&text, "then: pikelet restore %s NODE --replace", o.file)
	a.result(map[string]any{
		"backup": o.file, "info": info, "inventory": o.output, "notes": taken.Notes, "leftOut": taken.LeftOut, "stopped": o.leave,
	}, text.String())
}

// script returns what runs a script of sh as root on a host.
func (r *overSSH) script(host string, stderr io.Writer) adopt.Run {
	return func(ctx context.Context, script string, w io.Writer) error {
		args := []string{host, `if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi`}
		if r.config != "" {
			args = append([]string{"-F", r.config}, args...)
		}
		cmd := exec.CommandContext(ctx, "ssh", args...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(script), w, stderr
		return cmd.Run()
	}
}
