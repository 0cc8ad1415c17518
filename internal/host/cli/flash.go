package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/internal/host/flash"
	"github.com/pikelet-os/pikelet/internal/host/imagecache"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// flashOptions say how a card is written.
type flashOptions struct {
	imageOptions
	node      nodeOptions
	Inventory string // file with the node's config
	Serial    string
	Yes       bool
	KeepState bool
	Repair    bool
	Cache     string
}

func (o *flashOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.Inventory, "inventory", "", "`FILE` with the inventory, or with the config of one node")
	f.StringVar(&o.node.machine.Name, "node", "", "select a node of the inventory by `NAME`, its hostname")
	f.StringVar(&o.Serial, "device-serial", "", "`SERIAL` of a disk that is not removable, to write to it all the same")
	f.BoolVarP(&o.Yes, "yes", "y", false, "do not ask for confirmation")
	f.BoolVar(&o.KeepState, "keep-state", false, "keep the card's state partition")
	complete(c, "node", completeNode)
}

func newFlash(a *app) *cobra.Command {
	var o flashOptions
	c := &cobra.Command{
		Use:   "flash IMAGE DEVICE",
		Short: "Write an image to a card",
		Long: `Write an image to a card, with the config of the node that the card is for. IMAGE
is a build's output directory, a disk image, an OCI layout, an archive, or a
registry's reference. DEVICE is a disk, such as /dev/sdb, or a file.

Without arguments, list the disks and card readers of this computer.

A device that is mounted, in use, read-only or too small is refused, and so is a
disk that is not removable, unless its serial is named. You are asked to type the
device's model before anything is written. Only what the image uses is written and
read back. A card whose writing was interrupted does not boot.

State of an earlier cluster on the card is erased without --keep-state.
--repair-control rewrites only the card's first partition, with what the card
itself holds, for a node that no longer finds its slots.`,
		Example: `  pikelet flash
  pikelet flash out /dev/sdb --inventory nodes.yaml --node attic
  pikelet flash registry.example/pi/homelab:1.4 /dev/sdb --key release.pub
  pikelet flash --repair-control /dev/sdb`,
		GroupID: groupNodes,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && !o.Repair, len(args) == 2 && !o.Repair, len(args) == 1 && o.Repair:
				return nil
			case o.Repair:
				return usagef("want the card whose control partition is repaired, got %d arguments", len(args))
			}
			return usagef("want an image and a device, got %d arguments; without any, the devices are listed", len(args))
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case o.Repair:
				return runRepair(c.Context(), args[0], o, a)
			case len(args) == 0:
				return listDevices(a)
			}
			return runFlash(c.Context(), args[0], args[1], o, a)
		},
	}
	o.addFlags(c)
	o.imageOptions.addFlags(c, a)
	f := c.Flags()
	o.node.addMachineFlags(c)
	f.BoolVar(&o.Repair, "repair-control", false, "rewrite only the control partition of a card, from what the card holds")
	f.StringVar(&o.Cache, "cache", "", "keep images from registries in `DIR` (default: your cache directory)")
	c.MarkFlagsMutuallyExclusive("repair-control", "inventory")
	c.MarkFlagsMutuallyExclusive("repair-control", "keep-state")
	return c
}

func listDevices(a *app) error {
	list, err := flash.Machine{Root: "/"}.List()
	if err != nil {
		return err
	}
	var lines []string
	for _, d := range list {
		line := d.Describe()
		if err := d.Refuse(flash.Rules{}); err != nil {
			line += "\n    cannot be flashed: " + strings.TrimPrefix(err.Error(), d.Path+" ")
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = []string{"no disk or card reader found"}
	}
	a.result(list, strings.Join(lines, "\n"))
	return nil
}

// findDevice finds the disk or file that the command line names.
func findDevice(name string) (flash.Device, error) {
	d, err := flash.Machine{Root: "/"}.Find(name)
	if err != nil && len(hint.Of(err)) == 0 {
		err = hint.With(err, "pikelet flash without arguments lists the devices")
	}
	return d, err
}

func runFlash(ctx context.Context, image, device string, o flashOptions, a *app) error {
	d, err := findDevice(device)
	if err != nil {
		return err
	}
	if flash.SameFile(image, device) {
		return usagef("%s is both the image and the device; want another device", image)
	}
	img, err := o.open(ctx, image)
	if err != nil {
		return err
	}
	node, hostname, err := o.nodeFile(img.Stream)
	if err != nil {
		return err
	}
	card, err := flash.CardOf(ctx, img.Image, img.card, node)
	if err != nil {
		return err
	}
	if err := refuse(d, flash.Rules{Need: card.Size(), Serial: o.Serial}); err != nil {
		return err
	}
	if o.KeepState && d.Size == 0 {
		return fmt.Errorf("%s does not exist yet: no state to keep", d.Path)
	}
	what := fmt.Sprintf("%s %s", img.Stream, img.Release)
	if hostname != "" {
		what += " for " + hostname
	}
	if err := a.confirm(d, what, o.Yes); err != nil {
		return err
	}
	if img.From.Remote() {
		kept, err := a.keep(ctx, img.Published, o.Cache) // all of it is local before anything is written
		if err != nil {
			return err
		}
		defer kept.Release()
		if card, err = flash.CardOf(ctx, kept.Image, nil, node); err != nil {
			return err
		}
	}
	return writeCard(ctx, card, d, o.KeepState, what, a)
}

// nodeFile returns the config that goes onto the card.
func (o *flashOptions) nodeFile(stream string) (text []byte, hostname string, err error) {
	if o.Inventory == "" {
		return nil, "", nil
	}
	o.node.stream = stream
	cfg, err := o.node.load(o.Inventory)
	if err != nil {
		return nil, "", err
	}
	text, err = provision.NodeFile(cfg)
	return text, cfg.Hostname, err
}

// refuse is Refuse of a device, with the flag that would allow to write to it.
func refuse(d flash.Device, r flash.Rules) error {
	err := d.Refuse(r)
	if errors.Is(err, flash.ErrNotRemovable) {
		return hint.Withf(err, "if this is the right disk, name its serial: --device-serial %s", d.Serial)
	}
	return err
}

// keep brings an image from a registry into the cache in a directory.
func (a *app) keep(ctx context.Context, img *registry.Published, dir string) (*imagecache.Kept, error) {
	store, err := openCache(dir)
	if err != nil {
		return nil, err
	}
	progress, end := a.meter("pulling", img.Size())
	defer end()
	return imagecache.Keep(ctx, store, img, progress)
}

// confirm asks for the model of the device, which is not typed by mistake. A
// file that does not exist yet needs no confirmation.
func (a *app) confirm(d flash.Device, what string, yes bool) error {
	if yes || d.Size == 0 {
		return nil
	}
	word := d.Model
	if word == "" || d.File {
		word = filepath.Base(d.Path)
	}
	fmt.Fprintf(a.err, "This writes %s to\n  %s\nand overwrites what it holds.\nType %q to continue: ", what, d.Describe(), word)
	line, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != word {
		return hint.With(errors.New("nothing was written: the confirmation does not match"), "--yes skips the confirmation")
	}
	return nil
}

func writeCard(ctx context.Context, card *flash.Card, d flash.Device, keep bool, what string, a *app) error {
	dev, err := flash.OpenDevice(d, card.Size())
	if err != nil {
		return err
	}
	defer dev.Close()
	if keep {
		if err := card.Keep(dev); err != nil {
			return fmt.Errorf("%s: %w", d.Path, err)
		}
	}
	card.DiskSize = d.Size
	start := time.Now()
	var flushed, written time.Time // when flushing began, and when it ended
	show, end := phases(a, card.Content())
	err = card.Write(ctx, dev, func(phase flash.Phase, n int64) {
		switch {
		case phase == flash.Flushing:
			flushed = time.Now()
		case phase == flash.Comparing && written.IsZero():
			written = time.Now()
		}
		show(phase, n)
	})
	end()
	if err == nil {
		err = dev.Close()
	}
	if err != nil {
		return hint.With(fmt.Errorf("flashing %s: %w", d.Path, err), "the card is incomplete and will not boot: flash it again")
	}
	wrote, compared := written.Sub(start).Seconds(), time.Since(written).Seconds()
	mb := float64(card.Content()) / 1e6
	fields := map[string]any{"device": d.Path, "digest": card.Digest, "bytes": card.Content(),
		"writeSeconds": wrote, "flushSeconds": written.Sub(flushed).Seconds(), "compareSeconds": compared}
	a.result(fields, fmt.Sprintf("%s is on %s and verified: %.0f MB, written at %.0f MB/s and read at %.0f MB/s",
		what, d.Path, mb, mb/wrote, mb/compared))
	return nil
}

// phases shows the progress of writing a card.
func phases(a *app, total int64) (flash.Progress, func()) {
	p := newProgress(a)
	sum := map[flash.Phase]int64{}
	return func(phase flash.Phase, n int64) {
		sum[phase] += n
		step := string(phase) + " the card"
		if phase == flash.Flushing {
			p.show(builder.Progress{Step: string(flash.Writing) + " the card", Done: total, Total: total})
			a.log.Info("flushing the card")
			return
		}
		p.show(builder.Progress{Step: step, Done: min(sum[phase], total), Total: total})
	}, p.end
}

func runRepair(ctx context.Context, device string, o flashOptions, a *app) error {
	d, err := findDevice(device)
	if err != nil {
		return err
	}
	if err := refuse(d, flash.Rules{Serial: o.Serial}); err != nil {
		return err
	}
	img, err := o.open(ctx, device)
	if err != nil {
		return err
	}
	if img.card == nil {
		return fmt.Errorf("%s is not a card: only the control partition of a card can be repaired", device)
	}
	card, err := flash.RepairOf(ctx, img.Image, img.card)
	if err != nil {
		return err
	}
	if err := a.confirm(d, "only a new control partition", o.Yes); err != nil {
		return err
	}
	dev, err := flash.OpenDevice(d, 0)
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := card.Repair(ctx, dev, func(flash.Phase, int64) {}); err != nil {
		return fmt.Errorf("repairing %s: %w", d.Path, err)
	}
	slot := card.Control.Default
	a.result(map[string]string{"device": d.Path, "default": string(slot)},
		fmt.Sprintf("%s: the control partition is repaired, and boots slot %s", d.Path, slot))
	return dev.Close()
}
