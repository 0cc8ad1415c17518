package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/provenance"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

func newSBOM(a *app) *cobra.Command {
	var o imageOptions
	c := &cobra.Command{
		Use:   "sbom IMAGE",
		Short: "Print an image's bill of materials",
		Long: `Print the bill of materials of an image, SPDX 2.3 in JSON: its packages with
their licences, its layers and overlays, what the overlays fetch, and the programs
of Pikelet.

It is verified: a key that signed the image signed the bill too, which refers to
the image and has the digest that was signed. Cards and disk images hold files of
nodes alone; name the image's layout, archive or reference.`,
		Example: `  pikelet sbom out > image.spdx.json
  pikelet sbom --key release.pub registry.example/pi/homelab:1.4`,
		GroupID: groupShip,
		Args:    exactly(1, "a build's output directory, a layout, an archive or a registry's reference"),
		RunE:    func(c *cobra.Command, args []string) error { return runSBOM(c.Context(), args[0], o, a) },
	}
	o.addFlags(c, a)
	return c
}

func runSBOM(ctx context.Context, ref string, o imageOptions, a *app) error {
	img, err := o.open(ctx, ref)
	if err != nil {
		return err
	}
	bill, err := registry.FindBill(ctx, img.Published)
	if err != nil {
		return documentHint(err, img)
	}
	if !json.Valid(bill.Document) {
		return fmt.Errorf("reading the bill of materials of %s: it is no JSON", img)
	}
	a.result(map[string]any{"image": img.Digest, "digest": bill.Digest, "document": json.RawMessage(bill.Document)},
		string(bytes.TrimRight(bill.Document, "\n")))
	return nil
}

// documentHint adds what helps where an image lacks a document.
func documentHint(err error, img *opened) error {
	switch {
	case !errors.Is(err, registry.ErrNoReferrer):
		return err
	case img.card != nil:
		return hint.Withf(err, "cards and disk images hold the files of nodes alone: name the build's output directory, or REPOSITORY@%s",
			img.Digest)
	case errors.Is(err, image.ErrSignature):
		return hint.With(err, "name the public key that signed it with --key, or publish again with that key as --sign-key")
	}
	return hint.With(err, "build the image again, and publish it: what refers to an image is lost where a tool copies the image alone")
}

type provenanceOptions struct {
	imageOptions
	Spec string
}

func newProvenance(a *app) *cobra.Command {
	var o provenanceOptions
	c := &cobra.Command{
		Use:   "provenance IMAGE",
		Short: "Print what an image was built from",
		Long: `Print the provenance of an image, a statement of in-toto with a predicate of SLSA
(version 1) in JSON: the digests of its spec, its lock and each input, and the
version of pikelet. docs/provenance.md describes the fields.

It is verified: a key that the image was verified with signed the statement, which
is about this image. With --spec, the digests of the spec, and of the lock beside
it, must be those of the files given.`,
		Example: `  pikelet provenance out
  pikelet provenance --key release.pub --spec image.yaml registry.example/pi/homelab:1.4`,
		GroupID: groupShip,
		Args:    exactly(1, "a build's output directory, a layout, an archive or a registry's reference"),
		RunE:    func(c *cobra.Command, args []string) error { return runProvenance(c.Context(), args[0], o, a) },
	}
	o.addFlags(c, a)
	c.Flags().StringVar(&o.Spec, "spec", "", "image spec that the image must have been built from, YAML `FILE`")
	return c
}

func runProvenance(ctx context.Context, ref string, o provenanceOptions, a *app) error {
	img, err := o.open(ctx, ref)
	if err != nil {
		return err
	}
	found, err := registry.FindAttestation(ctx, img.Published, image.PredicateSLSA)
	if err != nil {
		return documentHint(err, img)
	}
	if o.Spec != "" {
		p, err := provenance.Decode(found.Predicate)
		if err != nil {
			return err
		}
		if err := builtFrom(p, o.Spec); err != nil {
			return fmt.Errorf("comparing the provenance of %s: %w", img, err)
		}
	}
	var text bytes.Buffer
	if err := json.Indent(&text, found.Statement, "", " "); err != nil {
		return err
	}
	a.result(map[string]any{"image": img.Digest, "digest": found.Digest, "statement": json.RawMessage(found.Statement)}, text.String())
	return nil
}

// builtFrom checks that a provenance has the digests of a spec, and of the lock
// beside it.
func builtFrom(p *provenance.Predicate, spec string) error {
	b, err := os.ReadFile(spec)
	if err != nil {
		return err
	}
	if err := sameDigest(spec, b, p.Definition.External.Spec); err != nil {
		return err
	}
	b, err = os.ReadFile(lock.Name(spec))
	locked := p.Lock()
	switch {
	case errors.Is(err, os.ErrNotExist) && locked == nil:
		return nil
	case errors.Is(err, os.ErrNotExist):
		return hint.Withf(fmt.Errorf("the image was built with a lock, and %s is not there", lock.Name(spec)), "take it from git")
	case err != nil:
		return err
	case locked == nil:
		return hint.Withf(fmt.Errorf("the image was built without a lock, and %s is there", lock.Name(spec)), "build it with the lock")
	}
	return sameDigest(lock.Name(spec), b, *locked)
}

func sameDigest(name string, b []byte, want provenance.Input) error {
	if got := image.DigestOf(b); got != "sha256:"+want.Digest["sha256"] {
		return fmt.Errorf("%s is another one: digest mismatch: got %s, want sha256:%s", name, got, want.Digest["sha256"])
	}
	return nil
}
