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
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

//go:embed nodes.yaml
var startingInventory string

func newNode(say *teller) *cobra.Command {
	c := &cobra.Command{Use: "node", Short: "Check, show and write what makes each node itself"}
	c.AddCommand(newNodeInit(say), newNodeCheck(say), newNodeShow(say), newNodeWrite(say), newNodeSend(), newNodeEncrypt())
	return c
}

// nodeOptions say which node of a file is meant.
type nodeOptions struct {
	machine  nodeconfig.Machine
	stream   string
	identity string
}

func (o *nodeOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.machine.Name, "node", "", "the node of an inventory, by its hostname")
	f.StringVar(&o.machine.Serial, "serial", "", "the node of an inventory, by its serial number")
	f.StringVar(&o.machine.MAC, "mac", "", "the node of an inventory, by its Ethernet address")
	f.StringVar(&o.machine.Board, "board", "", "the node of an inventory, by its board")
	f.StringVar(&o.stream, "stream", "", "the image's stream, from which nodes without a hostname take their name")
	f.StringVar(&o.identity, "identity", "", "file with age keys for secrets (default: age.key in pikelet's configuration folder)")
}

// load reads the file and makes the one node's config.
func (o *nodeOptions) load(file string) (*nodeconfig.Config, error) {
	d, err := provision.Load(file)
	if err != nil {
		return nil, err
	}
	if d.Inventory != nil && o.machine == (nodeconfig.Machine{}) {
		return nil, usageError{fmt.Errorf("%s is an inventory; say which node: --node NAME, --serial, --mac or --board", file)}
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

func newNodeInit(say *teller) *cobra.Command {
	return &cobra.Command{
		Use:   "init [FILE]",
		Short: "Write a commented inventory to start from",
		Long: `Write a commented inventory to start from, nodes.yaml unless told otherwise,
and its JSON schema for editors beside it.`,
		Args: cobra.MaximumNArgs(1),
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
			say.result(map[string]string{"inventory": file, "schema": schema}, file+"\nChange what is marked, then: pikelet node check "+file)
			return nil
		},
	}
}

func newNodeCheck(say *teller) *cobra.Command {
	return &cobra.Command{
		Use:   "check FILE...",
		Short: "Say everything that is wrong with node configs or inventories",
		Long: `Say everything that is wrong with node configs or inventories, each with file,
line and field. Secrets that are encrypted stay so. Exit status 2: something is.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("want the files to check")}
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
						say.warning(w)
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
			say.result(map[string]int{"nodes": nodes}, fmt.Sprintf("good: %d nodes", nodes))
			return nil
		},
	}
}

func newNodeShow(say *teller) *cobra.Command {
	var o nodeOptions
	var secrets bool
	c := &cobra.Command{
		Use:   "show FILE",
		Short: "Show what one node gets, and who it will be",
		Long: `Show what one node gets: defaults and its own together, secrets decrypted but
not shown unless asked for. Where an inventory has a cluster secret, who the
node will be is known before it starts: its SSH host key goes into known_hosts,
its IQN into the NAS.`,
		Args: exactly(1, "a node config or an inventory"),
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
			say.result(out, strings.TrimRight(text, "\n"))
			return nil
		},
	}
	o.addFlags(c)
	c.Flags().BoolVar(&secrets, "secrets", false, "show secrets too")
	return c
}

func newNodeWrite(say *teller) *cobra.Command {
	var o nodeOptions
	c := &cobra.Command{
		Use:   "write FILE CARD",
		Short: "Write one node's config onto its card, or into a disk image",
		Long: `Write one node's config onto its card, or into a disk image: over the file that
is there for it, in place. The node takes it at its next boot, keeps it on its
state partition, and takes it off the card.`,
		Args: exactly(2, "a node config or an inventory, and a card or disk image"),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := o.load(args[0])
			if err != nil {
				return err
			}
			if err := provision.Write(args[1], cfg); err != nil {
				return err
			}
			say.result(map[string]string{"card": args[1], "hostname": cfg.Hostname}, "written to "+args[1])
			return nil
		},
	}
	o.addFlags(c)
	return c
}

func newNodeSend() *cobra.Command {
	var o nodeOptions
	var ssh overSSH
	c := &cobra.Command{
		Use:   "send FILE HOST",
		Short: "Send one node's config to it, for its next boot",
		Long: `Send one node's config to it over your own ssh. The node checks it, keeps it,
and goes by it from its next boot on; nothing changes before that.`,
		Args: exactly(2, "a node config or an inventory, and a host as ssh takes it"),
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := o.load(args[0])
			if err != nil {
				return err
			}
			text, err := cfg.Encode()
			if err != nil {
				return err
			}
			if err := ssh.run(c.Context(), args[1], bytes.NewReader(text), "config"); err != nil {
				return fmt.Errorf("%s did not take the config: %w", args[1], err)
			}
			return nil
		},
	}
	o.addFlags(c)
	ssh.addFlags(c)
	return c
}

// overSSH runs pikeletd's verbs on a node.
type overSSH struct{ config string }

func (r *overSSH) addFlags(c *cobra.Command) {
	c.Flags().StringVar(&r.config, "ssh-config", "", "a configuration file for ssh (default: your own)")
}

func (r *overSSH) run(ctx context.Context, host string, stdin io.Reader, verb ...string) error {
	cmd, err := r.command(ctx, host, verb)
	if err != nil {
		return err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// command is ssh with a verb of pikeletd's.
func (r *overSSH) command(ctx context.Context, host string, verb []string) (*exec.Cmd, error) {
	if strings.HasPrefix(host, "-") {
		return nil, usageError{fmt.Errorf("%q is no host", host)}
	}
	args := append([]string{host, "doas", "/usr/sbin/pikeletd"}, verb...)
	if r.config != "" {
		args = append([]string{"-F", r.config}, args...)
	}
	return exec.CommandContext(ctx, "ssh", args...), nil
}

func newNodeEncrypt() *cobra.Command {
	var recipients []string
	c := &cobra.Command{
		Use:   "encrypt",
		Short: "Encrypt a secret for an inventory: from standard input to age:...",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if len(recipients) == 0 {
				return usageError{errors.New("want --recipient age1..., the public key that age-keygen prints")}
			}
			b, err := io.ReadAll(io.LimitReader(os.Stdin, nodeconfig.MaxSize))
			if err != nil {
				return err
			}
			text, err := provision.Encrypt(strings.TrimRight(string(b), "\n"), recipients)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), text)
			return nil
		},
	}
	c.Flags().StringArrayVarP(&recipients, "recipient", "r", nil, "who may decrypt it; more than once for several")
	return c
}

func newWipe() *cobra.Command {
	var volume, yes bool
	var ssh overSSH
	c := &cobra.Command{
		Use:   "wipe HOST",
		Short: "Have a node forget its config and identity and start over",
		Long: `Have a node forget its config and identity and start over; with --volume the
cluster's data too. It runs "doas pikeletd reset" there over your own ssh, so
your keys, known_hosts and ~/.ssh/config count. Without --yes the node says
what would be lost, and nothing is.`,
		Args: exactly(1, "a host, as ssh takes it"),
		RunE: func(c *cobra.Command, args []string) error {
			verb := []string{"reset"}
			if volume {
				verb = append(verb, "--volume")
			}
			if yes {
				verb = append(verb, "--yes")
			}
			if err := ssh.run(c.Context(), args[0], os.Stdin, verb...); err != nil {
				return fmt.Errorf("%s was not wiped: %w", args[0], err)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&volume, "volume", false, "the data of k3s and pods too")
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	ssh.addFlags(c)
	return c
}
