package agent

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/agent/updater"
	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// arch is what this program runs on, in OCI's words.
const arch = "arm64"

// upgrade is the verb: it brings an image onto the other slot, arms it, and
// restarts into its trial. What refuses does so before anything is written.
func upgrade(args []string, out io.Writer) error {
	f := flag.NewFlagSet("upgrade", flag.ContinueOnError)
	f.SetOutput(out)
	plain := f.Bool("plain-http", false, "speak HTTP without TLS to the registry")
	again := f.Bool("again", false, "take a release that failed here before")
	drill := f.Bool("drill", false, "try it, and come back however well it went")
	dry := f.Bool("dry-run", false, "say how it would come here, and how much that is, and do nothing")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("want one image: pikeletd upgrade [--plain-http] [--again] [--drill] [--dry-run] registry.example/name:tag, or a folder or archive that pikelet pull wrote")
	}
	return withUpdater(func(ctx context.Context, u *updater.Updater, b node.Boot) error {
		if err := u.MayStart(slots.Image{}, *again); err != nil {
			return err // before the registry is asked for anything
		}
		cfg, err := readConfig()
		if err != nil {
			return err
		}
		o, err := registryOptions(cfg, f.Arg(0), *plain)
		if err != nil {
			return err
		}
		img, err := findImage(ctx, f.Arg(0), o, b)
		if errors.Is(err, errRuns) {
			fmt.Fprintf(out, "release %s is what this node runs\n", img.Release)
			return nil
		}
		if err != nil {
			return err
		}
		image, err := bring(ctx, u, img, *again, *dry, out)
		if err != nil || *dry {
			return err
		}
		return arm(ctx, u, slots.Update{Digest: image.Digest, Drill: *drill}, img.Release, out)
	})
}

// bring writes an image onto the other slot, in the cheapest way there is. A dry
// run only says which.
func bring(ctx context.Context, u *updater.Updater, img *registry.Image, again, dry bool, out io.Writer) (slots.Image, error) {
	signature, err := img.Signature()
	if err != nil {
		return slots.Image{}, err
	}
	image := slots.Image{Manifest: img.Manifest, Text: img.Text, Signature: signature, Digest: img.Digest, Open: img.OpenUnchecked}
	if err := u.MayStart(image, again); err != nil {
		return image, err
	}
	if err := firmwareCanTry(u, out); err != nil {
		return image, err
	}
	tell := func(text string) { fmt.Fprintln(out, text) }
	fmt.Fprintf(out, "%s %s is good, and goes to slot %s\n", img.Stream, img.Release, u.Boot.Slot.Other())
	ways := u.Ways(ctx, sourceOf(ctx, img, image, u.Boot, tell), tell)
	tell(describeWay(ways[0], img))
	if dry {
		for _, w := range ways[1:] {
			if err := w.Plan(ctx); err != nil {
				tell(fmt.Sprintf("not by %s: %v", w.Name, err))
				continue
			}
			tell("else " + describeWay(w, img))
		}
		return image, nil
	}
	defer sparing()()
	w, err := u.BringBy(ctx, ways, tell)
	if err != nil {
		return image, err
	}
	fmt.Fprintf(out, "%.1f MB were written, %.1f MB were there already; all of it reads back as it should\n", float64(w.Bytes)/1e6, float64(w.Same)/1e6)
	return image, nil
}

// firmwareCanTry refuses where this machine's firmware does not start trials.
func firmwareCanTry(u *updater.Updater, out io.Writer) error {
	b, err := boards.Find(board())
	if err != nil {
		fmt.Fprintf(out, "which board this is is not known, and so not whether its firmware starts trials\n")
		return nil
	}
	f := boards.Firmware{Built: firmware().Bootloader}
	if at, size, err := slots.ControlFile(u.Card, u.Table, slots.BootcodeFile); err == nil && size <= maxControl {
		f.Bootcode = make([]byte, size)
		if _, err := u.Card.ReadAt(f.Bootcode, at); err != nil {
			f.Bootcode = nil
		}
	}
	problem, warning := b.CanTry(f)
	if warning != "" {
		fmt.Fprintf(out, "note: %s\n", warning)
	}
	if problem != "" {
		return errors.New(problem)
	}
	return nil
}

// arm restarts into a trial. Where that fails, k3s runs on: it was stopped for
// a copy of its datastore.
func arm(ctx context.Context, u *updater.Updater, s slots.Update, release string, out io.Writer) error {
	if err := u.Arm(ctx, s); err != nil {
		startK3s()
		return err
	}
	fmt.Fprintf(out, "%s%s\n", node.Restarting, release)
	return nil
}

// rollback is the verb: the other slot, as it is, as a trial.
func rollback(args []string, out io.Writer) error {
	f := flag.NewFlagSet("rollback", flag.ContinueOnError)
	f.SetOutput(out)
	drill := f.Bool("drill", false, "try it, and come back however well it went")
	again := f.Bool("again", false, "take a release that failed here before")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 0 {
		return errors.New("want no image: pikeletd rollback [--drill] [--again] tries what the other slot holds")
	}
	return withUpdater(func(ctx context.Context, u *updater.Updater, b node.Boot) error {
		m, digest, err := updater.ReadSlot(ctx, u.Card, u.Table, b.Slot.Other(), u.Boot.Keys)
		if err != nil {
			return fmt.Errorf("there is nothing to go back to: %w", err)
		}
		if err := u.MayStart(slots.Image{Digest: digest}, *again); err != nil {
			return err
		}
		if err := firmwareCanTry(u, out); err != nil {
			return err
		}
		if err := u.Ready(); err != nil {
			return err
		}
		fmt.Fprintf(out, "slot %s holds %s %s, whole and signed\n", b.Slot.Other(), m.Stream, m.Release)
		return arm(ctx, u, slots.Update{Digest: digest, Drill: *drill}, m.Release, out)
	})
}

// withUpdater runs do with the card open and nobody else upgrading.
func withUpdater(do func(context.Context, *updater.Updater, node.Boot) error) error {
	unlock, err := lock("/run/pikelet/upgrade.lock")
	if err != nil {
		return err
	}
	defer unlock()
	b, err := readBoot()
	if err != nil {
		return err
	}
	if b.Slot == slots.Net {
		return errors.New("this node has no card; it takes another image when it is started with one")
	}
	u, done, err := newUpdater(b)
	if err != nil {
		return err
	}
	defer done()
	return do(context.Background(), u, b)
}

// errRuns is what an image is that runs already.
var errRuns = errors.New("this node runs it")

// findImage finds the image and refuses what this node does not run: what no
// key of the running image signed, another stream, another board, a lower
// release without a statement that allows it.
func findImage(ctx context.Context, ref string, o registry.Options, b node.Boot) (*registry.Image, error) {
	place, tag, err := registry.Locate(ref, o)
	if err != nil {
		return nil, err
	}
	keys, err := trusted(b)
	if err != nil {
		return nil, err
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Keys: keys, Arch: arch, Stream: b.Stream})
	if err != nil {
		return nil, err
	}
	board := board()
	switch {
	case img.Digest == b.Signed:
		return img, errRuns
	case board != "" && !slices.Contains(img.Boards, board):
		return nil, fmt.Errorf("release %s is for %s, and this is a %s", img.Release, strings.Join(img.Boards, ", "), board)
	case artifact.CompareReleases(img.Release, b.Release) < 0 && !allowed(img, b.Release, keys):
		return nil, fmt.Errorf("release %s is older than %s, which runs here; pikelet promote --allow-downgrade signs what lets nodes go back", img.Release, b.Release)
	}
	return img, nil
}

// allowed says whether somebody signed that nodes may go back to an image from
// the release that runs.
func allowed(img *registry.Image, release string, keys []*ecdsa.PublicKey) bool {
	return slices.ContainsFunc(artifact.Downgrades(img.Digest, img.Signatures, keys), func(d artifact.Downgrade) bool {
		return artifact.CompareReleases(release, d.From) <= 0
	})
}
