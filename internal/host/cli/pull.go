package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

func newPull(say *teller) *cobra.Command {
	var o imageOptions
	var out, as string
	c := &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Fetch an image from a registry",
		Long: `Fetch an image from a registry, or from a layout or an archive: as a folder of its
files, as an OCI layout, as an archive of one to carry where there is no
registry, or as a disk image.

Nothing is there under the output's name before all of it is, and was checked. A
download that is interrupted goes on where it was when it is asked for again.`,
		Args: exactly(1, "a reference: registry.example/name:tag"),
		RunE: func(c *cobra.Command, args []string) error { return runPull(c.Context(), args[0], out, as, o, say) },
	}
	o.addFlags(c, say)
	c.Flags().StringVarP(&out, "output", "o", "", "the folder or file that is written (default: the stream and release)")
	c.Flags().StringVar(&as, "as", "", "files, layout, archive or disk (default: by the output's name: .tar is an archive, .img a disk, else files)")
	return c
}

func runPull(ctx context.Context, ref, out, as string, o imageOptions, say *teller) error {
	switch {
	case as == "" && strings.HasSuffix(out, ".tar"):
		as = "archive"
	case as == "" && strings.HasSuffix(out, ".img"):
		as = "disk"
	case as == "":
		as = "files"
	}
	save := map[string]func(context.Context, *registry.Published, string, registry.Progress) error{
		"files": registry.SaveFiles, "layout": registry.SaveLayout, "archive": registry.SaveArchive, "disk": saveDisk,
	}[as]
	if save == nil {
		return usageError{fmt.Errorf("--as %s: want files, layout, archive or disk", as)}
	}
	img, err := o.open(ctx, ref)
	if err != nil {
		return err
	}
	if out == "" {
		out = img.Stream + "-" + img.Release + map[string]string{"archive": ".tar", "disk": ".img"}[as]
	}
	tell, end := meter(say, "pulling", size(img.Manifest))
	err = save(ctx, img, out, tell)
	end()
	if err != nil {
		return err
	}
	say.result(map[string]string{"output": out, "as": as, "release": img.Release, "digest": img.Digest}, out+" (OCI manifest "+img.Digest+")")
	return nil
}
