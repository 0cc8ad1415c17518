package initramfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// checkSlot checks the chain from a key of this image down to every file of
// the slot but the root, which the kernel checks block by block.
func (b *boot) checkSlot() error {
	if b.net != nil {
		return b.checkServed()
	}
	signature, err := b.card.slot.ReadFile(artifact.SignatureFile, artifact.MaxSignature)
	if err != nil {
		return err
	}
	text, err := b.card.slot.ReadFile(artifact.ManifestFile, artifact.MaxManifest)
	if err != nil {
		return err
	}
	if err := b.verify(signature, text); err != nil {
		return err
	}
	for _, f := range b.image.Files {
		if err := b.checkFile(f); err != nil {
			return err
		}
	}
	return nil
}

// verify checks a manifest, and that it is of this build.
func (b *boot) verify(signature, text []byte) error {
	keys, err := b.keys()
	if err != nil {
		return err
	}
	m, digest, err := artifact.Verify(signature, text, keys)
	if err != nil {
		return err
	}
	if m.BuildID != b.info.BuildID || m.Stream != b.info.Stream {
		return fmt.Errorf("the manifest is of build %s of stream %q, the initramfs is build %s of stream %q",
			m.BuildID, m.Stream, b.info.BuildID, b.info.Stream)
	}
	b.image = m
	b.boot.Signed = digest
	return nil
}

// checkFile compares a file of the slot with the manifest, and for the
// slot's kernel words what the kernel was really told.
func (b *boot) checkFile(f artifact.File) error {
	name := f.Name
	switch name {
	case artifact.RootFile, b.line.Slot.Other().CmdlineFile(), slots.Net.CmdlineFile():
		return nil
	case b.line.Slot.CmdlineFile():
		name = slots.CmdlineFile
	}
	r, size, err := b.card.slot.OpenFile(name)
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
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != f.Digest || size != f.Size {
		what := name
		if name == slots.CmdlineFile {
			what = "the kernel words (" + name + ")"
		}
		return fmt.Errorf("%s changed: the digest is %s, the signed manifest says %s", what, got, f.Digest)
	}
	if name == slots.CmdlineFile {
		if w := b.line.Missing(words.Bytes()); w != "" {
			return fmt.Errorf("the kernel was not told %q, which the signed manifest asks for", w)
		}
	}
	return nil
}
