package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

func newLock(a *app) *cobra.Command {
	var o inputOptions
	var older bool
	c := &cobra.Command{
		Use:   "lock SPEC",
		Short: "Pin every input of an image in SPEC.lock",
		Long: `Pin every input of an image in SPEC.lock: packages with versions and identities,
layers by digest, and what pikelet itself puts in. Run it again to update to the
newest versions; it prints what changed. Keep the lock in git.

An index that is older than the one the lock was made with is refused: a mirror that
is behind shows one, and so does whoever keeps fixed packages from you.`,
		Example: "  pikelet lock image.yaml",
		GroupID: groupBuild,
		Args:    exactly(1, "the image spec"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			return runLock(c.Context(), o, older, a)
		},
	}
	o.addFlags(c)
	c.Flags().BoolVar(&older, "allow-older", false, "take indexes that are older than the lock's")
	return c
}

func newOutdated(a *app) *cobra.Command {
	var o inputOptions
	c := &cobra.Command{
		Use:   "outdated SPEC",
		Short: "Show what pikelet lock would change, and write nothing",
		Long: `Show what pikelet lock would change, and write nothing: packages that have newer
versions, layers with other contents, and a pikelet that puts in other programs. With
--json each change has a kind, a name, and what it was and is.`,
		Example: `  pikelet outdated image.yaml
  pikelet outdated --json image.yaml | jq '.result.changes[].name'`,
		GroupID: groupBuild,
		Args:    exactly(1, "the image spec"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			return runOutdated(c.Context(), o, a)
		},
	}
	o.addFlags(c)
	return c
}

func runOutdated(ctx context.Context, o inputOptions, a *app) error {
	old, err := lock.Load(o.Spec)
	if err != nil {
		return err
	}
	if old == nil {
		if _, err := spec.Load(o.Spec); err != nil {
			return err // pikelet lock would not help
		}
		return hint.Withf(fmt.Errorf("%s has no lock", o.Spec), "pikelet lock %s makes it", o.Spec)
	}
	now, done, err := relock(ctx, o, a)
	if err != nil {
		return err
	}
	defer done()
	if err := lock.Older(old, now); err != nil {
		return err
	}
	a.showChanges(o.Spec, old, now)
	return nil
}

// runLock writes the lock of a spec. older takes indexes older than the lock's.
func runLock(ctx context.Context, o inputOptions, older bool, a *app) error {
	old, err := lock.Load(o.Spec)
	if err != nil {
		a.log.Warn("replacing a lock that cannot be read", "err", err)
	}
	now, done, err := relock(ctx, o, a)
	if err != nil {
		return err
	}
	defer done()
	if err := lock.Older(old, now); err != nil {
		if !older {
			return err
		}
		a.log.Warn("taking an older index", "reason", err)
	}
	if err := now.Save(o.Spec); err != nil {
		return err
	}
	a.showChanges(o.Spec, old, now)
	return nil
}

// relock chooses the inputs of an image anew. What it takes from the caches stays there
// until done is called.
func relock(ctx context.Context, o inputOptions, a *app) (now *lock.File, done func(), err error) {
	img, in, err := o.inputs(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	img.Keys = nil // a lock is not signed, and does not hold them: it is made where the signing key is not
	done = in.Made.Hold()
	plan, err := builder.Resolve(ctx, img, in)
	if err != nil {
		done()
		return nil, nil, inputHint(err, o.Spec)
	}
	return plan.Lock(a.version), done, nil
}

// showChanges prints what differs between two locks of a spec. old may be nil.
func (a *app) showChanges(spec string, old, now *lock.File) {
	changes := lock.Changes(old, now)
	var text strings.Builder
	switch {
	case old == nil:
		fmt.Fprintf(&text, "new lock: %d packages\n%s", len(now.Packages), lock.Name(spec))
	case len(changes) == 0:
		fmt.Fprintf(&text, "%s: %d packages, nothing changed", lock.Name(spec), len(now.Packages))
	default:
		for _, c := range changes {
			fmt.Fprintln(&text, c)
		}
		text.WriteString(lock.Name(spec))
	}
	a.result(map[string]any{"lock": lock.Name(spec), "changes": changes}, text.String())
}
