package initramfs

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// checkSlot checks the chain from a key of this image down to every file of
// the slot but the root, which the kernel checks block by block.
func (b *boot) checkSlot() error {
	if b.net != nil {
		return b.checkServed()
	}
	signature, err := b.card.slot.ReadFile(image.SignatureFile, image.MaxSignature)
	if err != nil {
		return err
	}
	text, err := b.card.slot.ReadFile(image.ManifestFile, image.MaxManifest)
	if err != nil {
		return err
	}
	if err := b.verify(signature, text); err != nil {
		return err
	}
	for _, f := range b.img.Files {
		if err := b.checkFile(f); err != nil {
			return err
		}
	}
	return nil
}

// verify checks a manifest, and that it is of this build.
func (b *boot) verify(signature, text []byte) error {
	m, digest, err := b.info.Verify(signature, text)
	if err != nil {
		return err
	}
	b.img = m
	b.boot.Signed = digest
	return nil
}

// checkFile compares a file of the slot with the manifest, and for the
// slot's kernel command line what the kernel was really told.
func (b *boot) checkFile(f image.File) error {
	name := f.Name
	switch name {
	case image.RootFile, b.line.Slot.Other().CmdlineFile(), slots.Net.CmdlineFile():
		return nil
	case b.line.Slot.CmdlineFile():
		name = slots.CmdlineFile
	}
	r, size, err := b.card.slot.OpenFile(name, f.Size)
	var gone *fat.NotFoundError
	if errors.As(err, &gone) {
		return fmt.Errorf("%s is missing from the slot", name)
	}
	if err != nil {
		return err
	}
	sum := sha256.New()
	var words bytes.Buffer
	w := io.Writer(sum)
	if name == slots.CmdlineFile {
		w = io.MultiWriter(sum, &words)
	}
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if got := image.DigestOfSum(sum.Sum(nil)); got != f.Digest || size != f.Size {
		what := name
		if name == slots.CmdlineFile {
			what = "the kernel command line (" + name + ")"
		}
		return fmt.Errorf("%s changed: digest mismatch: got %s, want %s", what, got, f.Digest)
	}
	if name == slots.CmdlineFile {
		return b.checkWords(words.Bytes())
	}
	return nil
}

// checkWords compares the signed kernel command line with what the kernel was told.
func (b *boot) checkWords(signed []byte) error {
	if w := b.line.Missing(signed); w != "" {
		return fmt.Errorf("the kernel was not told %q, which the signed manifest asks for", w)
	}
	return nil
}
