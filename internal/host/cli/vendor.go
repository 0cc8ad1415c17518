package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/layers/apk"
)

func newVendor(a *app) *cobra.Command {
	var o inputOptions
	c := &cobra.Command{
		Use:   "vendor SPEC DIR|REF",
		Short: "Copy every locked input to a directory or a registry",
		Long: `Copy every locked input: mirrors drop packages that newer ones replace. DIR
becomes a signed apk repository with the image's OCI layers beside it; REF, such
as registry.example/inputs:1, gets the same as one artifact.

Builds with --vendor, or with vendor: in the spec, use the copies before they ask
a mirror.`,
		Example: `  pikelet vendor image.yaml vendor
  pikelet vendor image.yaml registry.example/inputs:1`,
		GroupID: groupBuild,
		Args:    exactly(2, "the image spec, and a directory or a reference"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			return runVendor(c.Context(), o, args[1], a)
		},
	}
	o.addFlags(c)
	return c
}

func runVendor(ctx context.Context, o inputOptions, to string, a *app) error {
	img, in, err := o.inputs(ctx, a)
	if err != nil {
		return err
	}
	defer in.Made.Hold()()
	if in.Lock, err = lock.Load(o.Spec); err != nil {
		return err
	}
	if in.Lock == nil {
		return hint.With(fmt.Errorf("opening %s: %w", lock.Name(o.Spec), fs.ErrNotExist), "create it: pikelet lock "+o.Spec)
	}
	plan, err := builder.Resolve(ctx, img, in)
	if err != nil {
		return inputHint(err, o.Spec)
	}
	key, err := vendorKey()
	if err != nil {
		return err
	}
	dir := to
	if registry.IsReference(to) {
		if dir, err = os.MkdirTemp("", "pikelet-vendor-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := plan.Vendor(ctx, in.Cache, dir, key, a.log); err != nil {
		return inputHint(err, o.Spec)
	}
	if dir == to {
		a.result(map[string]string{"vendor": dir}, dir)
		return nil
	}
	digest, err := fetch.Push(ctx, dir, to)
	if err != nil {
		return err
	}
	a.result(map[string]string{"vendor": to, "digest": digest}, to+"@"+digest)
	return nil
}

// vendorKey returns the key that signs the indexes of vendor directories: one of
// the user's, created on first use. Packages keep their own signatures.
func vendorKey() (*apk.Key, error) {
	dir, err := userDir(os.UserConfigDir, "set XDG_CONFIG_HOME")
	if err != nil {
		return nil, err
	}
	return apk.OpenKey(filepath.Join(dir, "vendor.rsa"), "vendor.rsa.pub")
}
