// Package cli is the pikelet command: its flags, prompts and output. What the
// commands do lives in the packages that they call.
package cli

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// The groups of commands in the help.
const (
	groupBuild = "build"
	groupShip  = "ship"
	groupNodes = "nodes"
	groupBoot  = "boot"
)

// Run runs the command line args and returns the exit status. Version is the
// version that the command reports.
func Run(ctx context.Context, version string, args []string, in io.Reader, out, err io.Writer) int {
	a := newApp(version, in, out, err)
	root := newRoot(a)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(err)
	started := false
	each(root, func(c *cobra.Command) {
		if run := c.RunE; run != nil {
			c.RunE = func(c *cobra.Command, args []string) error {
				started = true
				return run(c, args)
			}
		}
	})
	c, failure := root.ExecuteContextC(ctx)
	if failure != nil && !started { // flags or arguments were refused
		a.json = a.json || slices.Contains(args, "--json")
		failure = usageError{failure}
	}
	if errors.As(failure, new(usageError)) {
		failure = hint.With(failure, "see "+c.CommandPath()+" --help")
	}
	return a.report(failure)
}

// each calls f for a command and for all commands below it.
func each(c *cobra.Command, f func(*cobra.Command)) {
	f(c)
	for _, sub := range c.Commands() {
		each(sub, f)
	}
}

// newRoot returns the command with all its subcommands.
func newRoot(a *app) *cobra.Command {
	root := group(&cobra.Command{
		Use:           "pikelet",
		Short:         "Immutable, A/B-upgradable k3s nodes for Raspberry Pi, from one YAML file",
		Version:       a.version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: `Immutable, A/B-upgradable k3s nodes for Raspberry Pi, from one YAML file.

Exit status:
  0  done
  1  failed
  2  the command line, the spec or the inventory is invalid
  3  a node rolled back to the release or the config it had before, halted a rollout,
     or differs from its inventory`,
		PersistentPreRun: func(*cobra.Command, []string) { a.setUp() },
	})
	a.addFlags(root)
	root.AddGroup(
		&cobra.Group{ID: groupBuild, Title: "Build images:"},
		&cobra.Group{ID: groupShip, Title: "Sign and ship images:"},
		&cobra.Group{ID: groupNodes, Title: "Prepare and upgrade nodes:"},
		&cobra.Group{ID: groupBoot, Title: "Boot images:"},
	)
	root.AddCommand(newInit(a), newBuild(a), newLock(a), newOutdated(a), newVendor(a), newInspect(a), newDiff(a), newCache(a),
		newKeygen(a), newSign(a), newVerify(a), newPublish(a), newPromote(a), newPull(a), newSBOM(a), newProvenance(a),
		newFlash(a), newNode(a), newApply(a), newUp(a), newImport(a), newUpgrade(a), newRollout(a), newBackup(a), newBackups(a), newRestore(a),
		newMove(a), newAdoptServer(a), newUnlock(a), newWipe(a),
		newServe(a), newNodes(a), newEEPROM(a), newVM(a))
	return root
}

// group completes a command that only has subcommands: without one it prints
// its help, and an unknown one is refused.
func group(c *cobra.Command) *cobra.Command {
	c.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		err := usagef("unknown command %q for %q", args[0], c.CommandPath())
		c.SuggestionsMinimumDistance = 2
		if list := c.SuggestionsFor(args[0]); len(list) > 0 {
			return hint.With(err, "did you mean "+strings.Join(list, " or ")+"?")
		}
		return err
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return c
}

// exactly is cobra.ExactArgs with an error that says what is expected.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("want %s, got %d arguments", what, len(args))
		}
		return nil
	}
}

// required marks a flag as required. It panics for a flag that the command does
// not have.
func required(c *cobra.Command, flag string) {
	if err := c.MarkFlagRequired(flag); err != nil {
		panic(err)
	}
}
