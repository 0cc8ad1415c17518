// Command pikelet builds images for Raspberry Pi nodes and boots them in a
// virtual Pi.
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

func run(ctx context.Context, args []string) int {
	root := &cobra.Command{
		Use:           "pikelet",
		Short:         "Immutable, A/B-upgradable k3s nodes for Raspberry Pi, from one YAML file",
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: `Immutable, A/B-upgradable k3s nodes for Raspberry Pi, from one YAML file.

Exit status: 0 done, 1 failed, 2 the command line or the spec is wrong.`,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newBuild(), newVM())
	root.SetArgs(args)
	return report(os.Stderr, root.ExecuteContext(ctx))
}
