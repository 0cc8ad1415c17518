package cli

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

//go:embed nodes.yaml
var startingInventory string

func newNode(a *app) *cobra.Command {
	c := group(&cobra.Command{Use: "node", Short: "Check, show and write node configs", GroupID: groupNodes})
	c.AddCommand(newNodeInit(a), newNodeCheck(a), newNodeShow(a), newNodeWrite(a), newNodeSend(a), newNodeEncrypt(a), newNodeReplace(a))
	return c
}

// nodeOptions select a node of an inventory.
type nodeOptions struct {
	machine  nodeconfig.Machine
	stream   string
	identity string
}

func (o *nodeOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.machine.Name, "node", "", "select a node of the inventory by `NAME`, its hostname")
	f.StringVar(&o.stream, "stream", "", "`NAME` of the image's stream, from which nodes without a hostname take their name")
	complete(c, "node", completeNode)
	o.addMachineFlags(c)
}

// addMachineFlags adds the flags that select a node by its machine, and those
// for its secrets.
func (o *nodeOptions) addMachineFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.machine.Serial, "serial", "", "select a node of the inventory by its serial `NUMBER`")
	f.StringVar(&o.machine.MAC, "mac", "", "select a node of the inventory by its Ethernet `ADDRESS`")
	f.StringVar(&o.machine.Board, "board", "", "select a node of the inventory by its `BOARD`")
	complete(c, "board", completeBoard)
	addIdentityFlag(c, &o.identity)
}

func addIdentityFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "identity", "", "`FILE` with age keys for secrets (default: age.key in pikelet's configuration directory)")
}

// load reads a file and returns the config of the selected node.
func (o *nodeOptions) load(file string) (*nodeconfig.Config, error) {
	d, err := provision.Load(file)
	if err != nil {
		return nil, err
	}
	if d.Inventory != nil && o.machine == (nodeconfig.Machine{}) {
		return nil, hint.With(usagef("%s is an inventory; want one of its nodes", file), "name it with --node, --serial, --mac or --board")
	}
	if _, err := d.CheckK3s(); err != nil {
		return nil, err
	}
	o.machine.Serial, o.machine.MAC = strings.ToLower(o.machine.Serial), strings.ToLower(o.machine.MAC)
	keys, err := o.keys()
	if err != nil {
		return nil, err
	}
	return provision.Config(d, o.machine, o.stream, keys)
}

func (o *nodeOptions) keys() (*provision.Keys, error) {
	if o.identity != "" {
		if _, err := os.Stat(o.identity); err != nil {
			return nil, err
		}
		return provision.LoadKeys(o.identity)
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return nil, err
	}
	return provision.LoadKeys(filepath.Join(dir, "pikelet", "age.key"))
}

func newNodeInit(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented inventory to start from",
		Long: `Write a commented inventory to start from, nodes.yaml by default, and its JSON
schema for editors beside it. Existing files are left as they are.`,
		Example: "  pikelet node init nodes.yaml",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			file := "nodes.yaml"
			if len(args) == 1 {
				file = args[0]
			}
			if err := create(file, startingInventory); err != nil {
				return err
			}
			schema := filepath.Join(filepath.Dir(file), "nodes.schema.json")
			if err := create(schema, string(nodeconfig.Schema())); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
			a.result(map[string]string{"inventory": file, "schema": schema}, file+"\nChange what is marked, then: pikelet node check "+file)
			return nil
		},
	}
}

func newNodeCheck(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Check node configs and inventories",
		Long: `Check node configs and inventories, and print all mistakes, each with file, line
and field. Encrypted secrets are not decrypted. The exit status is 2 if there are
mistakes.`,
		Example: "  pikelet node check nodes.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("want the files to check")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var errs []error
			nodes := 0
			for _, file := range args {
				d, err := provision.Load(file)
				if err == nil {
					var warnings []string
					warnings, err = d.CheckK3s()
					for _, w := range warnings {
						a.log.Warn("k3s option is ignored", "problem", w)
					}
				}
				errs = append(errs, err)
				if err == nil && d.Inventory != nil {
					nodes += len(d.Inventory.Nodes)
				} else {
					nodes++
				}
			}
			if err := errors.Join(errs...); err != nil {
				return err
			}
			a.result(map[string]int{"nodes": nodes}, fmt.Sprintf("%d nodes checked", nodes))
			return nil
		},
	}
}

func newNodeShow(a *app) *cobra.Command {
	var o nodeOptions
	var secrets bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show the config and the identity of one node",
		Long: `Show the config of one node: the inventory's defaults merged with the node's own
settings. Secrets are shown with --secrets only. If the inventory has a cluster
secret, the identity of the node is known before it starts: its SSH host key for
known_hosts, and its IQN for the NAS.`,
		Example: "  pikelet node show nodes.yaml --node attic",
		Args:    exactly(1, "a node config or an inventory"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := o.load(args[0])
			if err != nil {
				return err
			}
			shown := cfg
			if !secrets {
				if shown, err = provision.Redacted(cfg); err != nil {
					return err
				}
			}
			b, err := shown.Encode()
			if err != nil {
				return err
			}
			out := map[string]string{"config": string(b)}
			text := string(b)
			id, known, err := provision.Identity(cfg, "")
			if err != nil {
				return err
			}
			if known {
				iqn := id.IQN
				if cfg.ISCSI.Initiator != "" {
					iqn = cfg.ISCSI.Initiator
				}
				out["hostname"], out["hostKey"], out["fingerprint"], out["iqn"] = id.Hostname, id.PublicKey(), id.Fingerprint(), iqn
				text += fmt.Sprintf("# known_hosts: %s %s\n# IQN: %s\n", id.Hostname, id.PublicKey(), iqn)
			}
			a.result(out, strings.TrimRight(text, "\n"))
			return nil
		},
	}
	o.addFlags(c)
	c.Flags().BoolVar(&secrets, "secrets", false, "also show secrets")
	return c
}

func newNodeWrite(a *app) *cobra.Command {
	var o nodeOptions
	c := &cobra.Command{
		Use:   "write FILE CARD",
		Short: "Write the config of one node to its card or to a disk image",
		Long: `Write the config of one node to its card or to a disk image, in place. At its
next boot the node moves the config to its state partition.`,
		Example: "  pikelet node write nodes.yaml /dev/sdb --node attic",
		Args:    exactly(2, "a node config or an inventory, and a card or disk image"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := o.load(args[0])
			if err != nil {
				return err
			}
			if err := provision.Write(args[1], cfg); err != nil {
				return err
			}
			a.result(map[string]string{"card": args[1], "hostname": cfg.Hostname}, "written to "+args[1])
			return nil
		},
	}
	o.addFlags(c)
	return c
}

func newNodeSend(a *app) *cobra.Command {
	var o nodeOptions
	var ssh overSSH
	c := &cobra.Command{
		Use:   "send FILE HOST",
		Short: "Send the config of one node to it, for its next boot",
		Long: `Send the config of one node to it over ssh, with your own keys and ~/.ssh/config.
The node checks and keeps it, and uses it from its next boot on.`,
		Example: "  pikelet node send nodes.yaml attic.local --node attic",
		Args:    exactly(2, "a node config or an inventory, and a host as ssh takes it"),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := o.load(args[0])
			if err != nil {
				return err
			}
			text, err := cfg.Encode()
			if err != nil {
				return err
			}
			if err := a.remote(c.Context(), &ssh, args[1], bytes.NewReader(text), "config"); err != nil {
				return fmt.Errorf("sending the config to %s: %w", args[1], err)
			}
			return nil
		},
	}
	o.addFlags(c)
	ssh.addFlags(c)
	return c
}

// overSSH runs subcommands of pikeletd on a node.
type overSSH struct {
	config  string
	options []string // of ssh
}

func (r *overSSH) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&r.config, "ssh-config", "", "configuration `FILE` for ssh (default: your own)")
}

// remote runs a subcommand of pikeletd on a host. What it prints is the result.
func (a *app) remote(ctx context.Context, r *overSSH, host string, stdin io.Reader, verb ...string) error {
	cmd, err := r.command(ctx, host, verb)
	if err != nil {
		return err
	}
	var captured bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, a.out, a.err
	if a.json {
		cmd.Stdout, cmd.Stderr = &captured, &captured
	}
	err = cmd.Run()
	if a.json {
		a.result(map[string]string{"host": host, "output": captured.String()}, "")
	}
	return err
}

// command returns ssh with a subcommand of pikeletd.
func (r *overSSH) command(ctx context.Context, host string, verb []string) (*exec.Cmd, error) {
	if strings.HasPrefix(host, "-") {
		return nil, usagef("%q is not a host", host)
	}
	args := append([]string{host, "doas", "/usr/sbin/pikeletd"}, verb...)
	if r.config != "" {
		args = append([]string{"-F", r.config}, args...)
	}
	return exec.CommandContext(ctx, "ssh", slices.Concat(r.options, args)...), nil
}

func newNodeEncrypt(a *app) *cobra.Command {
	var recipients []string
	c := &cobra.Command{
		Use:   "encrypt",
		Short: "Encrypt a secret for an inventory",
		Long: `Encrypt a secret, read from standard input, for an inventory: the result, age:...,
takes the secret's place there. age-keygen creates key pairs and prints the public
key, the recipient.`,
		Example: "  pikelet node encrypt --recipient age1... < token",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := io.ReadAll(io.LimitReader(a.in, nodeconfig.MaxSize))
			if err != nil {
				return err
			}
			text, err := provision.Encrypt(strings.TrimRight(string(b), "\n"), recipients)
			if err != nil {
				return err
			}
			a.result(map[string]string{"secret": text}, text)
			return nil
		},
	}
	c.Flags().StringArrayVarP(&recipients, "recipient", "r", nil, "public `KEY` that may decrypt the secret; repeatable")
	required(c, "recipient")
	return c
}

func newWipe(a *app) *cobra.Command {
	var volume, yes bool
	var ssh overSSH
	c := &cobra.Command{
		Use:   "wipe HOST",
		Short: "Reset a node: erase its config and its identity",
		Long: `Reset a node: erase its config and its identity, with --volume the cluster's data
too. This runs "doas pikeletd reset" there over ssh, with your own keys,
known_hosts and ~/.ssh/config. Without --yes the node prints what would be lost,
and erases nothing.`,
		Example: `  pikelet wipe attic
  pikelet wipe attic --volume --yes`,
		GroupID: groupNodes,
		Args:    exactly(1, "a host, as ssh takes it"),
		RunE: func(c *cobra.Command, args []string) error {
			verb := []string{"reset"}
			if volume {
				verb = append(verb, "--volume")
			}
			if yes {
				verb = append(verb, "--yes")
			}
			if err := a.remote(c.Context(), &ssh, args[0], a.in, verb...); err != nil {
				return fmt.Errorf("wiping %s: %w", args[0], err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&volume, "volume", false, "also erase the data of k3s and pods")
	c.Flags().BoolVar(&yes, "yes", false, "erase; without it only print what would be lost")
	ssh.addFlags(c)
	return c
}
