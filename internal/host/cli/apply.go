package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/apply"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/host/remote"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// How long a node may take to restart or its k3s to be ready, and how often it is asked:
// a Pi 3 with k3s takes some three minutes.
const (
	restartLimit = 10 * time.Minute
	nodePoll     = 3 * time.Second
)

type applyOptions struct {
	nodes    inventoryOptions
	Parallel int
	Trial    time.Duration
	DryRun   bool
	Check    bool
}

func newApply(a *app) *cobra.Command {
	var o applyOptions
	c := &cobra.Command{
		Use:   "apply INVENTORY [NODE...]",
		Short: "Compare running nodes with their inventory, and bring them what differs",
		Long: `Compare the configs of running nodes with their inventory, show what differs, with
digests in the place of secrets, and bring it to them over ssh. Without names, all
nodes of the inventory are meant. Nodes that cannot be reached are named, and the
others go on.

A node restarts to use its config, and tries it: if it is not reached again within
the time of --trial, as after a mistake in its address or in your SSH key, it restarts
with the config that it had before. k3s servers come one by one, then the other nodes,
--parallel of them at the same time. Once a node went back, or is not ready in its
cluster as it was before, no further one is touched. Running the same command again
goes on where an interrupted one stopped.

A node is found by its hostname, as your ~/.ssh/config has it, and after a change at
the addresses of its new config as well. Its host key is known if the inventory has
a cluster secret, and otherwise looked up in known_hosts. ssh asks for no passphrase:
put your key into an agent.

The exit status is 1 if a node was not reached or did not take its config, and 3 if a
node went back, or differs with --check.`,
		Example: `  pikelet apply nodes.yaml --dry-run
  pikelet apply nodes.yaml
  pikelet apply nodes.yaml attic --host attic=192.168.1.10
  pikelet apply nodes.yaml --check   # in CI`,
		GroupID: groupNodes,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("want an inventory")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return runApply(c.Context(), args[0], args[1:], o, a) },
	}
	f := c.Flags()
	f.IntVar(&o.Parallel, "parallel", 4, "`NUMBER` of agents that restart at the same time")
	f.DurationVar(&o.Trial, "trial", node.DefaultConfigTrial, "how long a node waits to be reached again before it goes back")
	f.BoolVar(&o.DryRun, "dry-run", false, "only show what differs")
	f.BoolVar(&o.Check, "check", false, "only show what differs, and exit with status 3 if anything does")
	c.MarkFlagsMutuallyExclusive("dry-run", "check")
	o.nodes.addFlags(c)
	return c
}

// inventoryOptions find the nodes of an inventory.
type inventoryOptions struct {
	secrets nodeOptions
	ssh     overSSH
	stream  string
	domain  string
	hosts   []string
}

func (o *inventoryOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.stream, "stream", "", "`NAME` of the image's stream, from which nodes without a hostname take their name")
	f.StringVar(&o.domain, "domain", "", "`DOMAIN` behind the hostnames, such as local")
	f.StringArrayVar(&o.hosts, "host", nil, "`NODE=HOST` where a node is, as ssh takes it; repeatable (default: its hostname)")
	addIdentityFlag(c, &o.secrets.identity)
	o.ssh.addFlags(c)
}

// load returns the nodes of an inventory, or those of them that are named, with their
// configs.
func (o *inventoryOptions) load(file string, names []string) ([]apply.Node, error) {
	d, err := provision.Load(file)
	if err != nil {
		return nil, err
	}
	if _, err := d.CheckK3s(); err != nil {
		return nil, err
	}
	keys, err := o.secrets.keys()
	if err != nil {
		return nil, err
	}
	hosts, err := o.places()
	if err != nil {
		return nil, err
	}
	machines := []nodeconfig.Machine{{}}
	if d.Inventory != nil {
		machines = nil
		for _, n := range d.Inventory.Nodes {
			machines = append(machines, nodeconfig.Machine{Name: n.Hostname, Serial: n.Serial, MAC: n.MAC, Board: n.Board})
		}
	}
	var list []apply.Node
	var have []string
	for i, m := range machines {
		cfg, err := provision.Config(d, m, o.stream, keys)
		if err != nil {
			return nil, err
		}
		n, err := o.node(cfg, m.Serial, hosts)
		if err != nil {
			return nil, fmt.Errorf("%s: nodes[%d]: %w", file, i, err)
		}
		have = append(have, n.Name)
		if len(names) == 0 || slices.Contains(names, n.Name) {
			list = append(list, n)
		}
	}
	for _, name := range append(slices.Sorted(maps.Keys(hosts)), names...) {
		if !slices.Contains(have, name) {
			return nil, usagef("%s has no node %q; it has %s", file, name, strings.Join(have, ", "))
		}
	}
	return list, nil
}

// places returns the hosts of --host by the names of their nodes.
func (o *inventoryOptions) places() (map[string]string, error) {
	hosts := map[string]string{}
	for _, h := range o.hosts {
		name, host, ok := strings.Cut(h, "=")
		if !ok || name == "" || host == "" || strings.HasPrefix(host, "-") {
			return nil, usagef("--host %q: want NODE=HOST", h)
		}
		hosts[name] = host
	}
	return hosts, nil
}

// node returns the node of a config, and where it is.
func (o *inventoryOptions) node(cfg *nodeconfig.Config, serial string, hosts map[string]string) (apply.Node, error) {
	name := cfg.Hostname
	if name == "" && o.stream != "" && serial != "" {
		name = node.DefaultName(o.stream, serial)
	}
	if name == "" {
		return apply.Node{}, hint.With(usagef("a node without a hostname"),
			"give it one; or, if it has a serial, name the stream of its image with --stream")
	}
	host := name
	if o.domain != "" {
		host += "." + strings.TrimPrefix(o.domain, ".")
	}
	if h, ok := hosts[name]; ok {
		host = h
	}
	n := apply.Node{Name: name, Serial: serial, At: remote.At{Host: host}, Addresses: addresses(cfg), Config: cfg}
	id, known, err := provision.Identity(cfg, name)
	if known {
		n.At.Keys = []string{id.PublicKey()}
	}
	return n, err
}

// addresses returns the addresses that a config gives a node, but for those that
// several nodes may have.
func addresses(c *nodeconfig.Config) (list []string) {
	for _, i := range c.Network.Interfaces {
		if i.Name == nodeconfig.Loopback || i.Dummy {
			continue
		}
		for _, a := range i.Addresses {
			address, _, _ := strings.Cut(a, "/")
			list = append(list, address)
		}
	}
	return list
}

func runApply(ctx context.Context, file string, names []string, o applyOptions, a *app) error {
	if o.Trial < node.MinConfigTrial || o.Trial > node.MaxConfigTrial {
		return usagef("--trial %v: want %v to %v", o.Trial, node.MinConfigTrial, node.MaxConfigTrial)
	}
	nodes, err := o.nodes.load(file, names)
	if err != nil {
		return err
	}
	key := make([]byte, 32)
	rand.Read(key)
	options := apply.Options{
		Parallel: o.Parallel, Trial: o.Trial, Restart: restartLimit, Poll: nodePoll, Key: key, Log: a.log,
	}
	run := remote.SSH{Config: o.nodes.ssh.config}.Run
	list := apply.Compare(ctx, nodes, run, options)
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.DryRun || o.Check {
		a.showNodes(list)
		err := apply.Outcome(list)
		if o.DryRun && errors.Is(err, apply.ErrDrift) {
			err = nil
			if slices.ContainsFunc(list, func(r apply.Result) bool { return r.Err() != nil }) {
				err = apply.ErrIncomplete
			}
		}
		return err
	}
	for _, r := range list {
		if r.Diff != "" && !a.json {
			fmt.Fprint(a.err, r.Diff)
		}
	}
	apply.Apply(ctx, nodes, list, run, options)
	for i := range list {
		if !a.json {
			list[i].Diff = "" // it was shown before anything was changed
		}
	}
	a.showNodes(list)
	if err := ctx.Err(); err != nil {
		return hint.With(errors.New("interrupted; nodes that try a config go back by themselves"),
			"the same command again goes on, and confirms them")
	}
	return apply.Outcome(list)
}

// showNodes prints how nodes are.
func (a *app) showNodes(list []apply.Result) {
	for _, r := range list {
		text := r.Node + ": " + string(r.State)
		if r.Reason != "" {
			text += ": " + remote.Printable(r.Reason)
		}
		for _, h := range hint.Of(r.Err()) {
			text += "; " + h
		}
		a.result(r, strings.TrimSuffix(text+"\n"+r.Diff, "\n"))
	}
}
