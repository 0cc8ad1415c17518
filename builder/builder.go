// Package builder turns an image spec into an artifact and a disk image,
// stage by stage:
//
//	spec.Image ─Resolve▶ Plan ─assemble▶ layers.Tree ─planRoot▶ sizes ─seal▶ hashes
//	                                        └─makeBootFiles▶ bootFiles ─pack▶ Artifact ─card▶ disk.img
//
// What files hold is hashed and compressed as it comes, in contents, and kept
// there for the next build. Where files lie on a card follows from their sizes,
// so seal writes the root to the artifact and to both slots of the disk image at
// once; the card adds the rest.
//
// Each stage is a function from value to value. None reads the clock, the
// environment or the order of a map, and none reaches back.
package builder

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/builder/deviceprogs"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/store"
)

// Inputs are what a build needs beside its spec.
type Inputs struct {
	Cache    *fetch.Cache
	Programs deviceprogs.Programs
	Key      *ecdsa.PrivateKey // signs the artifact
	Lock     *lock.File        // pins the inputs; nil has them chosen
	LockText []byte            // the bytes of the lock's file, which the provenance names
	Tool     string            // the version of pikelet, compared with the lock's
	Workers  int               // goroutines that compress; does not change the bytes
	Log      *slog.Logger      // what was done
	Zstd     bool              // write disk.img.zst too
	Progress func(Progress)    // called often, with how far a long step is; may be nil
	Made     *cache.Cache      // what earlier builds made and later ones may use; may be nil
	Fresh    bool              // use nothing that earlier builds made
}

// Result is a finished build.
type Result struct {
	*Artifact
	Plan     *Plan
	Disk     string // path of disk.img
	Warnings []Warning
}

// Build runs every stage. dir then holds disk.img, artifact/ and the text of
// each stage. A build that fails leaves an earlier one's files as they were; its
// error wraps lock.ErrOutdated where the lock does not fit the spec, and a
// *fetch.Missing where an input cannot be had.
func Build(ctx context.Context, img *spec.Image, in Inputs, dir string) (*Result, error) {
	if err := checkOutput(img, dir); err != nil {
		return nil, err
	}
	work, done, err := openOutput(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	r, err := build(ctx, img, in, work)
	if errors.Is(err, store.ErrCorrupt) && in.Made != nil {
		in.Log.Info("ignoring the damaged cache", "err", err)
		in.Fresh = true
		if err := clearWork(work); err != nil {
			return nil, err
		}
		r, err = build(ctx, img, in, work)
	}
	if err != nil {
		return nil, err
	}
	if err := publish(work, dir); err != nil {
		return nil, err
	}
	r.Dir, r.Disk = filepath.Join(dir, "artifact"), filepath.Join(dir, "disk.img")
	r.Source = blobsOf(r.Dir)
	return r, nil
}

// build makes everything in the directory work.
func build(ctx context.Context, img *spec.Image, in Inputs, work string) (*Result, error) {
	compression, err := squashfs.FindCompression(img.Compression)
	if err != nil {
		return nil, err
	}
	c, err := openContents(in, compression, maxTree(img), work)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	plan, err := resolve(ctx, img, in, c)
	if err != nil {
		return nil, err
	}
	for _, note := range plan.Notes {
		in.Log.LogAttrs(ctx, slog.LevelInfo, note.Message, note.Attrs...)
	}
	in.Log.Info("resolved packages", "count", len(plan.Packages), "build", plan.BuildID)
	assembly, err := assemble(ctx, plan, in, c)
	if err != nil {
		return nil, err
	}
	card, err := newCard(filepath.Join(work, "disk.img"), img, in)
	if err != nil {
		return nil, err
	}
	defer card.Close()
	m, boot, err := finish(ctx, plan, assembly, card, in, c)
	if err != nil {
		return nil, err
	}
	in.Log.Info("made the initramfs", "kernel", assembly.Kernel.Release, "modules", len(boot.Modules))
	root, _ := m.File(image.RootFile)
	in.Log.Info("wrote the root", "bytes", root.Size, "verity", m.Root.Hash)
	art, err := pack(m, rootFile(work), boot, in.Key, filepath.Join(work, "artifact"), func(digest string) (d documents, err error) {
		if d.bill, err = billOfMaterials(plan, assembly, digest, in.Tool); err != nil {
			return d, err
		}
		d.provenance, err = provenanceOf(plan, assembly, in)
		return d, err
	})
	if err != nil {
		return nil, err
	}
	if err := card.finish(ctx, art, in); err != nil {
		return nil, err
	}
	if in.Zstd {
		if err := compressDisk(ctx, card.name, card.name+".zst", in); err != nil {
			return nil, err
		}
	}
	if err := writeTexts(work, plan, assembly.Tree, boot, art); err != nil {
		return nil, err
	}
	return &Result{Artifact: art, Plan: plan, Warnings: warnings(assembly, boot)}, ctx.Err()
}

// warnings are those of all stages.
func warnings(a *assembly, b *bootFiles) []Warning {
	return append(a.Warnings[:len(a.Warnings):len(a.Warnings)], b.Warnings...)
}

// finish makes what lies beside the root and lays out the root, at the same time;
// then it writes the root to all places it belongs, and returns the description
// of all.
func finish(ctx context.Context, plan *Plan, a *assembly, card *card, in Inputs, c *contents) (
	m *image.Manifest, boot *bootFiles, err error) {
	var laid *rootPlan
	var group errgroup.Group
	group.Go(func() error {
		var err error
		boot, err = makeBootFiles(plan, a.Tree, a.Kernel, c)
		return err
	})
	group.Go(func() error {
		var err error
		laid, err = planRoot(a.Tree, plan.Epoch, in.Workers, c)
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	if warnings := warnings(a, boot); plan.Image.Strict && len(warnings) > 0 {
		return nil, nil, fmt.Errorf("the spec is strict:\n%s", lines(warnings))
	}
	m = newManifest(plan, a.Kubernetes, laid, boot)
	places, err := card.places(m)
	if err != nil {
		return nil, nil, err
	}
	hashes, err := seal(ctx, laid, rootFile(c.work), places, in)
	if err != nil {
		return nil, nil, err
	}
	hashes.addTo(m)
	return m, boot, c.Finish()
}

// rootFile is where the root lies until it is packed.
func rootFile(work string) string { return filepath.Join(work, image.RootFile) }

// maxTree bounds the uncompressed root: 8 times what a slot holds. Programs
// compress to a third.
func maxTree(img *spec.Image) int64 { return 8 * int64(img.SlotSize) }

// writeTexts writes each stage down, so that a build can be read.
func writeTexts(dir string, p *Plan, t *layers.Tree, b *bootFiles, a *Artifact) error {
	var modules bytes.Buffer
	for _, m := range b.Modules {
		modules.WriteString(m + "\n")
	}
	signature, err := a.Signature.Encode()
	if err != nil {
		return err
	}
	texts := map[string][]byte{
		"plan.txt": p.Text(), "tree.txt": t.Listing(), "modules.txt": modules.Bytes(),
		image.ConfigFile: b.Files[image.ConfigFile], image.ManifestFile: a.Text, image.SignatureFile: signature,
	}
	for _, l := range []slots.Letter{slots.A, slots.B, slots.Net} {
		texts[l.CmdlineFile()] = b.Files[l.CmdlineFile()]
	}
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}
