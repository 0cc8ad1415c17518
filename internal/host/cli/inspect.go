package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/host/cosign"
	"github.com/pikelet-os/pikelet/internal/host/flash"
	"github.com/pikelet-os/pikelet/internal/host/publish"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

func newInspect(a *app) *cobra.Command {
	var keys []string
	var packages bool
	var o placeOptions
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what an image or a card holds, and verify it",
		Long: `Show what a disk image, a card, a build's output directory, an OCI layout, an
archive of one or an image in a registry holds, and verify the chain: signature,
manifests, every file's digest, verity root. This reads all of it.

The exit status is 1 if a slot fails the verification.`,
		Example: `  pikelet inspect out
  pikelet inspect --packages --key release.pub /dev/sdb`,
		GroupID: groupBuild,
		Args:    exactly(1, "a disk image, a device, a build's output directory, an OCI layout or a registry's reference"),
		RunE: func(c *cobra.Command, args []string) error {
			return runInspect(c.Context(), args[0], keys, packages, o, a)
		},
	}
	o.addFlags(c, a)
	c.Flags().StringArrayVar(&keys, "key", nil, "public key that must have signed the image, PEM `FILE`; repeatable "+
		"(default: the keys that the image itself trusts)")
	c.Flags().BoolVar(&packages, "packages", false, "list the packages")
	return c
}

// local returns the path of an image on this computer: its own, or that of a copy
// below work of an image in an archive, a compressed disk image or a registry.
func (o *placeOptions) local(ctx context.Context, ref, work string) (string, error) {
	st, err := os.Stat(ref)
	if err != nil && !registry.IsReference(ref) || err == nil && st.IsDir() {
		return ref, nil
	}
	if err == nil {
		packed, err := flash.IsZstd(ref)
		if err != nil {
			return "", err
		}
		if packed {
			f, err := flash.Decompress(ctx, ref, work)
			if err != nil {
				return "", err
			}
			return f.Name(), f.Close()
		}
		if !strings.HasSuffix(ref, ".tar") {
			return ref, nil
		}
	}
	options, err := o.registry()
	if err != nil {
		return "", err
	}
	place, tag, err := registry.Locate(ref, options)
	if err != nil {
		return "", err
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Arch: publish.Arch, OwnKeys: inspect.Keys})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(work, "layout")
	return dir, registry.SaveLayout(ctx, img, dir, nil)
}

func runInspect(ctx context.Context, path string, keyFiles []string, packages bool, o placeOptions, a *app) error {
	keys, err := cosign.ReadPublicKeys(keyFiles)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "pikelet-inspect-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	copied, err := o.local(ctx, path, work)
	if err != nil {
		return err
	}
	img, err := inspect.Open(copied, work)
	if err != nil {
		return err
	}
	defer img.Close()
	img.Path = path
	broken := 0
	for _, s := range img.Slots {
		if len(keys) > 0 && s.Manifest != nil {
			s.Signed = "by a key you gave"
			if err := s.Trust(keys); err != nil {
				s.Signed = ""
				s.Problems = append(s.Problems, fmt.Sprintf("not signed by a key you gave: %v", err))
			}
		}
		broken += min(len(s.Problems), 1)
	}
	a.result(img, describe(img, packages))
	if broken > 0 {
		return fmt.Errorf("verification failed for %d of %d images", broken, len(img.Slots))
	}
	return nil
}

func describe(img *inspect.Image, packages bool) string {
	var b strings.Builder
	for _, p := range img.Partitions {
		fmt.Fprintf(&b, "partition %d  %-8s %6d MiB at %d MiB\n", p.Number, p.Name, p.Size>>20, p.Start>>20)
	}
	if img.Default != "" {
		fmt.Fprintf(&b, "default  slot %s\n", img.Default)
	}
	for _, s := range img.Slots {
		title := "slot " + s.Name
		if len(img.Partitions) == 0 {
			title = s.Name
		}
		fmt.Fprintf(&b, "\n%s\n", title)
		if m := s.Manifest; m != nil {
			fmt.Fprintf(&b, "  image    %s %s, for %s (build %s)\n", m.Stream, m.Release, strings.Join(m.Boards, " "), m.BuildID)
			fmt.Fprintf(&b, "  digest   %s\n", s.Digest)
			fmt.Fprintf(&b, "  root     %d MiB, verity root %s\n", m.Root.DataBlocks>>8, m.Root.Hash)
			fmt.Fprintf(&b, "  cmdline  %s\n", s.Cmdline)
			fmt.Fprintf(&b, "  packages %d\n", len(s.Packages))
			if packages {
				for _, p := range s.Packages {
					fmt.Fprintf(&b, "    %s\n", p)
				}
			}
		}
		if len(s.Problems) == 0 {
			fmt.Fprintf(&b, "  chain    verified: signed %s, every file and the verity root match the manifest\n", s.Signed)
		}
		for _, p := range s.Problems {
			fmt.Fprintf(&b, "  BROKEN   %s\n", p)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

func newDiff(a *app) *cobra.Command {
	var o placeOptions
	c := &cobra.Command{
		Use:   "diff A B",
		Short: "Show the differences between two images",
		Long: `Show the differences between two images: packages, files of the root, files
outside it, sizes and kernel command line; and how a node that runs A obtains B:
how much each method downloads, and about how long that takes on a Pi 4 at
100 Mbit/s. The node uses the first method. On cards and disk images, slot a is
compared. Images may be in registries.`,
		Example: `  pikelet diff registry.example/pi/homelab:1.3 out`,
		GroupID: groupBuild,
		Args:    exactly(2, "two images"),
		RunE:    func(c *cobra.Command, args []string) error { return runDiff(c.Context(), args[0], args[1], o, a) },
	}
	o.addFlags(c, a)
	return c
}

func runDiff(ctx context.Context, from, to string, o placeOptions, a *app) error {
	work, err := os.MkdirTemp("", "pikelet-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var pair []*inspect.Slot
	for i, path := range []string{from, to} {
		dir := fmt.Sprintf("%s/%d", work, i)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		path, err := o.local(ctx, path, dir)
		if err != nil {
			return err
		}
		img, err := inspect.Open(path, dir)
		if err != nil {
			return err
		}
		defer img.Close()
		if len(img.Slots) == 0 {
			return fmt.Errorf("comparing %s: no image found", path)
		}
		pair = append(pair, img.Slots[0])
	}
	d, err := inspect.Compare(pair[0], pair[1])
	if err != nil {
		return err
	}
	options, err := o.registry()
	if err != nil {
		return err
	}
	list := publish.Strategies(ctx, pair[0], pair[1], d.Download, to, options)
	a.result(struct {
		*inspect.Diff
		Strategies []publish.Strategy `json:"ways"`
	}{d, list}, describeDiff(d, list))
	return nil
}

func describeDiff(d *inspect.Diff, list []publish.Strategy) string {
	var text strings.Builder
	for _, part := range []struct {
		title string
		lines []string
	}{{"packages", d.Packages}, {"kernel command line", d.Words}, {"files of the root", d.Files}, {"files outside the root", d.Slot}} {
		fmt.Fprintf(&text, "%s: %d differ\n", part.title, len(part.lines))
		for _, l := range part.lines {
			text.WriteString("  " + l + "\n")
		}
	}
	fmt.Fprintf(&text, "size: %.1f MiB -> %.1f MiB\n", float64(d.Bytes[0])/(1<<20), float64(d.Bytes[1])/(1<<20))
	text.WriteString("a node that runs the first obtains the second")
	for i, w := range list {
		prefix := "  or"
		if i == 0 {
			prefix = "\n "
		}
		fmt.Fprintf(&text, "%s by %s: %.2f MiB, about %.0f s\n", prefix, w.Name, float64(w.Bytes)/(1<<20), w.Seconds)
	}
	return strings.TrimRight(text.String(), "\n")
}
