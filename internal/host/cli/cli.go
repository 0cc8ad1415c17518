// Package cli is the pikelet command: its flags, prompts and output. What the
// commands do lives in the packages that they call.
package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"
)

// Run runs the command line args and returns the exit status. Version is what
// the command calls itself.
func Run(ctx context.Context, version string, args []string, stdout, stderr io.Writer) int {
	say := &teller{out: stdout, version: version}
	root := &cobra.Command{
		Use:           "pikelet",
		Short:         "Immutable, A/B-upgradable k3s nodes for Raspberry Pi, from one YAML file",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: `Immutable, A/B-upgradable k3s nodes for Raspberry Pi, from one YAML file.

Exit status: 0 done, 1 failed, 2 the command line or the spec is wrong.`,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	say.addFlags(root)
	root.AddCommand(newInit(say), newBuild(say), newLock(say), newVendor(say), newKeygen(say), newSign(say), newVerify(say), newPublish(say), newPromote(say), newPull(say), newFlash(say), newUpgrade(say), newServe(say), newNodes(say), newEEPROM(say),
		newInspect(say), newDiff(say), newCache(say), newNode(say), newWipe(), newVM())
	root.SetArgs(args)
	return report(stderr, root.ExecuteContext(ctx))
}
