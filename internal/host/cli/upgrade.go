package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/pikelet-os/pikelet/internal/host/fleet"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// upgradePoll is how often a node is asked for the result of its upgrade; a
// restart and a soak take a minute or two.
const upgradePoll = 5 * time.Second

type upgradeOptions struct {
	fleet.Options
	ssh     overSSH
	Again   bool
	Drill   bool
	DryRun  bool
	cluster clusterOptions
}

func newUpgrade(a *app) *cobra.Command {
	var o upgradeOptions
	c := &cobra.Command{
		Use:   "upgrade (HOST... | --kubeconfig FILE) REFERENCE",
		Short: "Upgrade nodes in place over SSH, or a whole cluster with its own means, servers first",
		Long: `Upgrade nodes in place over ssh, with your own keys, known_hosts and
~/.ssh/config; a host whose key is not known is refused. The nodes download the
image themselves, so they must reach the registry.

k3s servers are upgraded first and one by one, then the agents, --parallel of them
at the same time. pikelet waits until each node has committed the release or rolled
back. After the first node that rolls back or refuses the release, the remaining
nodes are left as they are.

With --kubeconfig the nodes of a cluster are upgraded as a rollout: they are made
unschedulable, their pods evicted within their disruption budgets, and they are
watched before the next one's turn. The cluster needs no controller for that; where
it has one, that does the work. An interrupt has nodes under way come to their end,
and no further one begin.

The exit status is 3 if a node rolled back.`,
		Example: `  pikelet upgrade attic cellar registry.example/pi/homelab:1.4
  pikelet upgrade --kubeconfig k3s.yaml registry.example/pi/homelab:1.4
  pikelet upgrade --dry-run attic registry.example/pi/homelab:stable`,
		GroupID: groupNodes,
		Args: func(c *cobra.Command, args []string) error {
			return o.checkArgs(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if o.cluster.Kubeconfig != "" {
				return runClusterUpgrade(c.Context(), args[0], &o, a)
			}
			return runUpgrade(c.Context(), args[:len(args)-1], args[len(args)-1], o, a)
		},
	}
	f := c.Flags()
	f.IntVar(&o.Parallel, "parallel", 1, "`NUMBER` of agents to upgrade at the same time")
	f.DurationVar(&o.Wait, "wait", 30*time.Minute, "time limit for a node to commit the release or roll back")
	f.BoolVar(&o.Again, "again", false, "retry a release that failed there before")
	f.BoolVar(&o.DryRun, "dry-run", false, "only print how each node would obtain the release, and how much it would download")
	f.BoolVar(&o.Drill, "drill", false, "try the release on each node and roll back in any case")
	o.ssh.addFlags(c)
	o.cluster.addFlags(c, a)
	return c
}

// checkArgs checks the arguments: a cluster is upgraded whole, and no flag is given
// that would be ignored.
func (o *upgradeOptions) checkArgs(c *cobra.Command, args []string) (err error) {
	whole := o.cluster.Kubeconfig != ""
	switch {
	case !whole && len(args) < 2:
		return usagef("want hosts and a reference, got %d arguments", len(args))
	case whole && len(args) != 1:
		return usagef("want a reference alone with --kubeconfig, got %d arguments", len(args))
	}
	overSSH := []string{"parallel", "drill", "ssh-config"}
	either := []string{"wait", "again", "dry-run", "plain-http"}
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		switch {
		case !f.Changed || slices.Contains(either, f.Name):
		case whole && slices.Contains(overSSH, f.Name):
			err = usagef("--%s is for hosts, without --kubeconfig", f.Name)
		case !whole && !slices.Contains(overSSH, f.Name):
			err = usagef("--%s is for a cluster, with --kubeconfig", f.Name)
		}
	})
	return err
}

func runUpgrade(ctx context.Context, hosts []string, ref string, o upgradeOptions, a *app) error {
	if !plainReference.MatchString(ref) {
		return usagef("%q is not a reference: want registry.example/name:tag", ref)
	}
	o.Verb = o.verb(ref)
	if o.DryRun {
		return askEach(ctx, hosts, &o.ssh, o.Verb, a)
	}
	o.Poll, o.Log = upgradePoll, a.log
	o.Output = func(host string) io.Writer { return hostOutput{a, host} }
	list, err := fleet.Upgrade(ctx, hosts, func(ctx context.Context, host string, out io.Writer, verb ...string) error {
		return o.ssh.quiet(ctx, host, out, a.err, verb...)
	}, o.Options)
	for _, r := range list {
		a.result(r, r.Host+": "+outcome(r))
	}
	return err
}

// verb returns the subcommand of pikeletd with its flags, in a fixed order.
func (o *upgradeOptions) verb(ref string) []string {
	verb := []string{"upgrade"}
	for _, flag := range []struct {
		name string
		on   bool
	}{{"--plain-http", o.cluster.image.PlainHTTP}, {"--again", o.Again}, {"--drill", o.Drill}, {"--dry-run", o.DryRun}} {
		if flag.on {
			verb = append(verb, flag.name)
		}
	}
	return append(verb, ref)
}

// hostOutput shows the lines that a host prints, on standard error.
type hostOutput struct {
	a    *app
	host string
}

// Write implements io.Writer.
func (h hostOutput) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case h.a.json:
			h.a.log.Info("output", "host", h.host, "line", line)
		case !h.a.quiet:
			fmt.Fprintf(h.a.err, "%s: %s\n", h.host, line)
		}
	}
	return len(b), nil
}

// askEach has each host print what it would do.
func askEach(ctx context.Context, hosts []string, ssh *overSSH, verb []string, a *app) error {
	var errs []error
	for _, host := range hosts {
		var out bytes.Buffer
		err := ssh.quiet(ctx, host, &out, a.err, verb...)
		for line := range strings.Lines(out.String()) {
			a.result(map[string]string{"host": host, "output": strings.TrimSpace(line)}, host+": "+strings.TrimRight(line, "\r\n"))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", host, err))
		}
	}
	return errors.Join(errs...)
}

// plainReference matches references, and directories of nodes, that need no
// quoting: they go through a shell there.
var plainReference = regexp.MustCompile(`^[A-Za-z0-9./][A-Za-z0-9._:/@+-]*$`)

// outcome returns the result of a node for people.
func outcome(r fleet.Result) string {
	switch {
	case r.Untouched:
		return "untouched, runs " + r.Before
	case r.Kept && r.Before == r.After:
		return "runs " + r.After + " already"
	case r.Kept:
		return fmt.Sprintf("%s -> %s, committed", r.Before, r.After)
	}
	kind := "failed"
	if r.RolledBack {
		kind = "rolled back"
	}
	return fmt.Sprintf("%s, runs %s: %s", kind, r.After, r.Reason)
}

// quiet runs a subcommand of pikeletd on a host, with its output in out, and its
// errors in shown too. The errors of status, which is asked for repeatedly while
// a node restarts, are only in the returned error.
func (r *overSSH) quiet(ctx context.Context, host string, out, shown io.Writer, verb ...string) error {
	cmd, err := r.command(ctx, host, verb)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, io.MultiWriter(out, shown)
	if verb[0] != "status" {
		return cmd.Run()
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		err = fmt.Errorf("asking for the status: %s (%w)", strings.TrimSpace(stderr.String()), err)
		return hint.Withf(err, "check that ssh %s doas pikeletd status works", host)
	}
	return nil
}
