package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/internal/host/flash"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

func newSign(say *teller) *cobra.Command {
	var o placeOptions
	var key string
	c := &cobra.Command{
		Use:   "sign REFERENCE",
		Short: "Sign an image in a registry or a layout",
		Long: `Sign an image where it is, as cosign sign --recursive --key does: its OCI
manifest, the index that leads to it, and its bill of materials. Signatures that
are there stay.`,
		Args: exactly(1, "a registry's reference, or a folder with a layout"),
		RunE: func(c *cobra.Command, args []string) error {
			if key == "" {
				return usageError{errors.New("want --key FILE, the private key that signs; pikelet keygen makes one")}
			}
			k, err := readKey(key)
			if err != nil {
				return err
			}
			options, err := o.registry()
			if err != nil {
				return err
			}
			place, tag, err := registry.Locate(args[0], options)
			if err != nil {
				return err
			}
			at, ok := place.(registry.Target)
			if !ok {
				return usageError{fmt.Errorf("%s cannot be signed where it is", args[0])}
			}
			layout, isLayout := place.(*registry.Layout)
			if isLayout {
				if err := layout.Edit(); err != nil {
					return err
				}
			}
			digests, err := registry.Sign(c.Context(), at, tag, arch, k)
			if err != nil {
				return err
			}
			if isLayout {
				if err := layout.Finish(); err != nil {
					return err
				}
			}
			say.result(map[string]any{"signed": digests}, "signed "+strings.Join(digests, "\nsigned "))
			return nil
		},
	}
	o.addFlags(c, say)
	c.Flags().StringVar(&key, "key", "", "private key that signs, PEM")
	return c
}

func newVerify(say *teller) *cobra.Command {
	var o imageOptions
	var only bool
	c := &cobra.Command{
		Use:   "verify REFERENCE",
		Short: "Check an image's signatures and every byte of it",
		Long: `Check an image's chain from the keys you trust down to every byte of its files,
which reads all of it. Exit status 1 where it does not hold.`,
		Args: exactly(1, "a registry's reference, a layout, an archive, a card or a disk image"),
		RunE: func(c *cobra.Command, args []string) error {
			img, err := o.open(c.Context(), args[0])
			if err != nil {
				return err
			}
			read := "signatures and manifests hold; no file was read"
			if !only {
				tell, end := meter(say, "reading", size(img.Manifest))
				but := ""
				if _, card := img.From.(*flash.Source); card {
					but = slots.Net.CmdlineFile() // no slot holds the words of netboot
				}
				err := img.ReadFiles(c.Context(), tell, but)
				end()
				if err != nil {
					return err
				}
				read = "signatures, manifests and every file hold"
			}
			say.result(map[string]any{"stream": img.Stream, "release": img.Release, "digest": img.Digest, "files": !only},
				fmt.Sprintf("%s %s (OCI manifest %s): %s", img.Stream, img.Release, img.Digest, read))
			return nil
		},
	}
	o.addFlags(c, say)
	c.Flags().BoolVar(&only, "signatures-only", false, "read no files")
	return c
}
