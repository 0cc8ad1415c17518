package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/apply"
	"github.com/pikelet-os/pikelet/internal/host/bringup"
	"github.com/pikelet-os/pikelet/internal/host/remote"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

type upOptions struct {
	nodes      inventoryOptions
	Kubeconfig string
	Server     string
	Overwrite  bool
	Wait       time.Duration
}

func newUp(a *app) *cobra.Command {
	var o upOptions
	c := &cobra.Command{
		Use:   "up INVENTORY IMAGE",
		Short: "Bring up the cluster of an inventory, and write its kubeconfig",
		Long: `Bring up the cluster of an inventory: wait for the server that begins it, for the
other servers, and for the agents, and say at each moment what is waited for. For
nodes that do not answer over ssh yet, the commands that write their cards, or serve
them the image over the network, are printed. Once the first server is ready, the
kubeconfig is written, for its owner alone: with it anything can be done in the
cluster.

How far each node is, it says itself: interrupt the command and run it again at any
time. Nodes are found as by pikelet apply. A kubeconfig of another cluster is
overwritten only with --overwrite.`,
		Example: `  pikelet up nodes.yaml out
  pikelet up nodes.yaml registry.example/pi/homelab:1.4 --domain local --kubeconfig ~/.kube/homelab`,
		GroupID: groupNodes,
		Args:    exactly(2, "an inventory and an image"),
		RunE:    func(c *cobra.Command, args []string) error { return runUp(c.Context(), args[0], args[1], o, a) },
	}
	f := c.Flags()
	f.StringVar(&o.Kubeconfig, "kubeconfig", "k3s.yaml", "`FILE` to write the kubeconfig to")
	f.StringVar(&o.Server, "server", "", "`HOST` of the API server in the kubeconfig (default: where the other nodes join)")
	f.BoolVar(&o.Overwrite, "overwrite", false, "overwrite the kubeconfig of another cluster")
	f.DurationVar(&o.Wait, "wait", time.Hour, "how long to wait for all nodes")
	o.nodes.addFlags(c)
	return c
}

func runUp(ctx context.Context, file, image string, o upOptions, a *app) error {
	nodes, err := o.nodes.load(file, nil)
	if err != nil {
		return err
	}
	if nodes, err = bringup.Order(nodes); err != nil {
		return usageError{fmt.Errorf("%s: %w", file, err)}
	}
	run := remote.SSH{Config: o.nodes.ssh.config}.Run
	var written string
	err = bringup.Up(ctx, nodes, run, bringup.Options{
		Wait: o.Wait, Poll: nodePoll,
		Missing: func(missing []apply.Node) { a.tellMissing(missing, file, image, o.nodes.stream) },
		Waits: func(n apply.Node, what string) {
			if what == "" {
				a.log.Info("ready", "node", n.Name)
				return
			}
			a.log.Info("waiting for "+what, "node", n.Name)
		},
		First: func(n apply.Node, s node.Status) (err error) {
			written, err = writeKubeconfig(ctx, n, kubeconfigHost(o.Server, nodes, s), run, o)
			if err == nil {
				a.log.Info("kubeconfig written", "file", o.Kubeconfig, "server", written)
			}
			return err
		},
	})
	if errors.Is(err, context.Canceled) {
		return hint.With(errors.New("interrupted; the nodes go on by themselves"), "the same command goes on from here")
	}
	if err != nil {
		return err
	}
	a.result(map[string]any{"nodes": len(nodes), "kubeconfig": o.Kubeconfig, "server": written},
		fmt.Sprintf("%d nodes are ready; kubectl --kubeconfig %s get nodes", len(nodes), quoted(o.Kubeconfig)))
	return nil
}

// writeKubeconfig gets the kubeconfig of the first server, and writes it with the host
// where the API server is reached from here. It returns the address in it.
func writeKubeconfig(ctx context.Context, n apply.Node, host string, run remote.Run, o upOptions) (string, error) {
	out, err := run(ctx, n.At, nil, "kubeconfig")
	if e := (*remote.Error)(nil); errors.As(err, &e) && e.Unknown() {
		err = hint.With(errors.New("the release that the node runs is too old to hand it out"),
			"upgrade the node, and run the same command again")
	}
	if err != nil {
		return "", fmt.Errorf("getting the kubeconfig of %s: %w", n.Name, err)
	}
	k, err := bringup.ReadKubeconfig(out)
	if err != nil {
		return "", fmt.Errorf("%s: %w", n.Name, err)
	}
	if k, err = k.At(host); err != nil {
		return "", fmt.Errorf("%s: %w", n.Name, err)
	}
	if err = k.Write(o.Kubeconfig, n.Name, o.Overwrite); errors.Is(err, bringup.ErrOtherCluster) {
		err = hint.With(err, "--overwrite replaces it")
	}
	return k.Server(), err
}

// kubeconfigHost returns where the API server is reached: what was asked for, or where
// the other nodes join, or the first server's own address.
func kubeconfigHost(asked string, nodes []apply.Node, s node.Status) string {
	if asked != "" {
		return asked
	}
	for _, n := range nodes[1:] {
		if u, err := url.Parse(n.Config.K3s.Server); err == nil && u.Hostname() != "" {
			return u.Hostname()
		}
	}
	if len(nodes[0].Addresses) > 0 {
		return nodes[0].Addresses[0]
	}
	if s.Cluster != nil {
		for _, a := range s.Cluster.Addresses {
			if address, ok := strings.CutPrefix(a, "InternalIP "); ok {
				return address
			}
		}
	}
	return nodes[0].At.Host
}

// tellMissing prints how the nodes that do not answer get the image.
func (a *app) tellMissing(missing []apply.Node, file, image, stream string) {
	var names, cards []string
	for _, n := range missing {
		which := "--node " + n.Name
		if n.Config.Hostname == "" {
			which = fmt.Sprintf("--serial %s --stream %s", n.Serial, stream)
		}
		names = append(names, n.Name)
		cards = append(cards, fmt.Sprintf("sudo pikelet flash %s /dev/sdX --inventory %s %s", quoted(image), quoted(file), which))
	}
	serve := fmt.Sprintf("sudo pikelet serve %s --inventory %s --interface eth0 --proxy", quoted(image), quoted(file))
	if a.json {
		a.log.Info("no answer over ssh", "nodes", names, "cards", cards, "netboot", serve)
		return
	}
	fmt.Fprintf(a.err, "no answer over ssh yet: %s\n\nWrite a card for each, and start it:\n\n    %s\n\n"+
		"or start them without cards, over the network:\n\n    %s\n\n",
		strings.Join(names, ", "), strings.Join(cards, "\n    "), serve)
}

// quoted returns a word as a shell takes it.
func quoted(word string) string {
	if plainReference.MatchString(word) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
