package agent

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/device/agent/checks"
	"github.com/pikelet-os/pikelet/internal/device/agent/runfiles"
)

func newCheck() *cobra.Command {
	return newVerb("check", "what the node needs, and what of it is missing", func(c *cobra.Command) error {
		return check(c.Context(), c.OutOrStdout())
	})
}

// check prints all checks, a line each. It fails where one does.
func check(ctx context.Context, out io.Writer) error {
	cfg, err := runfiles.Config()
	if err != nil {
		return err
	}
	failed := 0
	for _, c := range checks.Run(ctx, cfg) {
		if !c.OK {
			failed++
		}
		fmt.Fprintln(out, c)
	}
	if failed > 0 {
		return fmt.Errorf("%d of the checks failed", failed)
	}
	return nil
}
