package cli

import (
	"context"
	"slices"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/publish"
)

func newPull(a *app) *cobra.Command {
	var o imageOptions
	var out, as string
	c := &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Download an image from a registry",
		Long: `Download an image from a registry, or copy one from a layout, an archive or a
card: as a directory of its files, as an OCI layout, as an archive of one to carry
to where there is no registry, or as a disk image.

The output has its name only once it is complete and verified. An interrupted
download resumes when the command is repeated.`,
		Example: `  pikelet pull registry.example/pi/homelab:1.4
  pikelet pull -o homelab.tar registry.example/pi/homelab:1.4
  pikelet pull -o card.img homelab.tar`,
		GroupID: groupShip,
		Args:    exactly(1, "a reference: registry.example/name:tag"),
		RunE:    func(c *cobra.Command, args []string) error { return runPull(c.Context(), args[0], out, as, o, a) },
	}
	o.addFlags(c, a)
	c.Flags().StringVarP(&out, "output", "o", "", "write to this `PATH` (default: the stream and release)")
	c.Flags().StringVar(&as, "as", "", "`FORM`: files, layout, archive or disk (default: archive for .tar, disk for .img, else files)")
	complete(c, "as", completeForm)
	return c
}

func runPull(ctx context.Context, ref, out, as string, o imageOptions, a *app) error {
	form := publish.Form(as)
	if as == "" {
		form = publish.FormOf(out)
	}
	if !slices.Contains(publish.Forms[:], form) {
		return usagef("--as %s: want files, layout, archive or disk", as)
	}
	img, err := o.open(ctx, ref)
	if err != nil {
		return err
	}
	if out == "" {
		out = img.Stream + "-" + img.Release + form.Ext()
	}
	progress, end := a.meter("pulling", img.Size())
	err = publish.Save(ctx, img.Published, img.card, out, form, progress)
	end()
	if err != nil {
		return err
	}
	a.result(map[string]string{"output": out, "as": string(form), "release": img.Release, "digest": img.Digest},
		out+" (OCI manifest "+img.Digest+")")
	return nil
}
