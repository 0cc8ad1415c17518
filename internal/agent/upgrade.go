package agent

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/agent/updater"
	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/disk/medium"
	"github.com/pikelet-os/pikelet/internal/node"
	"github.com/pikelet-os/pikelet/internal/reboot"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// arch is what this program runs on, in OCI's words.
const arch = "arm64"

// cardMedium is the card as it is written to.
type cardMedium struct{ *os.File }

// Flush implements medium.Medium.
func (c cardMedium) Flush() error { return c.Sync() }

// Forget implements medium.Medium.
func (c cardMedium) Forget() error { return unix.IoctlSetInt(int(c.Fd()), unix.BLKFLSBUF, 0) }

var _ medium.Medium = cardMedium{}

// upgrade is the verb: it brings an image onto the other slot, arms it, and
// restarts into its trial. What refuses does so before anything is written.
func upgrade(args []string, out io.Writer) error {
	f := flag.NewFlagSet("upgrade", flag.ContinueOnError)
	f.SetOutput(out)
	plain := f.Bool("plain-http", false, "speak HTTP without TLS to the registry")
	again := f.Bool("again", false, "take a release that failed here before")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() != 1 {
		return errors.New("want one image: pikeletd upgrade [--plain-http] [--again] registry.example/name:tag")
	}
	ctx := context.Background()
	unlock, err := lock("/run/pikelet/upgrade.lock")
	if err != nil {
		return err
	}
	defer unlock()
	b, err := readBoot()
	if err != nil {
		return err
	}
	c, err := openCard(b.Disk)
	if err != nil {
		return err
	}
	defer c.f.Close()
	record := slots.ReadCard(c.f)
	if err := mayUpgrade(b, record.Update); err != nil {
		return err
	}
	img, err := findImage(ctx, f.Arg(0), registry.Options{PlainHTTP: *plain, UserAgent: "pikeletd"}, b)
	if err != nil {
		return err
	}
	if u := record.Update; u != nil && u.Step == slots.Left && u.Bad && u.Digest == img.Digest && !*again {
		return fmt.Errorf("release %s failed on this node before: %s; say --again to try it all the same", img.Release, u.Reason)
	}
	if err := healthy(); err != nil {
		return fmt.Errorf("this node is not well, and would not be with the new release: %w", err)
	}
	return bringAndArm(ctx, c, b, img, out)
}

// mayUpgrade says why this is not the moment for an upgrade.
func mayUpgrade(b node.Boot, u *slots.Update) error {
	switch {
	case b.Slot == slots.Net:
		return errors.New("this node has no card; it takes another image when it is started with one")
	case b.Kind == slots.Trial:
		return errors.New("this boot is a trial; wait until it is committed or left")
	case u != nil && (u.Step == slots.Armed || u.Step == slots.Tried):
		return fmt.Errorf("release %s is being tried", u.Release)
	}
	return nil
}

// findImage finds the image and refuses what this node does not run: what no
// key of the running image signed, another stream, another board, a lower
// release without a statement that allows it.
func findImage(ctx context.Context, ref string, o registry.Options, b node.Boot) (*registry.Image, error) {
	place, tag, err := registry.Locate(ref, o)
	if err != nil {
		return nil, err
	}
	var keys []*ecdsa.PublicKey
	for _, text := range b.Keys {
		k, err := artifact.ParsePublicKey([]byte(text))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Keys: keys, Arch: arch, Stream: b.Stream})
	if err != nil {
		return nil, err
	}
	board := board()
	switch {
	case img.Digest == b.Signed:
		return nil, fmt.Errorf("release %s is what this node runs", img.Release)
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

// healthy runs all checks: what fails on the release that runs would fail the
// next one too.
func healthy() error {
	cfg, err := readConfig()
	if err != nil {
		return err
	}
	if failed := failedChecks(runChecks(cfg)); failed != "" {
		return errors.New(failed)
	}
	return nil
}

// failedChecks lists checks that fail, on one line; "" where all hold.
func failedChecks(list []node.Check) string {
	var failed []string
	for _, c := range list {
		if !c.OK {
			failed = append(failed, c.Name+": "+oneLine(c.Says))
		}
	}
	return strings.Join(failed, "; ")
}

// bringAndArm writes the other slot and restarts into it, once.
func bringAndArm(ctx context.Context, c *card, b node.Boot, img *registry.Image, out io.Writer) error {
	other := b.Slot.Other()
	p, err := c.table.Partition(other.Partition())
	if err != nil {
		return err
	}
	d := cardMedium{c.f}
	if b.Kind == slots.Rescue {
		// Whatever happens to the other slot, this one runs, so it is the default.
		if err := updater.Commit(d, c.table, b.Slot); err != nil {
			return err
		}
	}
	signature, err := img.Signature()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%s %s is good, and goes to slot %s\n", img.Stream, img.Release, other)
	image := slots.Image{Manifest: img.Manifest, Text: img.Text, Signature: signature, Digest: img.Digest, Open: img.Open}
	w, err := updater.WriteSlot(ctx, d, image, other, p)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%.1f MB were written, %.1f MB were there already; all of it reads back as it should\n", float64(w.Bytes)/1e6, float64(w.Same)/1e6)
	err = c.note(slots.Update{Step: slots.Armed, Slot: other, Digest: img.Digest, Release: img.Release})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "restarting into the trial of release %s\n", img.Release)
	return askReboot(reboot.Tryboot)
}

// note writes down how far an upgrade is, and returns when that is on the
// card.
func (c *card) note(u slots.Update) error {
	u.Reason = u.Reason[:min(len(u.Reason), slots.MaxReason)]
	if err := slots.ChangeCard(c.f, func(r *slots.Card) { r.Update = &u }); err != nil {
		return err
	}
	return c.f.Sync()
}
