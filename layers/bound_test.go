package layers

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// xzOf compresses b as one stream.
func xzOf(t testing.TB, b []byte, c xz.WriterConfig) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := c.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// allocated returns the bytes that f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func unpacked(b []byte) ([]byte, error) {
	r, err := Decompress(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestXZFiles: every shape of an xz file comes through the checker as it is.
func TestXZFiles(t *testing.T) {
	noise := make([]byte, 20<<10)
	rand.New(rand.NewSource(1)).Read(noise)
	plain := append(bytes.Repeat([]byte("some text. "), 3<<10), noise...)
	for what, c := range map[string]xz.WriterConfig{
		"one block":   {},
		"many blocks": {BlockSize: 1001},
		"CRC32":       {CheckSum: xz.CRC32, BlockSize: 10_000},
		"SHA256":      {CheckSum: xz.SHA256, BlockSize: 10_000},
		"no check":    {NoCheckSum: true, BlockSize: 9_999},
	} {
		c.DictCap = 1 << 16
		one := xzOf(t, plain, c)
		got, err := unpacked(one)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: %d of %d bytes, %v", what, len(got), len(plain), err)
		}
		two := append(append(bytes.Clone(one), make([]byte, 8)...), xzOf(t, noise, c)...)
		if got, err := unpacked(two); err != nil || len(got) != len(plain)+len(noise) {
			t.Errorf("%s, two streams with padding between: %d bytes, %v", what, len(got), err)
		}
		for _, n := range []int{13, 20, 200, len(one) - 30, len(one) - 13, len(one) - 1} {
			if _, err := unpacked(one[:n]); err == nil {
				t.Errorf("%s, cut to %d of %d bytes: no error", what, n, len(one))
			}
		}
	}
}

// withDictionary returns b, an xz file of a dictionary of 64 KiB, with the
// header of its nth block saying another one, by its code.
func withDictionary(t *testing.T, b []byte, n int, code byte) []byte {
	t.Helper()
	b = bytes.Clone(b)
	at := 0
	for ; ; n-- {
		found := bytes.Index(b[at:], []byte{xzFilterLZMA2, 1, 8})
		if found < 0 {
			t.Fatal("no such block")
		}
		if at += found; n == 0 {
			break
		}
		at++
	}
	b[at+2] = code
	head := b[at-2:] // size, flags, filter
	head = head[:(int(head[0])+1)*4]
	crc := crc32.ChecksumIEEE(head[:len(head)-4])
	binary.LittleEndian.PutUint32(head[len(head)-4:], crc)
	return b
}

// TestXZDictionaries: no block of an xz file, wherever it is, has more memory
// allocated than the bound.
func TestXZDictionaries(t *testing.T) {
	plain := bytes.Repeat([]byte("x"), 3000)
	small := xzOf(t, plain, xz.WriterConfig{DictCap: 1 << 16})
	blocks := xzOf(t, plain, xz.WriterConfig{DictCap: 1 << 16, BlockSize: 1000})
	const most, large = 28, 32 // 64 and 256 MiB
	for what, b := range map[string][]byte{
		"first block":    withDictionary(t, small, 0, large),
		"4 GiB":          withDictionary(t, small, 0, 40),
		"third block":    withDictionary(t, blocks, 2, large),
		"second stream":  append(bytes.Clone(small), withDictionary(t, small, 0, large)...),
		"behind padding": append(append(bytes.Clone(small), 0, 0, 0, 0), withDictionary(t, small, 0, large)...),
	} {
		var err error
		took := allocated(func() { _, err = unpacked(b) })
		if err == nil || !strings.Contains(err.Error(), " MiB, want at most 64") || took > maxDictionary/2 {
			t.Errorf("%s: %d bytes had %d MiB allocated, %v", what, len(b), took>>20, err)
		}
	}
	if got, err := unpacked(withDictionary(t, blocks, 1, most)); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("the largest dictionary that is allowed: %d bytes, %v", len(got), err)
	}
}

// TestZstdWindow: a zstd archive that wants a larger window than zstd's own
// presets is refused before memory for it is allocated.
func TestZstdWindow(t *testing.T) {
	// RFC 8878, 3.1.1: a frame with a window descriptor and one raw block.
	frame := func(exponent byte) []byte {
		return append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, (exponent - 10) << 3, 1 | 3<<3, 0, 0}, "abc"...)
	}
	if got, err := unpacked(frame(27)); err != nil || string(got) != "abc" {
		t.Errorf("a window of 128 MiB: %q, %v", got, err)
	}
	var err error
	took := allocated(func() { _, err = unpacked(frame(28)) })
	if !errors.Is(err, zstd.ErrWindowSizeExceeded) || took > zstdWindow {
		t.Errorf("a window of 256 MiB: %v, %d MiB allocated", err, took>>20)
	}
}

// TestHeadersAreBounded: what an archive says of an entry beside its contents
// is kept only where an image has it, and counts.
func TestHeadersAreBounded(t *testing.T) {
	long := strings.Repeat("x", 1000<<10)
	path := strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 63)+"/", 64), "/") // 4095 bytes
	for what, h := range map[string]tar.Header{
		"path":        {Name: path + "/f"},
		"component":   {Name: "etc/" + strings.Repeat("n", maxName+1)},
		"link target": {Typeflag: tar.TypeSymlink, Name: "l", Linkname: path + "/t"},
		"owner":       {Name: "f", Uname: long},
		"group":       {Name: "f", Gname: long},
		"value":       {Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.x": long}},
		"key":         {Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user." + strings.Repeat("k", maxName): "v"}},
	} {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		var p Part
		err := p.Add(storetest.File(t, 1<<20), h, "tar x", strings.NewReader(""))
		if err == nil || !strings.Contains(err.Error(), "more than") || len(err.Error()) > 2*maxPath+500 {
			t.Errorf("%s: %.200v", what, err)
		}
	}
	f := storetest.File(t, 1<<20)
	var p Part
	records := map[string]string{"SCHILY.xattr.user.x": "kept", apk.ChecksumRecord: "sum", "comment": "dropped", "GNU.sparse.name": "dropped"}
	if err := p.Add(f, tar.Header{Typeflag: tar.TypeReg, Name: path, PAXRecords: records}, "tar x", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(p[0].PAXRecords); got != "map["+apk.ChecksumRecord+":sum SCHILY.xattr.user.x:kept]" {
		t.Errorf("kept %s", got)
	}
	for f.TakeHeader(64<<10) == nil {
	}
	big := tar.Header{Typeflag: tar.TypeReg, Name: "f", PAXRecords: map[string]string{"SCHILY.xattr.user.x": long[:maxAttribute]}}
	if err := p.Add(f, big, "tar x", strings.NewReader("")); err == nil || !strings.Contains(err.Error(), "of memory") {
		t.Errorf("more than all headers of a build may take: %v", err)
	}
}

// TestEntriesAreBounded: neither a part nor a tree takes any number of names.
func TestEntriesAreBounded(t *testing.T) {
	h := tar.Header{Typeflag: tar.TypeDir, Name: "one/more"}
	p := make(Part, maxEntries)
	if err := p.Add(storetest.File(t, 1<<20), h, "tar x", nil); err == nil || !strings.Contains(err.Error(), "more than 1048576 files") {
		t.Errorf("a part: %v", err)
	}
	tree, e := newTree(t), &Entry{}
	for i := range maxEntries {
		tree.entries.byName[strconv.Itoa(i)] = e
	}
	if err := tree.Place(&Entry{Header: h, Source: "tar x"}); err == nil || !strings.Contains(err.Error(), "more than 1048576 files") {
		t.Errorf("a tree: %v", err)
	}
}

// TestArchiveMemory: records of an archive are not held in memory by what is
// kept of them.
func TestArchiveMemory(t *testing.T) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	junk := strings.Repeat("x", 500<<10)
	for i := range 40 {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("ü%d", i), Mode: 0o644,
			PAXRecords: map[string]string{"comment": junk, "SCHILY.xattr.user.x": "y"}}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	tw.Close()
	f := storetest.File(t, 1<<20)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p, err := ReadTar(bytes.NewReader(b.Bytes()), f, "tar x")
	if err != nil {
		t.Fatal(err)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 5<<20 {
		t.Errorf("%d entries hold %d MiB", len(p), held>>20)
	}
	runtime.KeepAlive(p)
	runtime.KeepAlive(b)
}

// TestRemoveLooksOnlyBelow: a whiteout costs what it removes, however large
// the tree is.
func TestRemoveLooksOnlyBelow(t *testing.T) {
	work := func(n int) int64 {
		tree := newTree(t)
		for i := range n {
			tree.entries.put(fmt.Sprintf("f%d", i), &Entry{})
		}
		before := tree.Lookups()
		for i := range 500 {
			tree.Remove(fmt.Sprintf("e/f%d", i))
			tree.Below(fmt.Sprintf("f%d", i))
		}
		return tree.Lookups() - before
	}
	if small, large := work(100), work(20_000); large != small {
		t.Errorf("500 whiteouts over 100 entries looked at %d, over 20,000 at %d", small, large)
	}
}

// TestDeepPathsAreLinear: a path of many directories is followed once, with one
// lookup for each that is there and no copy of the path for each.
func TestDeepPathsAreLinear(t *testing.T) {
	const depth = 2000
	tree := newTree(t)
	deep := strings.Repeat("d/", depth)
	add(t, tree, tar.Header{Typeflag: tar.TypeDir, Name: deep}, "")
	for _, c := range []struct {
		what string
		do   func()
	}{
		{"resolving", func() { tree.Resolve(deep+"f", true) }},
		{"adding a file", func() { add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: deep + "f"}, "x") }},
		{"adding it again", func() { add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: deep + "f"}, "y") }},
		{"replacing it", func() { tree.PlaceOver(&Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: deep + "f"}}) }},
		{"a path that is not there", func() { tree.Resolve(strings.Repeat("e/", depth), true) }},
		{"removing a name that is not there", func() { tree.Remove(deep + "g") }},
	} {
		before := tree.Lookups()
		took := allocated(c.do)
		if n := tree.Lookups() - before; n > 2*depth+20 {
			t.Errorf("%s looked at %d entries, want at most twice the %d of the path", c.what, n, depth)
		}
		// A copy for each directory would be 4 MB; a buffer of the store has 512 KiB, and is
		// sometimes made anew.
		if took > 2<<20 {
			t.Errorf("%s allocated %d KiB for a path of 4 KiB", c.what, took>>10)
		}
	}
}

func TestRemove(t *testing.T) {
	tree := newTree(t)
	for _, name := range []string{"d/a/f", "d/b/f", "d/b/g", "db"} {
		add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: name}, "")
	}
	names := func(list []*Entry) string {
		var s []string
		for _, e := range list {
			s = append(s, e.Name)
		}
		return strings.Join(s, " ")
	}
	tree.Remove("/d/b/f")
	if got := names(tree.Below("d")); got != "d/a d/a/f d/b d/b/g" {
		t.Errorf("without d/b/f, d has %q", got)
	}
	tree.Remove("d")
	if got := names(tree.Entries()); got != "db" {
		t.Errorf("without d there are %q", got)
	}
	add(t, tree, tar.Header{Typeflag: tar.TypeReg, Name: "d/b/h"}, "")
	if got := names(tree.Below("/")); got != "d d/b d/b/h db" {
		t.Errorf("with d/b/h again there are %q", got)
	}
}
