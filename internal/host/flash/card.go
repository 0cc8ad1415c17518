package flash

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// CardOf returns the card of an image. Node is the text of node.yaml. A disk
// image keeps the size of its state partition and, where node is nil, its own
// node config.
func CardOf(img *registry.Image, node []byte) (*Card, error) {
	signature, err := img.Signature()
	if err != nil {
		return nil, err
	}
	state := int64(disk.StateInImage)
	if s, ok := img.From.(*Source); ok {
		p, err := s.Table.Partition(disk.State)
		if err != nil {
			return nil, err
		}
		state = p.Size
		if node == nil {
			node = s.Files().Node
		}
	}
	of := slots.Image{Manifest: img.Manifest, Text: img.Text, Signature: signature, Digest: img.Digest, Open: img.Open}
	card, err := NewCard(of, state, node)
	if err != nil {
		return nil, err
	}
	card.Unchecked = img.OpenUnchecked
	return card, nil
}

// RepairOf returns a card whose Repair rewrites the control partition of the
// card that an image was read from, with what can still be read there.
func RepairOf(img *registry.Image) (*Card, error) {
	source, ok := img.From.(*Source)
	if !ok {
		return nil, fmt.Errorf("%s is not a card: only the control partition of a card can be repaired", img.From)
	}
	card, err := CardOf(img, nil)
	if err != nil {
		return nil, err
	}
	files := source.Files()
	files.Bootcode = card.Control.Bootcode
	card.Table, card.Control = source.Table, files
	return card, nil
}

// SaveDisk writes an image as a disk image, which must not exist yet: the error
// is fs.ErrExist then. An image in a registry is downloaded first. No file has
// the name out before all of the disk image is written.
func SaveDisk(ctx context.Context, img *registry.Image, out string, progress registry.Progress) error {
	if _, err := os.Stat(out); err == nil {
		return hint.With(fmt.Errorf("writing %s: %w", out, fs.ErrExist), "name another file, or remove that one")
	}
	layout, partial := out+".partial-layout", out+".partial"
	if _, remote := img.From.(*registry.Remote); remote {
		var err error
		if img, err = registry.Keep(ctx, img, layout, progress); err != nil {
			return err
		}
	}
	card, err := CardOf(img, nil)
	if err != nil {
		return err
	}
	dev, err := OpenDevice(Device{Path: partial, File: true, Bus: busFile}, card.Size())
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := card.Write(ctx, dev, func(Phase, int64) {}); err != nil {
		os.Remove(partial)
		return err
	}
	if err := dev.Close(); err != nil {
		return err
	}
	if err := os.Rename(partial, out); err != nil {
		return err
	}
	return os.RemoveAll(layout)
}
