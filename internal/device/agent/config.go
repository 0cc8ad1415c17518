package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/device/agent/k3s"
	"github.com/pikelet-os/pikelet/internal/device/agent/prepare"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

func newConfig() *cobra.Command {
	c := newVerb("config", "take a node config from standard input, for the next boot", func(c *cobra.Command) error {
		return prepare.TakeSent(c.InOrStdin(), c.OutOrStdout())
	})
	var wait time.Duration
	try := newVerb("try [--wait DURATION]", "restart with a node config from standard input, and go back unless it is confirmed",
		func(c *cobra.Command) error { return prepare.TrySent(c.InOrStdin(), c.OutOrStdout(), wait) })
	try.Flags().DurationVar(&wait, "wait", node.DefaultConfigTrial, "how long the confirmation is waited for, once the node is up")
	var key string
	show := newVerb("show --key HEX", "print the config that the node keeps, with digests in the place of secrets",
		func(c *cobra.Command) error { return prepare.Show(key, c.OutOrStdout()) })
	show.Flags().StringVar(&key, "key", "", "hexadecimal digits that the digests are made with")
	confirm := &cobra.Command{
		Use: "confirm [DIGEST]", Short: "keep the config that the node tries, if it has this digest",
		Args: func(c *cobra.Command, args []string) error { return exactArgs(min(len(args), 1))(c, args) },
		RunE: func(c *cobra.Command, args []string) error {
			return prepare.Confirm(strings.Join(args, ""), c.OutOrStdout())
		},
	}
	c.AddCommand(try, show, confirm)
	return c
}

func newKubeconfig() *cobra.Command {
	return newVerb("kubeconfig", "print the kubeconfig of this k3s server, which lets its holder do anything in the cluster",
		func(c *cobra.Command) error { return kubeconfig(c.OutOrStdout()) })
}

// kubeconfig prints what k3s wrote for whoever administers the cluster.
func kubeconfig(out io.Writer) error {
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	if cfg.K3s.Role != "server" {
		return hint.With(errors.New("this node is no k3s server"), "ask one that is")
	}
	b, err := os.ReadFile(k3s.Kubeconfig(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return hint.With(fmt.Errorf("k3s has not written its kubeconfig yet: %w", err), "pikeletd status says how k3s is")
	}
	if err != nil {
		return err
	}
	_, err = out.Write(b)
	return err
}
