// Command pikelet builds images for Raspberry Pi nodes, ships them, writes them
// onto cards, and boots them in a virtual Pi.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// version is set by the build: a tag, or the commit it was built from.
var version = "dev"

func run(ctx context.Context, args []string) int {
	say := &teller{out: os.Stdout}
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
	return report(os.Stderr, root.ExecuteContext(ctx))
}
