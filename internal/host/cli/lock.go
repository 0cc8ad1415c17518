package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/lock"
)

func newLock(say *teller) *cobra.Command {
	var o inputOptions
	c := &cobra.Command{
		Use:   "lock SPEC",
		Short: "Pin every input of an image in SPEC.lock",
		Long: `Pin every input of an image in SPEC.lock: packages with versions and identities,
layers by digest, and what pikelet itself puts in. Run it again to take what is
newest; it prints what changed. Keep the lock in git.`,
		Args: exactly(1, "the image spec"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			return runLock(c.Context(), o, say)
		},
	}
	o.addFlags(c)
	return c
}

func runLock(ctx context.Context, o inputOptions, say *teller) error {
	img, in, err := o.inputs(ctx, say)
	if err != nil {
		return err
	}
	defer in.Made.Hold()()
	old, err := lock.Load(o.Spec)
	if err != nil {
		say.warning(err.Error()) // a lock that cannot be read is written anew
	}
	plan, err := builder.Resolve(ctx, img, in)
	if err != nil {
		return err
	}
	now := plan.Lock(say.version)
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
	say.result(map[string]any{"lock": lock.Name(o.Spec), "changes": changes}, text)
	return nil
}
