package updater

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
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
	if l.strategy == patch.ByPatch {
		p := patchOf(l.t, l.images[l.boot.Digest], l.images[img.Digest])
		blob := image.Descriptor{Digest: image.DigestOf(p), Size: int64(len(p))}
		src.Patch = &image.Patch{From: l.boot.Digest, Subject: img.Digest, Blob: blob}
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

// bring brings an image by the life's strategy.
func (l *life) bring(u *Updater, img image.Image) (Written, error) {
	if l.strategy == "" {
		return u.Bring(context.Background(), img)
	}
	strategies := u.Strategies(context.Background(), l.source(img), u.Log)
	l.tried = nil
	for i, s := range strategies {
		bring := s.img
		strategies[i].img = func(ctx context.Context) (image.Image, func(), error) {
			l.tried = append(l.tried, s.Name)
			img, done, err := bring(ctx)
			from := img.Source
			img.Source = hooked{from, func(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
				if err == nil && l.kill != nil { // the whole image steps by itself
					if s.Name != patch.ByImage {
						l.opened++
						l.step("open")
					}
				}
				return from.Open(ctx, f, at, n)
			}}
			return img, done, err
		}
	}
	if l.strategy == patch.ByFiles {
		strategies = slices.DeleteFunc(strategies, func(s Strategy) bool { return s.Name == patch.ByPatch })
	}
	return u.BringBy(context.Background(), strategies, u.Log)
}

// testLog returns a logger whose lines go to b.
func testLog(b *strings.Builder) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, nil))
}

// TestStrategies brings an image by each strategy, up to its commit: the same
// bytes, and what is fetched is less and less.
func TestStrategies(t *testing.T) {
	var slot [3][]byte
	var fetched []int64
	for i, name := range []string{"", patch.ByFiles, patch.ByPatch} {
		l := newLife(t, newImage(t, "1.0"))
		l.start("", PowerOn)
		next := l.add(newImage(t, "1.1"), true)
		l.strategy = name
		if name != "" {
			var logged strings.Builder
			strategies := l.updater().Strategies(context.Background(), l.source(next), testLog(&logged))
			if strategies[0].Name != name || logged.Len() > 0 {
				t.Fatalf("the first strategy is %q, want %q; logged %q", strategies[0].Name, name, logged.String())
			}
			fetched = append(fetched, strategies[0].Fetch)
			if name == patch.ByPatch && strategies[1].Fetch != NotPlanned {
				t.Error("the second strategy was planned")
			}
		} else {
			fetched = append(fetched, missing(Source{Image: next}, image.Image{}, nil))
		}
		if err := l.through(next); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		l.is(slots.B, "1.1", slots.Finished)
		if name != "" && !slices.Equal(l.tried, []string{name}) {
			t.Errorf("tried %q, want %q", l.tried, name)
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

// TestFailedStrategiesFallBack damages one thing after the other: what is found
// costs a longer download, and nothing else.
func TestFailedStrategiesFallBack(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(l *life, src *Source)
		want []string
	}{
		"nothing":                 {func(*life, *Source) {}, []string{patch.ByPatch}},
		"no patch":                {func(_ *life, s *Source) { s.Patch = nil }, []string{patch.ByFiles}},
		"no range":                {func(_ *life, s *Source) { s.Patch, s.Part = nil, nil }, []string{patch.ByImage}},
		"no room":                 {func(l *life, _ *Source) { l.full = true }, []string{patch.ByPatch, patch.ByFiles}},
		"the patch is cut":        {cutPatch(func(b []byte) []byte { return b[:len(b)-5] }), []string{patch.ByPatch, patch.ByFiles}},
		"the patch was changed":   {cutPatch(flip(-2, 1)), []string{patch.ByPatch, patch.ByFiles}},
		"a signed patch is cut":   {signedPatch(func(b []byte) []byte { return b[:len(b)/2] }), []string{patch.ByPatch, patch.ByFiles}},
		"a signed patch is wrong": {signedPatch(flip(3, 0x40)), []string{patch.ByPatch, patch.ByFiles}},
		"a block of the old root": {rot(image.RootFile, 50_000), []string{patch.ByPatch, patch.ByFiles}},
		"the old root's tables":   {rot(image.RootFile, -3*4096), []string{patch.ByPatch, patch.ByFiles, patch.ByImage}},
		"the old kernel":          {rot("vmlinuz", 5000), []string{patch.ByPatch, patch.ByFiles}},
		"the old firmware":        {rot("start.elf", 5000), []string{patch.ByPatch}},
		"an unknown generation": {func(_ *life, s *Source) {
			m := *s.Manifest
			m.Root.Generation++
			s.Manifest = &m
		}, []string{patch.ByPatch, patch.ByFiles}},
		"files that are published": {func(_ *life, s *Source) {
			s.Patch = nil
			s.Part = func(context.Context, int64, int64) (io.ReadCloser, error) { return nil, errors.New("no range") }
		}, []string{patch.ByImage}},
		"blocks that are not right": {func(_ *life, s *Source) {
			s.Patch, s.Part = nil, wrongLater(s.Part)
		}, []string{patch.ByFiles, patch.ByImage}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLife(t, newImage(t, "1.0"))
			l.start("", PowerOn)
			next := l.add(newImage(t, "1.1"), true)
			l.strategy = patch.ByPatch
			u := l.updater()
			src := l.source(next)
			c.harm(l, &src)
			var logged strings.Builder
			log := testLog(&logged)
			strategies := u.Strategies(context.Background(), src, log)
			var tried []string
			for i, s := range strategies {
				bring := s.img
				strategies[i].img = func(ctx context.Context) (image.Image, func(), error) {
					tried = append(tried, s.Name)
					return bring(ctx)
				}
			}
			_, err := u.BringBy(context.Background(), strategies, log)
			l.full = false
			if err != nil || !slices.Equal(tried, c.want) {
				t.Fatalf("tried %q, want %q: %v\n%s", tried, c.want, err, logged.String())
			}
			if err := u.Arm(context.Background(), Order{Digest: next.Digest}); err != nil {
				t.Error(err)
			}
			t.Log(logged.String())
		})
	}
}

// flip returns a copy of a text in which bits of a byte are inverted: of the one
// so far from the end, or of the one in the middle for -2.
func flip(fromEnd int, bits byte) func([]byte) []byte {
	return func(b []byte) []byte {
		b = bytes.Clone(b)
		i := len(b) - fromEnd
		if fromEnd == -2 {
			i = len(b) / 2
		}
		b[i] ^= bits
		return b
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

// wrongLater returns a Part that is right while a strategy is planned, and not later.
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
	l.strategy = patch.ByPatch
	src := l.source(next)
	first := src.OpenPatch
	var read counting
	src.OpenPatch = func(ctx context.Context) io.ReadCloser {
		read.Reader = io.MultiReader(first(ctx), bytes.NewReader(make([]byte, 10<<20)))
		return io.NopCloser(&read)
	}
	if _, _, err := imageByPatch(context.Background(), src, image.Image{}); err == nil || read.n != src.Patch.Blob.Size+1 {
		t.Errorf("%d bytes were read of a patch of %d: %v", read.n, src.Patch.Blob.Size, err)
	}
}

// TestPatchDigest: a patch of the right length that is not the one that was
// signed is not even opened.
func TestPatchDigest(t *testing.T) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	next := l.add(newImage(t, "1.1"), true)
	l.strategy = patch.ByPatch
	src := l.source(next)
	cutPatch(flip(1, 1))(l, &src)
	if _, _, err := imageByPatch(context.Background(), src, image.Image{}); err == nil || !strings.Contains(err.Error(), "was signed") {
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
	l.strategy = patch.ByPatch
	src := l.source(next)
	u := l.updater()
	u.Boot.Digest = image.DigestOf([]byte("another"))
	var logged strings.Builder
	list := u.Strategies(context.Background(), src, testLog(&logged))
	if len(list) != 1 || list[0].Name != patch.ByImage || !strings.Contains(logged.String(), "was started") {
		t.Errorf("got %d strategies, logged %q", len(list), logged.String())
	}
}
