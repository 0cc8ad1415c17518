package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/host/flash"
	"github.com/pikelet-os/pikelet/internal/host/provision"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// flashOptions are what may be said of writing a card.
type flashOptions struct {
	imageOptions
	node      nodeOptions
	Config    string // file with the node's config
	Serial    string
	Yes       bool
	KeepState bool
	Repair    bool
	Cache     string
}

func (o *flashOptions) addFlags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.Config, "node", "", "node config or inventory of the node the card is for")
	f.StringVar(&o.node.machine.Name, "name", "", "the node of an inventory, by its hostname")
	f.StringVar(&o.Serial, "device-serial", "", "the serial of a disk that is not removable, and is meant all the same")
	f.BoolVarP(&o.Yes, "yes", "y", false, "do not ask")
	f.BoolVar(&o.KeepState, "keep-state", false, "leave the card's state partition as it is")
}

func newFlash(say *teller) *cobra.Command {
	var o flashOptions
	c := &cobra.Command{
		Use:   "flash IMAGE DEVICE",
		Short: "Write an image onto a card",
		Long: `Write an image onto a card, with the config of the node it is for: a build's
output folder, a disk image, an OCI layout, an archive, or a registry's
reference. DEVICE is a disk, such as /dev/sdb, or a file.

Without arguments it shows the disks and card readers there are.

What is mounted, in use, read-only or too small is refused, and so is a disk
that nobody can pull out, unless its serial is named. The device's model is
asked for before anything is written. Only what the image uses is written, and
read back; a card whose writing was interrupted starts nothing, and says so.

A card that holds state of an earlier cluster loses it, but for --keep-state.
--repair-control writes only a card's first partition anew, with what the card
itself holds, for a node that no longer finds its slots.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && !o.Repair, len(args) == 2 && !o.Repair, len(args) == 1 && o.Repair:
				return nil
			case o.Repair:
				return usageError{errors.New("want the card whose control partition is repaired")}
			}
			return usageError{fmt.Errorf("want an image and a device, got %d arguments; without any, the devices are shown", len(args))}
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case o.Repair:
				return runRepair(c.Context(), args[0], o, say)
			case len(args) == 0:
				return showDevices(say)
			}
			return runFlash(c.Context(), args[0], args[1], o, say)
		},
	}
	o.addFlags(c)
	o.imageOptions.addFlags(c, say)
	f := c.Flags()
	f.StringVar(&o.node.machine.Serial, "serial", "", "the node of an inventory, by its serial number")
	f.StringVar(&o.node.machine.MAC, "mac", "", "the node of an inventory, by its Ethernet address")
	f.StringVar(&o.node.machine.Board, "board", "", "the node of an inventory, by its board")
	f.StringVar(&o.node.identity, "identity", "", "file with age keys for secrets (default: age.key in pikelet's configuration folder)")
	f.BoolVar(&o.Repair, "repair-control", false, "write only the control partition of a card, from what the card holds")
	f.StringVar(&o.Cache, "cache", "", "folder that images from registries are kept in (default: your cache folder)")
	return c
}

func showDevices(say *teller) error {
	list, err := flash.Machine{Root: "/"}.List()
	if err != nil {
		return err
	}
	var lines []string
	for _, d := range list {
		line := d.Describe()
		if err := d.Refuse(flash.Rules{}); err != nil {
			line += "\n    not to be flashed: " + strings.TrimPrefix(err.Error(), d.Path+" ")
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		lines = []string{"no disk or card reader was found"}
	}
	say.result(list, strings.Join(lines, "\n"))
	return nil
}

func runFlash(ctx context.Context, image, device string, o flashOptions, say *teller) error {
	d, err := flash.Machine{Root: "/"}.Find(device)
	if err != nil {
		return err
	}
	if sameFile(image, device) {
		return usageError{fmt.Errorf("%s is the image and the device too; want another device", image)}
	}
	img, err := o.open(ctx, image)
	if err != nil {
		return err
	}
	node, hostname, err := o.nodeFile(img.Stream)
	if err != nil {
		return err
	}
	card, err := newCard(ctx, img, node)
	if err != nil {
		return err
	}
	if err := d.Refuse(flash.Rules{Need: card.Size(), Serial: o.Serial}); err != nil {
		return err
	}
	if o.KeepState && d.Size == 0 {
		return fmt.Errorf("%s is not there yet, so there is no state to keep", d.Path)
	}
	what := fmt.Sprintf("%s %s", img.Stream, img.Release)
	if hostname != "" {
		what += " for " + hostname
	}
	if err := o.confirm(d, what); err != nil {
		return err
	}
	if _, remote := img.From.(*registry.Remote); remote {
		kept, release, err := o.fetch(ctx, img, say)
		if err != nil {
			return err
		}
		defer release()
		if card, err = newCard(ctx, kept, node); err != nil {
			return err
		}
	}
	return writeCard(ctx, card, d, o.KeepState, what, say)
}

// nodeFile makes the config that goes onto the card.
func (o *flashOptions) nodeFile(stream string) (text []byte, hostname string, err error) {
	if o.Config == "" {
		return nil, "", nil
	}
	o.node.stream = stream
	cfg, err := o.node.load(o.Config)
	if err != nil {
		return nil, "", err
	}
	text, err = provision.NodeFile(cfg)
	return text, cfg.Hostname, err
}

// fetch brings an image from a registry onto this computer, all of it, before
// anything is written.
func (o *flashOptions) fetch(ctx context.Context, img *registry.Published, say *teller) (*registry.Published, func(), error) {
	kept, _, release, err := keep(ctx, img, o.Cache, say)
	return kept, release, err
}

// keep brings an image into the cache, and returns the layout it has there.
// Until release is called nothing of it is pruned.
func keep(ctx context.Context, img *registry.Published, dir string, say *teller) (kept *registry.Published, layout string, release func(), err error) {
	if dir, err = cacheFolder(dir); err != nil {
		return nil, "", nil, err
	}
	c := &cache.Cache{Dir: dir, Now: time.Now()}
	release = c.Hold()
	ours, err := c.Own(cache.Images, img.Digest) // who flashes the same image now waits for our copy
	if err != nil {
		release()
		return nil, "", nil, err
	}
	tell, end := meter(say, "pulling", size(img.Manifest))
	layout = c.Path(cache.Images, img.Digest)
	kept, err = registry.Keep(ctx, img, layout, tell)
	end()
	ours()
	if err != nil {
		release()
		return nil, "", nil, err
	}
	return kept, layout, release, nil
}

// cachedImage returns where the cache keeps an image, there or not.
func cachedImage(dir, digest string) (string, error) {
	dir, err := cacheFolder(dir)
	if err != nil {
		return "", err
	}
	return (&cache.Cache{Dir: dir}).Path(cache.Images, digest), nil
}

// newCard returns the card of an image. A disk image's own config and size of
// state are kept where nothing else was said.
func newCard(ctx context.Context, img *registry.Published, node []byte) (*flash.Card, error) {
	state := int64(disk.StateInImage)
	if s, ok := img.From.(*flash.Source); ok {
		p, err := s.Table.Partition(disk.State)
		if err != nil {
			return nil, err
		}
		state = p.Size
		if node == nil {
			node = s.Files().Node
		}
	}
	return flash.NewCard(ctx, img.Image, state, node)
}

// confirm asks for the model of the device, which nobody types by mistake. A
// file that is not there yet is nobody's loss.
func (o *flashOptions) confirm(d flash.Device, what string) error {
	if o.Yes || d.Size == 0 {
		return nil
	}
	word := d.Model
	if word == "" || d.File {
		word = filepath.Base(d.Path)
	}
	fmt.Fprintf(os.Stderr, "This writes %s onto\n  %s\nand what is there is lost.\nType %q to go on: ", what, d.Describe(), word)
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(line) != word {
		return errors.New("nothing was written: that was not it; --yes goes on without asking")
	}
	return nil
}

func writeCard(ctx context.Context, card *flash.Card, d flash.Device, keep bool, what string, say *teller) error {
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
	var flushed, written time.Time // when waiting for the card began, and when it ended
	show, end := phases(say, card.Content())
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
		return fmt.Errorf("flashing %s: %w\nwhat is on it is not whole, and starts nothing; flash it again", d.Path, err)
	}
	wrote, compared := written.Sub(start).Seconds(), time.Since(written).Seconds()
	mb := float64(card.Content()) / 1e6
	say.result(map[string]any{"device": d.Path, "digest": card.Digest, "bytes": card.Content(), "writeSeconds": wrote, "flushSeconds": written.Sub(flushed).Seconds(), "compareSeconds": compared},
		fmt.Sprintf("%s is on %s, and reads back as it should: %.0f MB, written with %.0f MB/s and read with %.0f MB/s", what, d.Path, mb, mb/wrote, mb/compared))
	return nil
}

// phases shows how far a card is.
func phases(say *teller, total int64) (flash.Progress, func()) {
	p := newProgress(say)
	sum := map[flash.Phase]int64{}
	return func(phase flash.Phase, n int64) {
		sum[phase] += n
		step := string(phase) + " the card"
		if phase == flash.Flushing {
			p.show(builder.Progress{Step: string(flash.Writing) + " the card", Done: total, Total: total})
			say.line("flushing: waiting for the card")
			return
		}
		p.show(builder.Progress{Step: step, Done: min(sum[phase], total), Total: total})
	}, p.end
}

func runRepair(ctx context.Context, device string, o flashOptions, say *teller) error {
	d, err := flash.Machine{Root: "/"}.Find(device)
	if err != nil {
		return err
	}
	if err := d.Refuse(flash.Rules{Serial: o.Serial}); err != nil {
		return err
	}
	img, err := o.open(ctx, device)
	if err != nil {
		return err
	}
	source := img.From.(*flash.Source)
	card, err := newCard(ctx, img, nil)
	if err != nil {
		return err
	}
	files := source.Files()
	files.Bootcode = card.Control.Bootcode
	card.Table, card.Control = source.Table, files
	if err := o.confirm(d, "a new control partition, and nothing else,"); err != nil {
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
	say.result(map[string]string{"device": d.Path, "default": string(files.Default)},
		fmt.Sprintf("%s: the control partition is whole again, and boots slot %s", d.Path, files.Default))
	return dev.Close()
}

// saveDisk writes an image as a disk image. What comes from a registry is
// brought here first.
func saveDisk(ctx context.Context, img *registry.Published, out string, tell registry.Progress) error {
	if _, err := os.Stat(out); err == nil {
		return fmt.Errorf("%s is there already; name another, or remove it", out)
	}
	layout := out + ".partial-layout"
	if _, remote := img.From.(*registry.Remote); remote {
		var err error
		if img, err = registry.Keep(ctx, img, layout, tell); err != nil {
			return err
		}
	}
	card, err := newCard(ctx, img, nil)
	if err != nil {
		return err
	}
	dev, err := flash.OpenDevice(flash.Device{Path: out + ".partial", File: true, Bus: "file"}, card.Size())
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := card.Write(ctx, dev, func(flash.Phase, int64) {}); err != nil {
		os.Remove(out + ".partial")
		return err
	}
	if err := dev.Close(); err != nil {
		return err
	}
	if err := os.Rename(out+".partial", out); err != nil {
		return err
	}
	return os.RemoveAll(layout)
}

// openCompressed opens a disk image that zstd compressed, through a file that is
// removed again where the system lets that be done with open files.
func openCompressed(ctx context.Context, name string) (*flash.Source, error) {
	dir, err := os.MkdirTemp("", "pikelet-disk-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out, err := decompress(ctx, name, dir)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s, err := flash.OpenSource(out.Name())
	if err != nil {
		return nil, fmt.Errorf("%s, decompressed: %w", name, err)
	}
	return s, nil
}
