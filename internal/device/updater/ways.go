package updater

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Source is where an image comes from.
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

// Way is a way in which a node comes by an image.
type Way struct {
	Name  string
	Fetch int64 // bytes that are fetched, if the running slot holds what it should; NotPlanned before Plan
	Work  int64 // bytes of files that are made by this node

	plan func(context.Context) (fetch int64, err error) // nil where it is known
	img  func(context.Context) (img image.Image, done func(), err error)
}

// NotPlanned is what a way fetches that was not planned yet: to know it costs a
// hundredth of the image, which a node with a patch need not fetch.
const NotPlanned = -1

// Plan finds out what a way fetches.
func (w *Way) Plan(ctx context.Context) (err error) {
	if w.Fetch == NotPlanned {
		w.Fetch, err = w.plan(ctx)
	}
	return err
}

// Ways returns how a node may come by an image, the cheapest way first; the last
// one is always there. tell is told why a way is none.
func (u *Updater) Ways(ctx context.Context, src Source, tell func(string)) []Way {
	running, err := u.running()
	if err != nil {
		tell(fmt.Sprintf("what runs cannot be read: %v", err))
		return []Way{{Name: patch.ByImage, Fetch: missing(src, image.Image{}, nil), img: whole(src.Image)}}
	}
	there := sameFiles(running)
	full := Way{Name: patch.ByImage, Fetch: missing(src, running, nil), img: whole(reuse(src.Image, running))}
	root, _ := src.Manifest.File(image.RootFile)
	if there[root.Digest] != "" {
		full.Name = patch.ByFiles
	}
	var list []Way
	if src.Patch != nil {
		w := Way{Name: patch.ByPatch, Fetch: src.Patch.Blob.Size, Work: src.Patch.Work}
		w.img = func(ctx context.Context) (image.Image, func(), error) { return byPatch(ctx, src, running) }
		list = append(list, w)
	}
	if src.Part != nil && there[root.Digest] == "" {
		files := &fileWay{src: src, running: running}
		w := Way{Name: patch.ByFiles, Fetch: NotPlanned, plan: files.plan, img: files.image}
		if len(list) > 0 {
			list = append(list, w)
		} else if err := w.Plan(ctx); err != nil {
			tell(fmt.Sprintf("files that changed cannot be fetched alone: %v", err))
		} else {
			list = append(list, w)
		}
	}
	return append(list, full)
}

// BringBy brings an image onto the other slot in the first way that works. What
// goes wrong in one way costs the next one; what is wrong with the node ends it.
func (u *Updater) BringBy(ctx context.Context, ways []Way, tell func(string)) (Written, error) {
	if err := u.Ready(); err != nil {
		return Written{}, err
	}
	var sum Written
	for i, w := range ways {
		n, err := u.bringBy(ctx, w)
		sum.Bytes, sum.Same = sum.Bytes+n.Bytes, n.Same
		if err == nil || i == len(ways)-1 || ctx.Err() != nil {
			return sum, err
		}
		tell(fmt.Sprintf("by %s it did not go: %v; trying by %s", w.Name, err, ways[i+1].Name))
	}
	return sum, errors.New("there is no way to bring it")
}

func (u *Updater) bringBy(ctx context.Context, w Way) (Written, error) {
	img, done, err := w.img(ctx)
	if err != nil {
		return Written{}, err
	}
	defer done()
	n, err := u.Bring(ctx, img)
	var wrong *wrongFile
	if errors.As(err, &wrong) && w.Name != patch.ByImage {
		err = fmt.Errorf("%s came out as %s; the signed manifest says %s", wrong.Name, wrong.got, wrong.Digest)
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
		return image.Image{}, fmt.Errorf("slot %s holds %s, and %s was started", u.Boot.Slot, s.Digest, u.Boot.Digest)
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
		return nil, fmt.Errorf("slot %s has no %s: %w", s.slot, f.Name, fs.ErrNotExist)
	}
	r, size, err := s.volume.OpenAt(on, f.Size)
	if err != nil {
		return nil, err
	}
	if size != f.Size {
		return nil, fmt.Errorf("%s has %d bytes on slot %s; its manifest says %d", f.Name, size, s.slot, f.Size)
	}
	return onCard{r}, nil
}

// Open implements image.Source.
func (s onSlot) Open(_ context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	r, err := s.OpenAt(f)
	if err != nil {
		return nil, err
	}
	return image.Section(r, at, n), nil
}

type onCard struct{ io.ReaderAt }

// Close implements io.Closer: the card stays open.
func (onCard) Close() error { return nil }

// sameFiles returns the names of an image's files by their digests.
func sameFiles(img image.Image) map[string]string {
	list := map[string]string{}
	for _, f := range img.Files {
		list[f.Digest] = f.Name
	}
	return list
}

// missing returns the bytes of the files of an image that another has not, but
// for some.
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
	r, err := u.OpenAt(f)
	if err != nil {
		return nil, err
	}
	return image.Section(r, at, n), nil
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

// byPatch fetches the patch, checks that it is what was signed, and has files be
// made with it.
func byPatch(ctx context.Context, src Source, running image.Image) (image.Image, func(), error) {
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
		err = fmt.Errorf("the patch is %s; %s was signed", got, src.Patch.Blob.Digest)
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

// fileWay has the root be made of the blocks of the running one, and those that
// changed.
type fileWay struct {
	src     Source
	running image.Image
	blocks  *patch.Blocks
}

// plan finds out what is fetched, once.
func (w *fileWay) plan(ctx context.Context) (fetch int64, err error) {
	if w.blocks == nil { // what it holds open is on the card, which stays so
		if w.blocks, _, err = patch.PlanBlocks(ctx, w.running, w.src.Manifest, w.src.Part); err != nil {
			return NotPlanned, err
		}
	}
	return w.blocks.Fetch + missing(w.src, w.running, map[string]bool{image.RootFile: true}), nil
}

func (w *fileWay) image(ctx context.Context) (image.Image, func(), error) {
	if _, err := w.plan(ctx); err != nil {
		return image.Image{}, nil, err
	}
	return image.Prefer(reuse(w.src.Image, w.running), w.blocks.Source()), func() {}, nil
}
