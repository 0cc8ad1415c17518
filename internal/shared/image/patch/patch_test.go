package patch

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/recompress"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// files of a tree: what begins with -> is a link, with = a hard link.
type files map[string]string

// memory is the files of an image in memory.
type memory map[string][]byte

// newImage makes an image of a root's files and a slot's.
func newImage(t testing.TB, release string, at int64, c squashfs.Compression, root files, slot map[string][]byte) (image.Image, memory) {
	t.Helper()
	names := make([]string, 0, len(root))
	directories := map[string]bool{}
	for name := range root {
		names = append(names, name)
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			directories[d] = true
		}
	}
	for d := range directories {
		names = append(names, d)
	}
	slices.Sort(names)
	var list, links []squashfs.Entry
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(at, 0)}
		text := root[name]
		e := squashfs.Entry{Header: h}
		switch {
		case directories[name]:
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case strings.HasPrefix(text, "->"):
			h.Typeflag, h.Linkname = tar.TypeSymlink, text[2:]
		case strings.HasPrefix(text, "="):
			h.Typeflag, h.Linkname = tar.TypeLink, text[1:]
			links = append(links, e)
			continue
		default:
			h.Size = int64(len(text))
			if strings.HasPrefix(name, "cap") {
				h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}
			}
			e.Open = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }
		}
		list = append(list, e)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := squashfs.Write(f, append(list, links...), squashfs.Options{Compression: c, Time: time.Unix(at, 0), Workers: 2}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	h := verity.NewHasher(verity.Salt())
	h.Write(b)
	params, tree, err := h.Tree()
	if err != nil {
		t.Fatal(err)
	}
	m := memory{image.RootFile: append(b, tree...)}
	for name, b := range slot {
		m[name] = b
	}
	man := &image.Manifest{
		Format: image.Format, Stream: "test", Release: release, BuildID: strings.Repeat("0", 32), Epoch: at, Arch: "arm64", SlotSize: 1 << 30,
		Root: image.Root{DataBlocks: params.DataBlocks, Salt: hex.EncodeToString(params.Salt), Hash: hex.EncodeToString(params.RootHash),
			Generation: squashfs.Generation, Compression: c.Name, BlockSize: c.BlockSize},
	}
	for name, b := range m {
		man.Files = append(man.Files, image.File{Name: name, Size: int64(len(b)), Digest: image.DigestOf(b)})
	}
	if _, err := man.Encode(); err != nil {
		t.Fatal(err)
	}
	return image.Image{Manifest: man, Source: image.Memory(m)}, m
}

// program is bytes that compress as a program's do.
func program(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, 0, n+4)
	for len(b) < n {
		b = append(b, byte(r.IntN(60)), byte(r.IntN(8)), 0xf9, byte(r.IntN(3)))
	}
	return b[:n]
}

func release(b []byte, marks int) []byte {
	out := slices.Clone(b)
	for i := range marks {
		at := (i*7919 + 1000) % len(out)
		out[at]++
	}
	return slices.Insert(out, len(out)/2, []byte("what is new in it")...)
}

func pack(t testing.TB, f recompress.Form, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := recompress.NewWriter(&out, f)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(b)
	w.Close()
	return out.Bytes()
}

// pair is two releases with one of each thing that can happen to a file.
func pair(t testing.TB, c squashfs.Compression) (old, new image.Image, oldFiles, newFiles memory) {
	big, other := program(1, 900_000), program(2, 400_000)
	before := files{
		"usr/bin/big": string(big), "usr/bin/same": string(other), "usr/bin/link": "->big", "usr/bin/twin": "=usr/bin/same",
		"lib/modules/6.1/a.ko": string(program(3, 70_000)), "lib/modules/6.1/b.ko": string(program(4, 30_000)),
		"lib/libx.so.1.2": string(program(5, 50_000)),
		"etc/gone":        "gone", "etc/release": "1.0", "etc/text": strings.Repeat("a line of text\n", 400), "capable": "can", "empty": "",
	}
	after := files{
		"usr/bin/big": string(release(big, 40)), "usr/bin/same": string(other), "usr/bin/link": "->same", "usr/bin/twin": "=usr/bin/big",
		"lib/modules/6.2/a.ko": string(release(program(3, 70_000), 9)), "lib/modules/6.2/b.ko": string(program(4, 30_000)),
		"lib/libx.so.1.3": string(release(program(5, 50_000), 3)),
		"etc/new":         "new", "etc/release": "1.1", "etc/text": strings.Repeat("a line of text\n", 400) + "and one more\n", "capable": "can",
		"empty": "", "lib/fresh": string(program(9, 20_000)),
	}
	kernel, init := program(11, 500_000), program(12, 300_000)
	old, oldFiles = newImage(t, "1.0", 1_700_000_000, c, before, map[string][]byte{
		"vmlinuz": pack(t, recompress.Gzip, kernel), "initramfs": pack(t, recompress.Zstd, init), "start4.elf": program(13, 80_000),
		"cmdline-a.txt": []byte("slot=a one"), "config.txt": []byte("x=1")})
	new, newFiles = newImage(t, "1.1", 1_700_086_400, c, after, map[string][]byte{
		"vmlinuz": pack(t, recompress.Gzip, release(kernel, 30)), "initramfs": pack(t, recompress.Zstd, release(init, 20)),
		"start4.elf": release(program(13, 80_000), 4), "cmdline-a.txt": []byte("slot=a two"), "config.txt": []byte("x=1")})
	return
}

func options(t testing.TB) Options {
	return Options{Workers: 2, Memory: 256 << 20, In: func(name string) bool { return !strings.HasPrefix(name, "cmdline") }}
}

func made(t testing.TB, old, new image.Image) ([]byte, Stats) {
	t.Helper()
	var out bytes.Buffer
	stats, err := Make(context.Background(), &out, old, new, options(t))
	if err != nil {
		t.Fatal(err)
	}
	if stats.Bytes != int64(out.Len()) {
		t.Errorf("it says %d bytes, and has %d", stats.Bytes, out.Len())
	}
	return out.Bytes(), stats
}

func try(t testing.TB, b []byte, old image.Image, new *image.Manifest) error {
	return Try(context.Background(), bytes.NewReader(b), int64(len(b)), old, new, t.TempDir())
}

// TestPatchReproducesEveryFile makes all files of a release from those of another.
func TestPatchReproducesEveryFile(t *testing.T) {
	for _, c := range []squashfs.Compression{squashfs.Fast(), squashfs.Small()} {
		t.Run(c.Name, func(t *testing.T) {
			old, new, _, _ := pair(t, c)
			b, stats := made(t, old, new)
			if err := try(t, b, old, new.Manifest); err != nil {
				t.Error(err)
			}
			// big, a.ko, libx, release, text, new, fresh; kernel, initramfs, firmware,
			// command line; the listing; b.ko only moved.
			if stats.By["same"] != 1 || stats.Changed != 13 {
				t.Errorf("%+v", stats)
			}
			if most := 30_000 + 10_000; len(b) > most { // fresh has no old file, and compresses to less than 20,000
				t.Errorf("the patch has %d bytes; want at most %d", len(b), most)
			}
			t.Logf("%+v", stats)
		})
	}
}

// TestNothingChanged: what is the same costs nothing.
func TestNothingChanged(t *testing.T) {
	old, _, _, _ := pair(t, squashfs.Fast())
	b, stats := made(t, old, old)
	if err := try(t, b, old, old.Manifest); err != nil || stats.Changed != 0 || len(b) > 100 {
		t.Errorf("%d bytes, %+v, %v", len(b), stats, err)
	}
}

// TestCorruptOldSlotIsDetected flips single bits in the old slot: each is
// detected, or lies where nothing is read.
func TestCorruptOldSlotIsDetected(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	old, new, files, _ := pair(t, squashfs.Fast())
	b, _ := made(t, old, new)
	found := 0
	for name := range files {
		for at := 0; at < len(files[name]); at += 1 + len(files[name])/40 {
			files[name][at] ^= 4
			err := try(t, b, old, new.Manifest)
			if files[name][at] ^= 4; err != nil {
				found++
			} else if name == image.RootFile && at < int(old.Root.DataBlocks-1)*verity.BlockSize/2 {
				t.Errorf("byte %d of %s flipped, and what was made of it is right", at, name)
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d flips were found", found)
	}
	if err := try(t, b, old, new.Manifest); err != nil {
		t.Error(err)
	}
}

// TestDamaged cuts and changes a patch: nothing that is made of it counts as
// what was signed.
func TestDamaged(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	old, new, _, _ := pair(t, squashfs.Fast())
	b, _ := made(t, old, new)
	found, flips := 0, 0
	for at := 0; at < len(b); at += 1 + len(b)/60 {
		if err := try(t, b[:at], old, new.Manifest); err == nil {
			t.Errorf("cut at %d, it makes what was signed", at)
		}
		bad := bytes.Clone(b)
		bad[at] ^= 0x10
		flips++
		if try(t, bad, old, new.Manifest) != nil {
			found++
		}
	}
	if found < flips*9/10 { // a few bits of zstd's frames mean nothing
		t.Errorf("%d of %d changes were found", found, flips)
	}
	if err := try(t, append(bytes.Clone(b), 0), old, new.Manifest); !errors.Is(err, ErrDamaged) {
		t.Errorf("with a byte more: %v", err)
	}
}

// TestOtherGenerations: what another program wrote is told from damage, before
// anything is read.
func TestOtherGenerations(t *testing.T) {
	old, new, _, _ := pair(t, squashfs.Fast())
	b, _ := made(t, old, new)
	later := *new.Manifest
	later.Root.Generation++
	if err := try(t, b, old, &later); !errors.Is(err, ErrGeneration) {
		t.Errorf("a later writer: %v", err)
	}
	// Of an image that an earlier writer wrote, one of this one can be made.
	earlier := *old.Manifest
	earlier.Root.Generation--
	if err := try(t, b, image.Image{Manifest: &earlier, Source: old.Source}, new.Manifest); err != nil {
		t.Errorf("an earlier image: %v", err)
	}
	var out bytes.Buffer
	other := image.Image{Manifest: &later, Source: new.Source}
	if _, err := Make(context.Background(), &out, old, other, options(t)); !errors.Is(err, ErrGeneration) {
		t.Errorf("a patch for a later writer: %v", err)
	}
}

// mostMiB is what a patch that lies may have allocated, in all, until it is
// refused.
const mostMiB = 64

// TestInvalidHeadersAreRefused: no file is made from a patch with a false header.
func TestInvalidHeadersAreRefused(t *testing.T) {
	old, new, _, _ := pair(t, squashfs.Fast())
	good, _ := made(t, old, new)
	h, err := decodeHead(bytes.NewReader(good), int64(len(good)))
	if err != nil {
		t.Fatal(err)
	}
	start := h.all()[0].at
	lie := func(f func(*head)) []byte {
		h, _ := decodeHead(bytes.NewReader(good), int64(len(good)))
		f(h)
		b, err := h.encode()
		if err != nil {
			t.Fatal(err)
		}
		return append(b, good[start:]...)
	}
	first := func(h *head, how method) *change {
		i := slices.IndexFunc(h.Root.Changes, func(c change) bool { return c.How == how })
		return &h.Root.Changes[i]
	}
	for name, b := range map[string][]byte{
		"nothing":                 {},
		"its beginning":           good[:10],
		"another version":         append(append([]byte(magic), 9), good[15:]...),
		"a head without end":      append([]byte(magic), 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"a head of a gigabyte":    append(append([]byte(magic), 1), 0x80, 0x80, 0x80, 0x80, 0x04, 0),
		"no zstd":                 append(append([]byte(magic), 1, 4), "none"...),
		"another packing":         lie(func(h *head) { h.Packing = 99 }),
		"a huge listing":          lie(func(h *head) { h.Root.Listing.Size = 1 << 40 }),
		"a listing too short":     lie(func(h *head) { h.Root.Listing.Size-- }),
		"changes in disorder":     lie(func(h *head) { h.Root.Changes[0], h.Root.Changes[1] = h.Root.Changes[1], h.Root.Changes[0] }),
		"a change twice":          lie(func(h *head) { h.Root.Changes[1].New = h.Root.Changes[0].New }),
		"a change of nothing":     lie(func(h *head) { h.Root.Changes[len(h.Root.Changes)-1].New = 1 << 50 }),
		"a change of a directory": lie(func(h *head) { h.Root.Changes[0].New = 0 }),
		"made of no file":         lie(func(h *head) { first(h, patched).Old = 0 }),
		"made of none there":      lie(func(h *head) { first(h, patched).Old = 1 << 50 }),
		"made of nothing":         lie(func(h *head) { first(h, patched).Old = -1 }),
		"made of another":         lie(func(h *head) { first(h, patched).Old++ }),
		"of another size":         lie(func(h *head) { first(h, whole).Size += 5 }),
		"of a huge size":          lie(func(h *head) { first(h, whole).Size = 1 << 60 }),
		"more data":               lie(func(h *head) { first(h, whole).Data += 5 }),
		"huge data":               lie(func(h *head) { first(h, whole).Data = 1 << 60 }),
		"the same as nothing":     lie(func(h *head) { first(h, same).Old = -1 }),
		"the same as a smaller":   lie(func(h *head) { first(h, same).Size += 1 << 20 }),
		"no superblock":           lie(func(h *head) { h.Root.Super = nil }),
		"a huge superblock":       lie(func(h *head) { h.Root.Super = make([]byte, 1<<20) }),
		"another superblock":      lie(func(h *head) { h.Root.Super[4]++ }),
		"an unknown file":         lie(func(h *head) { h.Files[0].Name = "unknown" }),
		"an unknown base":         lie(func(h *head) { h.Files[0].Base = "../../etc/passwd" }),
		"an unknown form": lie(func(h *head) {
			h.Files[slices.IndexFunc(h.Files, func(f packed) bool { return f.Form != "" })].Form = "lzma"
		}),
		"the other form": lie(func(h *head) {
			h.Files[slices.IndexFunc(h.Files, func(f packed) bool { return f.Form == "zstd" })].Form = "gzip"
		}),
		"more inside": lie(func(h *head) {
			h.Files[slices.IndexFunc(h.Files, func(f packed) bool { return f.Form == "zstd" })].Inside--
		}),
		"huge inside":      lie(func(h *head) { h.Files[0].Inside = 1 << 50 }),
		"whole as a patch": lie(func(h *head) { first(h, whole).How = patched }),
		"a patch as whole": lie(func(h *head) { first(h, patched).How = whole }),
		"a patch as based": lie(func(h *head) { first(h, patched).How = based }),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := try(t, b, old, new.Manifest)
		runtime.ReadMemStats(&after)
		// All that was ever allocated on the way, so more than it ever held.
		took := (after.TotalAlloc - before.TotalAlloc) >> 20
		if err == nil {
			t.Errorf("%s: it makes what was signed", name)
		}
		if took > mostMiB {
			t.Errorf("%s: it took %d MiB, want at most %d", name, took, mostMiB)
		}
		t.Logf("%s, %d MiB: %v", name, took, err)
	}
}

// FuzzHead reads damaged heads.
func FuzzHead(f *testing.F) {
	old, new, _, _ := pair(f, squashfs.Fast())
	b, _ := made(f, old, new)
	f.Add(b[:min(len(b), 3000)])
	h, _ := (&head{Packing: 1, Root: &root{Super: []byte("super"), Changes: []change{{1, 2, 3, 0, 5, 0}}}}).encode()
	f.Add(h)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHead(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, c := range h.all() {
			if c.at < 0 || c.Data < 0 || c.at+c.Data > int64(len(b)) {
				t.Errorf("%+v of %d bytes", c, len(b))
			}
		}
	})
}

// FuzzListing reads listings: what is read is written in the same way.
func FuzzListing(f *testing.F) {
	f.Add([]byte(`d 755 0 0 0 0 "." ""
f 4755 0 42 -5 17 "bin/su" "" "SCHILY.xattr.user.a" "\x00"
h 0 0 0 0 0 "b" "a"
c 600 0 0 0 21474836481 "dev/x" ""
`))
	at := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseListing(b, at)
		if err != nil {
			return
		}
		text := listing(&squashfs.Reader{Entries: list, Options: squashfs.Options{Time: at}})
		again, err := parseListing(text, at)
		more := listing(&squashfs.Reader{Entries: again, Options: squashfs.Options{Time: at}})
		if err != nil || len(again) != len(list) || !bytes.Equal(more, text) {
			t.Errorf("%q becomes %q: %v", b, text, err)
		}
	})
}
