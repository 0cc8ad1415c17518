package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/layers/apk"

	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

func newVendor(say *teller) *cobra.Command {
	var o inputOptions
	c := &cobra.Command{
		Use:   "vendor SPEC DIR|REF",
		Short: "Keep copies of every locked input in a folder or a registry",
		Long: `Keep copies of every locked input: mirrors drop packages that newer ones
replace. DIR becomes a signed apk repository with the image's OCI layers beside
it; REF, such as registry.example/inputs:1, gets the same as one artifact.

Builds use it with --vendor, or vendor: in the spec, before they ask a mirror.`,
		Args: exactly(2, "the image spec, and a folder or a reference"),
		RunE: func(c *cobra.Command, args []string) error {
			o.Spec = args[0]
			return runVendor(c.Context(), o, args[1], say)
		},
	}
	o.addFlags(c)
	return c
}

func runVendor(ctx context.Context, o inputOptions, to string, say *teller) error {
	img, in, err := o.inputs(ctx, say)
	if err != nil {
		return err
	}
	defer in.Made.Hold()()
	if in.Lock, err = lock.Load(o.Spec); err != nil {
		return err
	}
	if in.Lock == nil {
		return fmt.Errorf("there is no %s; pikelet lock %s makes it", lock.Name(o.Spec), o.Spec)
	}
	plan, err := builder.Resolve(ctx, img, in)
	if err != nil {
		return err
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
	if err := plan.Vendor(ctx, in.Cache, dir, key, say.line); err != nil {
		return err
	}
	if dir == to {
		say.result(map[string]string{"vendor": dir}, dir)
		return nil
	}
	digest, err := fetch.Push(ctx, dir, to)
	if err != nil {
		return err
	}
	say.result(map[string]string{"vendor": to, "digest": digest}, to+"@"+digest)
	return nil
}

// vendorKey signs the indexes of vendor folders: a key of the user's, made on
// first use. Packages keep the signatures they came with.
func vendorKey() (*apk.Key, error) {
	dir, err := userFolder(os.UserConfigDir, "set XDG_CONFIG_HOME")
	if err != nil {
		return nil, err
	}
	return apk.OpenKey(filepath.Join(dir, "vendor.rsa"), "vendor.rsa.pub")
}
