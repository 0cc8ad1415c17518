package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/lock"
)

func newLock(a *app) *cobra.Command {
	var o inputOptions
	c := &cobra.Command{
		Use:   "lock SPEC",
		Short: "Pin every input of an image in SPEC.lock",
		Long: `Pin every input of an image in SPEC.lock: packages with versions and identities,
layers by digest, and what pikelet itself puts in. Run it again to update to the
newest versions; it prints what changed. Keep the lock in git.`,
		Example: "  pikelet lock image.yaml",
		GroupID: groupBuild,
		Args:    exactly(1, "the image spec"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			return runLock(c.Context(), o, a)
		},
	}
	o.addFlags(c)
	return c
}

func runLock(ctx context.Context, o inputOptions, a *app) error {
	img, in, err := o.inputs(ctx, a)
	if err != nil {
		return err
	}
	defer in.Made.Hold()()
	old, err := lock.Load(o.Spec)
	if err != nil {
		a.log.Warn("replacing a lock that cannot be read", "err", err)
	}
	plan, err := builder.Resolve(ctx, img, in)
	if err != nil {
		return inputHint(err, o.Spec)
	}
	now := plan.Lock(a.version)
	if err := lock.Older(old, now); err != nil {
		return err
	}
	changes := lock.Changes(old, now)
	if err := now.Save(o.Spec); err != nil {
		return err
	}
	text := fmt.Sprintf("%s: %d packages, nothing changed", lock.Name(o.Spec), len(now.Packages))
	if len(changes) > 0 {
		text = strings.Join(changes, "\n") + "\n" + lock.Name(o.Spec)
	}
	a.result(map[string]any{"lock": lock.Name(o.Spec), "changes": changes}, text)
	return nil
}
