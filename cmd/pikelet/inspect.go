package main

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pikelet-os/pikelet/builder/inspect"
	"github.com/pikelet-os/pikelet/internal/artifact"
)

func newInspect(say *teller) *cobra.Command {
	var keys []string
	var packages bool
	c := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what an image, a folder or a card holds, and check its chain",
		Long: `Show what a disk image, a card, a build's folder or an OCI layout holds, and
check the chain: signature, manifests, every file's digest, verity root.

Exit status 1 where the chain of a slot does not hold.`,
		Args: exactly(1, "a disk image, a device, a build's folder or an OCI layout"),
		RunE: func(_ *cobra.Command, args []string) error { return runInspect(args[0], keys, packages, say) },
	}
	c.Flags().StringArrayVar(&keys, "key", nil, "public key that must have signed, PEM; may be given several times (default: the keys the image itself trusts)")
	c.Flags().BoolVar(&packages, "packages", false, "list the packages")
	return c
}

func runInspect(path string, keyFiles []string, packages bool, say *teller) error {
	var keys []*ecdsa.PublicKey
	for _, name := range keyFiles {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		k, err := artifact.ParsePublicKey(b)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		keys = append(keys, k)
	}
	work, err := os.MkdirTemp("", "pikelet-inspect-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	img, err := inspect.Open(path, work)
	if err != nil {
		return err
	}
	defer img.Close()
	broken := 0
	for _, s := range img.Slots {
		if len(keys) > 0 && s.Manifest != nil {
			s.Signed = "by a key you gave"
			if err := s.Trust(keys); err != nil {
				s.Signed = ""
				s.Problems = append(s.Problems, fmt.Sprintf("none of the keys you gave: %v", err))
			}
		}
		broken += min(len(s.Problems), 1)
	}
	say.result(img, describe(img, packages))
	if broken > 0 {
		return fmt.Errorf("the chain of %d of %d images does not hold", broken, len(img.Slots))
	}
	return nil
}

func describe(img *inspect.Image, packages bool) string {
	var b strings.Builder
	for _, p := range img.Partitions {
		fmt.Fprintf(&b, "partition %d  %-8s %6d MiB at %d MiB\n", p.Number, p.Name, p.Size>>20, p.Start>>20)
	}
	if img.Default != "" {
		fmt.Fprintf(&b, "boots slot %s unless told otherwise\n", img.Default)
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
			fmt.Fprintf(&b, "  words    %s\n", s.Cmdline)
			fmt.Fprintf(&b, "  packages %d\n", len(s.Packages))
			if packages {
				for _, p := range s.Packages {
					fmt.Fprintf(&b, "    %s\n", p)
				}
			}
		}
		if len(s.Problems) == 0 {
			fmt.Fprintf(&b, "  chain    good: signed %s, every file and the verity root as the manifest says\n", s.Signed)
		}
		for _, p := range s.Problems {
			fmt.Fprintf(&b, "  BROKEN   %s\n", p)
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

func newDiff(say *teller) *cobra.Command {
	return &cobra.Command{
		Use:   "diff A B",
		Short: "Show what differs between two images",
		Long: `Show what differs between two images: packages, files of the root, files beside
it, sizes and kernel words. Of cards and disk images it compares slot a.`,
		Args: exactly(2, "two images"),
		RunE: func(_ *cobra.Command, args []string) error { return runDiff(args[0], args[1], say) },
	}
}

func runDiff(a, b string, say *teller) error {
	work, err := os.MkdirTemp("", "pikelet-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var pair []*inspect.Slot
	for i, path := range []string{a, b} {
		dir := fmt.Sprintf("%s/%d", work, i)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		img, err := inspect.Open(path, dir)
		if err != nil {
			return err
		}
		defer img.Close()
		if len(img.Slots) == 0 {
			return errors.New(path + " holds no image")
		}
		pair = append(pair, img.Slots[0])
	}
	d, err := inspect.Compare(pair[0], pair[1])
	if err != nil {
		return err
	}
	var text strings.Builder
	for _, part := range []struct {
		title string
		lines []string
	}{{"packages", d.Packages}, {"kernel words", d.Words}, {"files of the root", d.Files}, {"files beside it", d.Slot}} {
		fmt.Fprintf(&text, "%s: %d differ\n", part.title, len(part.lines))
		for _, l := range part.lines {
			text.WriteString("  " + l + "\n")
		}
	}
	fmt.Fprintf(&text, "size: %.1f MiB -> %.1f MiB", float64(d.Bytes[0])/(1<<20), float64(d.Bytes[1])/(1<<20))
	say.result(d, text.String())
	return nil
}
