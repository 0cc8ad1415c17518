package updater

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// made keeps patches: the same pair of images has the same one.
var made sync.Map

// patchOf makes the patch from one image to another.
func patchOf(t testing.TB, old, new image.Image) []byte {
	t.Helper()
	if b, ok := made.Load(old.Digest + new.Digest); ok {
		return b.([]byte)
	}
	var out bytes.Buffer
	on := func(name string) bool { return !strings.HasPrefix(name, "cmdline") }
	if _, err := patch.Make(context.Background(), &out, old, new, patch.Options{Workers: 1, Memory: 1 << 30, In: on}); err != nil {
		t.Fatal(err)
	}
	made.Store(old.Digest+new.Digest, out.Bytes())
	return out.Bytes()
}

// source is where an image is published, with a patch for what runs.
func (l *life) source(img image.Image) Source {
	root, err := img.OpenUnchecked(context.Background(), image.RootFile)
	if err != nil {
		root = io.NopCloser(strings.NewReader(""))
	}
	defer root.Close()
	b, _ := io.ReadAll(root)
	src := Source{Image: img, Scratch: func(int64) (*os.File, error) {
		l.step("scratch")
		if l.full {
			return nil, errors.New("no space left on device")
		}
		return patch.Scratch(l.t.TempDir())
	}, Part: func(_ context.Context, at, n int64) (io.ReadCloser, error) {
		if l.unreachable || at+n > int64(len(b)) {
			return nil, errors.New("the registry is gone")
		}
		return io.NopCloser(bytes.NewReader(b[at : at+n])), nil
	}}
	if l.way == patch.ByPatch {
		p := patchOf(l.t, l.images[l.boot.Digest], l.images[img.Digest])
		src.Patch = &image.Patch{From: l.boot.Digest, Subject: img.Digest, Blob: image.Descriptor{Digest: fmt.Sprintf("sha256:%x", sha256.Sum256(p)), Size: int64(len(p))}}
		src.OpenPatch = func(context.Context) io.ReadCloser {
			if l.unreachable {
				return io.NopCloser(iotestErr{errors.New("the registry is gone")})
			}
			return io.NopCloser(bytes.NewReader(p))
		}
	}
	return src
}

type iotestErr struct{ err error }

// Read implements io.Reader.
func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

// bring brings an image in the life's way.
func (l *life) bring(u *Updater, img image.Image) (Written, error) {
	if l.way == "" {
		return u.Bring(context.Background(), img)
	}
	ways := u.Ways(context.Background(), l.source(img), u.Node.Tell)
	l.taken = nil
	for i, w := range ways {
		bring := w.img
		ways[i].img = func(ctx context.Context) (image.Image, func(), error) {
			l.taken = append(l.taken, w.Name)
			img, done, err := bring(ctx)
			from := img.Source
			img.Source = hooked{from, func(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
				if err == nil && l.kill != nil { // the whole image steps by itself
					if w.Name != patch.ByImage {
						l.opened++
						l.step("open")
					}
				}
				return from.Open(ctx, f, at, n)
			}}
			return img, done, err
		}
	}
	if l.way == patch.ByFiles {
		ways = slices.DeleteFunc(ways, func(w Way) bool { return w.Name == patch.ByPatch })
	}
	return u.BringBy(context.Background(), ways, u.Node.Tell)
}

// TestWays brings an image in each way, up to its commit: the same bytes, and
// what is fetched is less and less.
func TestWays(t *testing.T) {
	var slot [3][]byte
	var fetched []int64
	for i, way := range []string{"", patch.ByFiles, patch.ByPatch} {
		l := newLife(t, newImage(t, "1.0"))
		l.start("", PowerOn)
		next := l.add(newImage(t, "1.1"), true)
		l.way = way
		if way != "" {
			ways := l.updater().Ways(context.Background(), l.source(next), func(text string) { t.Error(text) })
			if ways[0].Name != way {
				t.Fatalf("%s: the first way is by %s", way, ways[0].Name)
			}
			fetched = append(fetched, ways[0].Fetch)
			if way == patch.ByPatch && ways[1].Fetch != NotPlanned {
				t.Error("what the second way fetches was asked for")
			}
		} else {
			fetched = append(fetched, missing(Source{Image: next}, image.Image{}, nil))
		}
		if err := l.through(next); err != nil {
			t.Fatalf("%s: %v", way, err)
		}
		l.is(slots.B, "1.1", slots.Finished)
		if way != "" && !slices.Equal(l.taken, []string{way}) {
			t.Errorf("%s: by %v", way, l.taken)
		}
		p := l.table().Partitions[slots.B.Partition()-1]
		slot[i] = make([]byte, p.Size)
		if _, err := l.card.ReadAt(slot[i], p.Start); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(slot[0], slot[1]) || !bytes.Equal(slot[0], slot[2]) {
		t.Error("the slots differ")
	}
	if fetched[1] >= fetched[0] || fetched[2] >= fetched[1]/10 {
		t.Errorf("whole, by files and by patch %d bytes are fetched", fetched)
	}
	t.Logf("whole, by files and by patch %d bytes are fetched", fetched)
}

// TestNextWay damages one thing after the other: what is found costs a longer
// download, and nothing else.
func TestNextWay(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(l *life, src *Source)
		want []string
	}{
		"nothing":                 {func(*life, *Source) {}, []string{patch.ByPatch}},
		"no patch":                {func(_ *life, s *Source) { s.Patch = nil }, []string{patch.ByFiles}},
		"no range":                {func(_ *life, s *Source) { s.Patch, s.Part = nil, nil }, []string{patch.ByImage}},
		"no room":                 {func(l *life, _ *Source) { l.full = true }, []string{patch.ByPatch, patch.ByFiles}},
		"the patch is cut":        {cutPatch(func(b []byte) []byte { return b[:len(b)-5] }), []string{patch.ByPatch, patch.ByFiles}},
		"the patch was changed":   {cutPatch(func(b []byte) []byte { b = bytes.Clone(b); b[len(b)/2] ^= 1; return b }), []string{patch.ByPatch, patch.ByFiles}},
		"a signed patch is none":  {signedPatch(func(b []byte) []byte { return b[:len(b)/2] }), []string{patch.ByPatch, patch.ByFiles}},
		"a signed patch is wrong": {signedPatch(func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-3] ^= 0x40; return b }), []string{patch.ByPatch, patch.ByFiles}},
		"a block of the old root": {rot(image.RootFile, 50_000), []string{patch.ByPatch, patch.ByFiles}},
		"the old root's tables":   {rot(image.RootFile, -3*4096), []string{patch.ByPatch, patch.ByFiles, patch.ByImage}},
		"the old kernel":          {rot("vmlinuz", 5000), []string{patch.ByPatch, patch.ByFiles}},
		"the old firmware":        {rot("start.elf", 5000), []string{patch.ByPatch}},
		"a generation nobody has": {func(l *life, s *Source) { m := *s.Manifest; m.Root.Generation++; s.Manifest = &m }, []string{patch.ByPatch, patch.ByFiles}},
		"files that are published": {func(_ *life, s *Source) {
			s.Patch = nil
			s.Part = func(context.Context, int64, int64) (io.ReadCloser, error) { return nil, errors.New("no range") }
		}, []string{patch.ByImage}},
		"blocks that are not right": {func(_ *life, s *Source) { s.Patch = nil; s.Part = wrongLater(s.Part) }, []string{patch.ByFiles, patch.ByImage}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(t, newImage(t, "1.0"))
			l.start("", PowerOn)
			next := l.add(newImage(t, "1.1"), true)
			l.way = patch.ByPatch
			u := l.updater()
			src := l.source(next)
			c.harm(l, &src)
			var told []string
			ways := u.Ways(context.Background(), src, func(text string) { told = append(told, text) })
			var taken []string
			for i, w := range ways {
				bring := w.img
				ways[i].img = func(ctx context.Context) (image.Image, func(), error) {
					taken = append(taken, w.Name)
					return bring(ctx)
				}
			}
			_, err := u.BringBy(context.Background(), ways, func(text string) { told = append(told, text) })
			l.full = false
			if err != nil || !slices.Equal(taken, c.want) {
				t.Fatalf("by %v, want %v: %v\n%s", taken, c.want, err, strings.Join(told, "\n"))
			}
			if err := u.Arm(context.Background(), Order{Digest: next.Digest}); err != nil {
				t.Error(err)
			}
			t.Log(strings.Join(told, "\n"))
		})
	}
}

// cutPatch has another patch come than was signed.
func cutPatch(change func([]byte) []byte) func(*life, *Source) {
	return func(_ *life, s *Source) {
		r := s.OpenPatch(context.Background())
		b, _ := io.ReadAll(r)
		s.OpenPatch = func(context.Context) io.ReadCloser { return io.NopCloser(bytes.NewReader(change(b))) }
	}
}

// signedPatch has a patch be signed that is damaged.
func signedPatch(change func([]byte) []byte) func(*life, *Source) {
	return func(l *life, s *Source) {
		cutPatch(change)(l, s)
		b, _ := io.ReadAll(s.OpenPatch(context.Background()))
		s.Patch.Blob = image.Descriptor{Digest: image.DigestOf(b), Size: int64(len(b))}
	}
}

// rot flips a bit of a file of the slot that runs, from its end where at is
// below 0.
func rot(name string, at int64) func(*life, *Source) {
	return func(l *life, _ *Source) {
		running, err := l.updater().running()
		if err != nil {
			l.t.Fatal(err)
		}
		f, _ := running.File(name)
		if at < 0 {
			at = int64(running.Root.DataBlocks)*4096 + 4096 + at
		}
		want := make([]byte, f.Size)
		r, err := running.OpenAt(name)
		if err != nil {
			l.t.Fatal(err)
		}
		if _, err := r.ReadAt(want, 0); err != nil {
			l.t.Fatal(err)
		}
		p := l.table().Partitions[slots.A.Partition()-1]
		all := make([]byte, p.Size)
		if _, err := l.card.Card.ReadAt(all, p.Start); err != nil {
			l.t.Fatal(err)
		}
		i := bytes.Index(all, want)
		if i < 0 {
			l.t.Fatalf("%s is not on the card", name)
		}
		if _, err := l.card.Card.WriteAt([]byte{all[int64(i)+at] ^ 1}, p.Start+int64(i)+at); err != nil {
			l.t.Fatal(err)
		}
	}
}

// wrongLater is a place that is right when a way is planned, and not later.
func wrongLater(part patch.Part) patch.Part {
	n := 0
	return func(ctx context.Context, at, size int64) (io.ReadCloser, error) {
		n++
		r, err := part(ctx, at, size)
		if err != nil || n <= 3 {
			return r, err
		}
		b, err := io.ReadAll(r)
		if err == nil {
			b[0] ^= 1
		}
		return io.NopCloser(bytes.NewReader(b)), err
	}
}

// TestPatchWithoutEnd: of a patch that has more bytes than were signed, no more
// are taken than it takes to know that.
func TestPatchWithoutEnd(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	next := l.add(newImage(t, "1.1"), true)
	l.way = patch.ByPatch
	src := l.source(next)
	first := src.OpenPatch
	var read counting
	src.OpenPatch = func(ctx context.Context) io.ReadCloser {
		read.Reader = io.MultiReader(first(ctx), bytes.NewReader(make([]byte, 10<<20)))
		return io.NopCloser(&read)
	}
	if _, _, err := byPatch(context.Background(), src, image.Image{}); err == nil || read.n != src.Patch.Blob.Size+1 {
		t.Errorf("%d bytes were read of a patch of %d: %v", read.n, src.Patch.Blob.Size, err)
	}
}

// TestPatchDigest: a patch of the right length that is not the one that was
// signed is not even opened.
func TestPatchDigest(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	next := l.add(newImage(t, "1.1"), true)
	l.way = patch.ByPatch
	src := l.source(next)
	cutPatch(func(b []byte) []byte { b = bytes.Clone(b); b[len(b)-1] ^= 1; return b })(l, &src)
	if _, _, err := byPatch(context.Background(), src, image.Image{}); err == nil || !strings.Contains(err.Error(), "was signed") {
		t.Errorf("a patch with another digest: %v", err)
	}
}

// counting counts what is read.
type counting struct {
	io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	return n, err
}

// TestRunningSlotChanged: where the running slot does not hold what was started,
// nothing is made of it: the whole image is fetched.
func TestRunningSlotChanged(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	next := l.add(newImage(t, "1.1"), true)
	l.way = patch.ByPatch
	src := l.source(next)
	u := l.updater()
	u.Boot.Digest = image.DigestOf([]byte("another"))
	var told []string
	ways := u.Ways(context.Background(), src, func(s string) { told = append(told, s) })
	if len(ways) != 1 || ways[0].Name != patch.ByImage || len(told) != 1 || !strings.Contains(told[0], "was started") {
		t.Errorf("%d ways, told %q", len(ways), told)
	}
}
