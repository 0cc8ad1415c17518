package cli

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/host/replace"
	"github.com/pikelet-os/pikelet/internal/host/rollouts"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
)

// replaceOptions are those of pikelet node replace.
type replaceOptions struct {
	ssh        overSSH
	identity   nodeOptions
	inventory  string
	kubeconfig string
	board      provision.Board
	host       string
	wait       time.Duration
	drain      rollout.Drain
}

// serialForm is a serial number as an inventory has it.
var serialForm = regexp.MustCompile(`^[0-9a-f]{8}([0-9a-f]{8})?$`)

// lookEvery is how often the cluster is asked how far a replacement is.
const lookEvery = 2 * time.Second

func newNodeReplace(a *app) *cobra.Command {
	o := &replaceOptions{}
	c := &cobra.Command{
		Use:   "replace NAME --serial NUMBER",
		Short: "Have another board take the place of an agent",
		Long: `Have another board take the place of an agent: it gets its name, its identity, its
volume on iSCSI or on a disk that moves along, and its pods. The old board, where it
is connected, is drained and turned off. The inventory gets the new serial number and
the next generation of the node, and keeps its comments. The cluster forgets the old
board's password. Then flash the new board, or boot it over the network; the command
waits until it is Ready. The same command again goes on where it was interrupted.

The old board is refused when it comes back: by the API server, once the new one has
joined, and by the volume, which keeps the generation, once the new one has opened it.`,
		Example: "  pikelet node replace attic --serial 9abcdef0 --inventory nodes.yaml --kubeconfig k3s.yaml",
		Args:    exactly(1, "the name of a node of the inventory"),
		RunE: func(c *cobra.Command, args []string) error {
			o.board.Serial, o.board.MAC = strings.ToLower(o.board.Serial), strings.ToLower(o.board.MAC)
			if !serialForm.MatchString(o.board.Serial) {
				return usagef("--serial %q: want 8 or 16 hexadecimal digits, as in /proc/cpuinfo of the new board", o.board.Serial)
			}
			if err := a.replaceNode(c.Context(), o, args[0]); err != nil {
				return fmt.Errorf("replacing the board of %s: %w", args[0], err)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&o.board.Serial, "serial", "", "serial `NUMBER` of the new board, or its last eight digits")
	f.StringVar(&o.board.MAC, "mac", "", "Ethernet `ADDRESS` of the new board, where the inventory has that of the old one")
	f.StringVar(&o.inventory, "inventory", "nodes.yaml", "`FILE` with the inventory, which is changed")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "`FILE` with the cluster's address and your credentials (default: kubectl's)")
	f.StringVar(&o.host, "host", "", "the node as ssh takes it (default: its name)")
	f.DurationVar(&o.wait, "wait", 30*time.Minute, "how long to wait for the old board to go, and for the new one to join")
	f.DurationVar(&o.drain.Timeout, "drain-timeout", 15*time.Minute, "how long pods may take to leave the old board")
	f.BoolVar(&o.drain.Force, "force", false, "evict pods too that no controller makes anew")
	f.BoolVar(&o.drain.LocalData, "delete-emptydir-data", false, "evict pods too that keep data in an emptyDir")
	required(c, "serial")
	addIdentityFlag(c, &o.identity.identity)
	o.ssh.addFlags(c)
	return c
}

// replaceNode does what is left of a replacement.
func (a *app) replaceNode(ctx context.Context, o *replaceOptions, name string) error {
	cfg, here, err := o.entry(name)
	if err != nil {
		return err
	}
	if cfg.K3s.Role == "server" {
		return hint.With(fmt.Errorf("%s is a server, and a board of it alone takes no cluster along", name),
			"move the server to another node: pikelet move server; or restore its backup: pikelet restore")
	}
	client, _, err := rollouts.Connect(o.kubeconfig)
	if err != nil {
		return err
	}
	r := replace.Replacement{
		Client: client, Node: name, Serial: o.board.Serial, Log: a.log, Drain: o.drain, Poll: lookEvery, Now: time.Now,
		PowerOff: func(ctx context.Context) error {
			cmd, err := o.ssh.command(ctx, o.host, []string{"poweroff"})
			if err == nil {
				_, err = runOver(cmd, o.host, nil)
			}
			return err
		},
		Connected: func(ctx context.Context) string { return o.connected(ctx) },
	}
	done, err := a.leaveOld(ctx, o, r, here)
	if err != nil || done {
		return err
	}
	if !here {
		if _, err := provision.ReplaceBoard(o.inventory, name, o.board); err != nil {
			return err
		}
		a.log.Info("the inventory has the new board", "file", o.inventory, "node", name, "serial", o.board.Serial)
	}
	if err := r.Refuse(ctx); err != nil {
		return err
	}
	a.log.Info("now flash the new board, or boot it over the network", "hint", fmt.Sprintf(
		"pikelet flash IMAGE CARD --inventory %s --node %s; or restart pikelet serve, which reads the inventory when it starts",
		o.inventory, name))
	if err := r.Await(ctx, o.wait); err != nil {
		return hint.With(err, "run the same command again: it goes on waiting")
	}
	a.result(map[string]any{"node": name, "serial": o.board.Serial, "changed": true}, name+" is the board "+o.board.Serial+" now")
	return nil
}

// leaveOld has the old board leave, where it has not yet. done is true where there is
// nothing to replace. here is whether the inventory has the new board.
func (a *app) leaveOld(ctx context.Context, o *replaceOptions, r replace.Replacement, here bool) (done bool, err error) {
	begun, err := r.Begun(ctx)
	if err != nil {
		return false, err
	}
	if here && begun {
		stays, err := r.Stays(ctx)
		if err != nil || !stays {
			return false, err
		}
	}
	if here && !begun {
		ready, err := r.Ready(ctx)
		if err != nil {
			return false, err
		}
		if ready && provision.SameBoard(o.connected(ctx), o.board.Serial) {
			a.result(map[string]any{"node": r.Node, "serial": o.board.Serial, "changed": false},
				r.Node+" is the board "+o.board.Serial+" already")
			return true, nil
		}
	}
	return false, r.Leave(ctx, o.wait)
}

// entry returns the config of the node, and whether the inventory has the new board
// for it already. It fails where the inventory cannot be changed.
func (o *replaceOptions) entry(name string) (cfg *nodeconfig.Config, here bool, err error) {
	if o.host == "" {
		o.host = name
	}
	o.ssh.options = lostSoon
	keys, err := o.identity.keys()
	if err != nil {
		return nil, false, err
	}
	changed, err := provision.TrySetBoard(o.inventory, name, o.board)
	if err != nil {
		return nil, false, err
	}
	d, err := provision.Load(o.inventory)
	if err != nil {
		return nil, false, err
	}
	cfg, err = provision.Config(d, nodeconfig.Machine{Name: name}, "", keys)
	return cfg, !changed, err
}

// connected returns the serial number of the board that ssh reaches as the node; ""
// for none.
func (o *replaceOptions) connected(ctx context.Context) string {
	cmd, err := o.ssh.command(ctx, o.host, []string{"status", "--json"})
	if err != nil {
		return ""
	}
	b, err := runOver(cmd, o.host, nil)
	if err != nil {
		return ""
	}
	s, err := node.DecodeStatus(b)
	if err != nil {
		return ""
	}
	return s.Node.Serial
}
