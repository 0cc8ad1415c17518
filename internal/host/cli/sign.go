package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/publish"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

func newSign(a *app) *cobra.Command {
	var o placeOptions
	var key string
	c := &cobra.Command{
		Use:   "sign REFERENCE",
		Short: "Sign an image in a registry or a layout",
		Long: `Sign an image where it is, as cosign sign --recursive --key does: its OCI
manifest, the index that leads to it, and its bill of materials. Existing
signatures are kept.`,
		Example: `  pikelet sign --sign-key release.key registry.example/pi/homelab:1.4
  pikelet sign --sign-key release.key out`,
		GroupID: groupShip,
		Args:    exactly(1, "a registry's reference, or a directory with a layout"),
		RunE:    func(c *cobra.Command, args []string) error { return runSign(c.Context(), args[0], key, o, a) },
	}
	o.addFlags(c, a)
	c.Flags().StringVar(&key, "sign-key", "", "private key that signs, PEM `FILE`")
	required(c, "sign-key")
	return c
}

func runSign(ctx context.Context, ref, key string, o placeOptions, a *app) error {
	k, err := a.readKey(key)
	if err != nil {
		return err
	}
	options, err := o.registry()
	if err != nil {
		return err
	}
	at, tag, err := registry.LocateTarget(ref, options)
	if err != nil {
		return err
	}
	digests, err := registry.Sign(ctx, at, tag, publish.Arch, k)
	if err != nil {
		return err
	}
	if r, ok := at.(*registry.Remote); ok {
		if why := r.RefusesBundles(); why != nil {
			a.log.Warn("the registry refuses cosign 3's bundles: the signatures are in the classic form alone", "err", why)
		}
	}
	a.result(map[string]any{"signed": digests}, "signed "+strings.Join(digests, "\nsigned "))
	return nil
}

func newVerify(a *app) *cobra.Command {
	var o imageOptions
	var only bool
	c := &cobra.Command{
		Use:   "verify REFERENCE",
		Short: "Verify an image's signatures and all its files",
		Long: `Verify an image from the keys you trust down to every byte of its files, which
reads all of it. The exit status is 1 if the verification fails.`,
		Example: `  pikelet verify --key release.pub registry.example/pi/homelab:stable
  pikelet verify /dev/sdb`,
		GroupID: groupShip,
		Args:    exactly(1, "a registry's reference, a layout, an archive, a card or a disk image"),
		RunE: func(c *cobra.Command, args []string) error {
			img, err := o.open(c.Context(), args[0])
			if err != nil {
				return err
			}
			read := "signatures and manifests verified, no file read"
			if !only {
				progress, end := a.meter("reading", img.Size())
				but := ""
				if img.card != nil {
					but = slots.Net.CmdlineFile() // no slot holds the command line for netboot
				}
				err := img.ReadFiles(c.Context(), progress, but)
				end()
				if err != nil {
					return err
				}
				read = "signatures, manifests and every file verified"
			}
			a.result(map[string]any{"stream": img.Stream, "release": img.Release, "digest": img.Digest, "files": !only},
				fmt.Sprintf("%s %s (OCI manifest %s): %s", img.Stream, img.Release, img.Digest, read))
			return nil
		},
	}
	o.addFlags(c, a)
	c.Flags().BoolVar(&only, "signatures-only", false, "do not read the files")
	return c
}
