package flash

import (
	"context"
	"fmt"
	"io/fs"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// CardOf returns the card of an image. from is the card or disk image that the
// image was read from, nil for other places: its size of the state partition is
// kept and, where node, the text of node.yaml, is nil, its own node config.
func CardOf(ctx context.Context, img image.Image, from *Source, node []byte) (*Card, error) {
	if from == nil {
		return NewCard(ctx, img, disk.StateInImage, node)
	}
	p, err := from.Table.Partition(disk.State)
	if err != nil {
		return nil, err
	}
	if node == nil {
		node = from.Files().Node
	}
	return NewCard(ctx, img, p.Size, node)
}

// RepairOf returns a card whose Repair rewrites the control partition of the
// card that an image was read from, with what can still be read there.
func RepairOf(ctx context.Context, img image.Image, source *Source) (*Card, error) {
	card, err := CardOf(ctx, img, source, nil)
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
func SaveDisk(ctx context.Context, img *registry.Published, from *Source, out string, progress registry.Progress) error {
	if _, err := os.Stat(out); err == nil {
		return hint.With(fmt.Errorf("writing %s: %w", out, fs.ErrExist), "name another file, or remove that one")
	}
	layout, partial := out+".partial-layout", out+".partial"
	if img.From.Remote() {
		var err error
		if img, err = registry.Keep(ctx, img, layout, progress); err != nil {
			return err
		}
	}
	card, err := CardOf(ctx, img.Image, from, nil)
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
