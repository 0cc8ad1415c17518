package updater

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Source is where an image comes from, and what may save fetching all of it.
type Source struct {
	image.Image // all of it

	// Patch is the signed patch that makes it of the image that runs; nil for
	// none. OpenPatch opens it: its end is io.EOF only if all of it is what was
	// signed.
	Patch     *image.Patch
	OpenPatch func(context.Context) io.ReadCloser
	// Part opens some bytes of its root; nil where that cannot be done.
	Part patch.Part
	// Scratch makes a file without a name for so many bytes; an error where
	// there is no room for them.
	Scratch func(size int64) (*os.File, error)
}

// Strategy is one method by which a node obtains an image.
type Strategy struct {
	Name  string
	Fetch int64 // bytes that are fetched, if the running slot holds what it should; NotPlanned before Plan
	Work  int64 // bytes of files that are made by this node

	plan func(context.Context) (fetch int64, err error) // nil where it is known
	img  func(context.Context) (img image.Image, done func(), err error)
}

// NotPlanned is the Fetch of a strategy before Plan: planning costs a hundredth
// of the image, which a node with a patch need not fetch.
const NotPlanned = -1

// Plan finds out how many bytes a strategy fetches.
func (s *Strategy) Plan(ctx context.Context) (err error) {
	if s.Fetch == NotPlanned {
		s.Fetch, err = s.plan(ctx)
	}
	return err
}

// Strategies returns how a node may obtain an image, the cheapest strategy first;
// the last one, to fetch all of it, always applies. Why another one does not apply
// is logged.
func (u *Updater) Strategies(ctx context.Context, src Source, log *slog.Logger) []Strategy {
	running, err := u.running()
	if err != nil {
		log.Warn("reading the slot that runs", "slot", u.Boot.Slot, "err", err)
		return []Strategy{{Name: patch.ByImage, Fetch: missing(src, image.Image{}, nil), img: whole(src.Image)}}
	}
	there := sameFiles(running)
	full := Strategy{Name: patch.ByImage, Fetch: missing(src, running, nil), img: whole(reuse(src.Image, running))}
	root, _ := src.Manifest.File(image.RootFile)
	if there[root.Digest] != "" {
		full.Name = patch.ByFiles
	}
	var list []Strategy
	if src.Patch != nil {
		s := Strategy{Name: patch.ByPatch, Fetch: src.Patch.Blob.Size, Work: src.Patch.Work}
		s.img = func(ctx context.Context) (image.Image, func(), error) { return imageByPatch(ctx, src, running) }
		list = append(list, s)
	}
	if src.Part != nil && there[root.Digest] == "" {
		files := &byFiles{src: src, running: running}
		s := Strategy{Name: patch.ByFiles, Fetch: NotPlanned, plan: files.plan, img: files.image}
		if len(list) > 0 {
			list = append(list, s)
		} else if err := s.Plan(ctx); err != nil {
			log.Warn("planning which changed files to fetch", "err", err)
		} else {
			list = append(list, s)
		}
	}
	return append(list, full)
}

// BringBy writes an image to the other slot by the first strategy that works. The
// failure of a strategy is logged, and the next one is tried. A node that is not
// well tries none: the error is ErrUnhealthy.
func (u *Updater) BringBy(ctx context.Context, strategies []Strategy, log *slog.Logger) (Written, error) {
	if err := u.Ready(ctx); err != nil {
		return Written{}, err
	}
	var sum Written
	for i, s := range strategies {
		n, err := u.bringBy(ctx, s)
		sum.Bytes, sum.Same = sum.Bytes+n.Bytes, n.Same
		if err == nil || i == len(strategies)-1 || ctx.Err() != nil {
			return sum, err
		}
		log.Warn("strategy failed, trying the next one", "strategy", s.Name, "next", strategies[i+1].Name, "err", err)
	}
	return sum, errors.New("no strategy to obtain the image")
}

func (u *Updater) bringBy(ctx context.Context, s Strategy) (Written, error) {
	img, done, err := s.img(ctx)
	if err != nil {
		return Written{}, err
	}
	defer done()
	n, err := u.Bring(ctx, img)
	var wrong *wrongFile
	if errors.As(err, &wrong) && s.Name != patch.ByImage {
		err = fmt.Errorf("making %q: digest mismatch: got %s, want %s, which the signed manifest says", wrong.Name, wrong.got, wrong.Digest)
	}
	return n, err
}

func whole(img image.Image) func(context.Context) (image.Image, func(), error) {
	return func(context.Context) (image.Image, func(), error) { return img, func() {}, nil }
}

// running returns the image that runs, as it lies on the card. Its chain is
// checked down to the manifest; what its files hold is checked by whoever reads
// them.
func (u *Updater) running() (image.Image, error) {
	s, err := openSlot(u.Card, u.Table, u.Boot.Slot, u.Boot.Keys)
	if err != nil {
		return image.Image{}, err
	}
	if s.Digest != u.Boot.Digest {
		return image.Image{}, fmt.Errorf("slot %s holds image %s, but %s was started", u.Boot.Slot, s.Digest, u.Boot.Digest)
	}
	return image.Image{Manifest: s.Manifest, Text: s.text, Digest: s.Digest, Source: onSlot{s.volume, u.Boot.Slot}}, nil
}

// onSlot is the files of the image that lies in a slot.
type onSlot struct {
	volume *fat.Volume
	slot   slots.Letter
}

// OpenAt implements image.Source.
func (s onSlot) OpenAt(f image.File) (image.ReaderAt, error) {
	on, ok := s.slot.OnSlot(f.Name)
	if !ok {
		return nil, fmt.Errorf("%q on slot %s: %w", f.Name, s.slot, fs.ErrNotExist)
	}
	r, size, err := s.volume.OpenAt(on, f.Size)
	if err != nil {
		return nil, err
	}
	if size != f.Size {
		return nil, fmt.Errorf("%q on slot %s: got %d bytes, want %d", f.Name, s.slot, size, f.Size)
	}
	return image.NopCloser(r), nil
}

// Open implements image.Source.
func (s onSlot) Open(_ context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	return image.OpenSection(s, f, at, n)
}

// sameFiles returns the names of an image's files by their digests.
func sameFiles(img image.Image) map[string]string {
	list := map[string]string{}
	for _, f := range img.Files {
		list[f.Digest] = f.Name
	}
	return list
}

// missing returns how many bytes the files of an image have that another image
// lacks, without those named in but.
func missing(src Source, running image.Image, but map[string]bool) (n int64) {
	for _, f := range src.Manifest.Lacking(running.Manifest) {
		if !but[f.Name] {
			n += f.Size
		}
	}
	return n
}

// reuse returns an image with the files that did not change taken from the
// running one, where they are still what they were.
func reuse(img, running image.Image) image.Image {
	return image.Prefer(img, unchanged{running, sameFiles(running)})
}

// unchanged is the files of an image that are those of another one, by their
// digests.
type unchanged struct {
	image.Image
	names map[string]string // by digest
}

// Open implements image.Source. Whatever cannot be read is not there.
func (u unchanged) Open(_ context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	return image.OpenSection(u, f, at, n)
}

// OpenAt implements image.Source.
func (u unchanged) OpenAt(f image.File) (image.ReaderAt, error) {
	name, ok := u.names[f.Digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	r, err := u.Image.OpenAt(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	if got, err := digestOf(io.NewSectionReader(r, 0, f.Size)); err != nil || got != f.Digest {
		r.Close()
		return nil, fs.ErrNotExist
	}
	return r, nil
}

// imageByPatch fetches the patch, checks that it is the one that was signed, and
// returns an image whose files are made with it.
func imageByPatch(ctx context.Context, src Source, running image.Image) (image.Image, func(), error) {
	size := src.Patch.Blob.Size
	f, err := src.Scratch(size)
	if err != nil {
		return image.Image{}, nil, err
	}
	r := src.OpenPatch(ctx)
	defer r.Close()
	sum := sha256.New()
	// One byte more than was signed is enough to know that it is another.
	n, err := io.CopyBuffer(io.MultiWriter(f, sum), io.LimitReader(struct{ io.Reader }{r}, size+1), make([]byte, 256<<10))
	if got := image.DigestOfSum(sum.Sum(nil)); err == nil && (n != size || got != src.Patch.Blob.Digest) {
		err = fmt.Errorf("digest mismatch: got %s, and %s was signed", got, src.Patch.Blob.Digest)
	}
	if err != nil {
		f.Close()
		return image.Image{}, nil, fmt.Errorf("fetching the patch: %w", err)
	}
	p, err := patch.Open(f, size, running, src.Manifest, src.Scratch)
	if err != nil {
		f.Close()
		return image.Image{}, nil, err
	}
	return image.Prefer(reuse(src.Image, running), p.Source()), func() { f.Close() }, nil
}

// byFiles makes the root from the blocks of the running one and those that
// changed.
type byFiles struct {
	src     Source
	running image.Image
	blocks  *patch.Blocks
}

// plan finds out what is fetched, once.
func (b *byFiles) plan(ctx context.Context) (fetch int64, err error) {
	if b.blocks == nil { // what it holds open is on the card, which stays so
		if b.blocks, _, err = patch.PlanBlocks(ctx, b.running, b.src.Manifest, b.src.Part); err != nil {
			return NotPlanned, err
		}
	}
	return b.blocks.Fetch + missing(b.src, b.running, map[string]bool{image.RootFile: true}), nil
}

func (b *byFiles) image(ctx context.Context) (image.Image, func(), error) {
	if _, err := b.plan(ctx); err != nil {
		return image.Image{}, nil, err
	}
	return image.Prefer(reuse(b.src.Image, b.running), b.blocks.Source()), func() {}, nil
}
