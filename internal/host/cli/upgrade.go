package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/fleet"
)

// Every so often a node is asked what became of its upgrade; a restart and a
// soak take a minute or two.
const upgradePoll = 5 * time.Second

func newUpgrade(say *teller) *cobra.Command {
	var ssh overSSH
	var o fleet.Options
	var plain, again, drill, dry bool
	c := &cobra.Command{
		Use:   "upgrade HOST... REFERENCE",
		Short: "Upgrade nodes in place, servers first, over SSH",
		Long: `Upgrade nodes in place, over your own ssh: your keys, known_hosts and
~/.ssh/config count, and a host whose key is not known is refused. The nodes
fetch the image themselves, so the reference must be one they reach.

k3s servers go first and one at a time, then the agents, --parallel of them at
once. Each is waited for until it has committed the release or left it. The
first one that leaves it, or refuses, ends it: the others keep what they run.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usageError{errors.New("want hosts and a reference: pikelet upgrade attic cellar registry.example/name:tag")}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			hosts, ref := args[:len(args)-1], args[len(args)-1]
			if !plainReference.MatchString(ref) {
				return usageError{fmt.Errorf("%q is no reference: registry.example/name:tag", ref)}
			}
			o.Verb = []string{"upgrade"}
			for name, on := range map[string]bool{"--plain-http": plain, "--again": again, "--drill": drill, "--dry-run": dry} {
				if on {
					o.Verb = append(o.Verb, name)
				}
			}
			o.Verb = append(o.Verb, ref)
			if dry {
				return askEach(c.Context(), hosts, &ssh, o.Verb, say)
			}
			o.Poll = upgradePoll
			o.Tell = func(host, text string) { say.line(host + ": " + text) }
			list, err := fleet.Upgrade(c.Context(), hosts, ssh.quiet, o)
			for _, r := range list {
				say.result(r, r.Host+": "+become(r))
			}
			return err
		},
	}
	c.Flags().IntVar(&o.Parallel, "parallel", 1, "how many agents at once")
	c.Flags().DurationVar(&o.Wait, "wait", 30*time.Minute, "how long a node may take to commit the release or leave it")
	c.Flags().BoolVar(&plain, "plain-http", false, "have the nodes speak HTTP without TLS to the registry")
	c.Flags().BoolVar(&again, "again", false, "take a release that failed there before")
	c.Flags().BoolVar(&dry, "dry-run", false, "have each say in which way the release would come, and how much that is, and do nothing")
	c.Flags().BoolVar(&drill, "drill", false, "try it on each, and have it come back however well it went")
	ssh.addFlags(c)
	return c
}

// askEach has each host say what it would do.
func askEach(ctx context.Context, hosts []string, ssh *overSSH, verb []string, say *teller) error {
	var errs []error
	for _, host := range hosts {
		var out bytes.Buffer
		err := ssh.quiet(ctx, host, &out, verb...)
		for line := range strings.Lines(out.String()) {
			say.result(map[string]string{"host": host, "says": strings.TrimSpace(line)}, host+": "+strings.TrimRight(line, "\r\n"))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", host, err))
		}
	}
	return errors.Join(errs...)
}

// plainReference is what a reference, or a folder on the nodes, is made of. It
// goes through a shell there.
var plainReference = regexp.MustCompile(`^[A-Za-z0-9./][A-Za-z0-9._:/@+-]*$`)

// become says what became of a node.
func become(r fleet.Result) string {
	switch {
	case r.Untouched:
		return "not touched, runs " + r.Before
	case r.Kept && r.Before == r.After:
		return "runs " + r.After + " already"
	case r.Kept:
		return fmt.Sprintf("%s -> %s, committed", r.Before, r.After)
	}
	return fmt.Sprintf("left, runs %s: %s", r.After, r.Reason)
}

// quiet is run with its output elsewhere. What ssh complains of is shown, but
// for status, which is asked again and again of a node that restarts: there it
// is in the error.
func (r *overSSH) quiet(ctx context.Context, host string, out io.Writer, verb ...string) error {
	cmd, err := r.command(ctx, host, verb)
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = out, io.MultiWriter(out, os.Stderr)
	if verb[0] != "status" {
		return cmd.Run()
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("asking how it is: %s (%w); does ssh %s doas pikeletd status work?", strings.TrimSpace(complaints.String()), err, host)
	}
	return nil
}
