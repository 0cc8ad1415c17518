package layers

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers/store"
)

// tarOf returns a tar of headers with contents as long as they say.
func tarOf(t testing.TB, list ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range list {
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func compressed(t testing.TB, b []byte) map[string][]byte {
	t.Helper()
	var g, z, x bytes.Buffer
	gw := gzip.NewWriter(&g)
	gw.Write(b)
	gw.Close()
	zw, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	zw.Write(b)
	zw.Close()
	xw, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	xw.Write(b)
	xw.Close()
	return map[string][]byte{"plain": b, "gzip": g.Bytes(), "zstd": z.Bytes(), "xz": x.Bytes()}
}

func TestArchiveLayer(t *testing.T) {
	plain := tarOf(t, tar.Header{Typeflag: tar.TypeDir, Name: "./etc/", Mode: 0o750, Uid: 5},
		tar.Header{Typeflag: tar.TypeReg, Name: "./etc/a", Size: 3, Uid: 7, Gid: 8, Uname: "nobody"},
		tar.Header{Typeflag: tar.TypeLink, Name: "etc/b", Linkname: "./etc/a"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/c", Linkname: "a"},
		tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3})
	for kind, b := range compressed(t, plain) {
		for to, prefix := range map[string]string{"": "", "opt/x": "opt/x/"} {
			tree := newTree(t)
			if err := applyTar(tree, storetest.File(t, 1<<30), file(t, b), to); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			if e := tree.Lookup(prefix + "etc/a"); e == nil || e.Size != 3 || e.Uid != 7 || e.Gid != 8 || e.Uname != "" {
				t.Errorf("%s to %q: %+v", kind, to, e)
			}
			if e := tree.Lookup(prefix + "etc/b"); e == nil || e.Size != 3 || e.Uid != 7 {
				t.Errorf("%s to %q: hard link %+v", kind, to, e)
			}
			if e := tree.Lookup(prefix + "dev/null"); e == nil || e.Devmajor != 1 || e.Devminor != 3 {
				t.Errorf("%s to %q: device %+v", kind, to, e)
			}
		}
	}
}

// TestHostileArchives: each is an error that says what, and none takes more
// memory than a buffer.
func TestHostileArchives(t *testing.T) {
	zeros := tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: 2 << 20})
	bomb := compressed(t, zeros)
	xzHeader := append([]byte(nil), bomb["xz"]...)
	for i := 14; i < 30; i++ { // the LZMA2 filter's dictionary size
		if xzHeader[i] == 0x21 && xzHeader[i+1] == 1 {
			xzHeader[i+2] = 40
			break
		}
	}
	armXZ := withArmFilter(t)
	cut := tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 5000})
	for what, c := range map[string]struct {
		b    []byte
		want string
	}{
		"climbs":               {tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "../etc/passwd"}), "climbs out of the root"},
		"climbs in the middle": {tarOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "a/../../b"}), "climbs out of the root"},
		"a hard link climbs": {tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "../../etc/shadow"}),
			"climbs out of the root"},
		"links in a circle": {tarOf(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "l"},
			tar.Header{Typeflag: tar.TypeReg, Name: "l/x"}), "symbolic links"},
		"a link to nothing":     {tarOf(t, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "ghost"}), "which is not a file of the tree"},
		"cut":                   {cut[:3000], "unexpected EOF"},
		"not a tar":             {bytes.Repeat([]byte("no tar at all "), 100), "tar"},
		"gzip bomb":             {bomb["gzip"], "more than 1 MiB"},
		"zstd bomb":             {bomb["zstd"], "more than 1 MiB"},
		"xz bomb":               {bomb["xz"], "more than 1 MiB"},
		"xz with 4 GiB of dict": {xzHeader, "dictionary of 4096 MiB"},
		"bzip2":                 {[]byte("BZh91AY"), "the file is a bzip2 file; want a tar archive"},
		"zip":                   {[]byte("PK\x03\x04rest"), "the file is a zip archive; want a tar archive, plain or compressed with "},
		"lz4":                   {[]byte("\x04\x22\x4d\x18rest"), "the file is an lz4 file"},
		"lzma":                  {[]byte("\x5d\x00\x00\x80\x00"), "the file is an lzma file"},
		"cpio":                  {[]byte("070701000000"), "the file is a cpio archive"},
		"HTML":                  {[]byte("<!DOCTYPE html><html>"), "the file is an HTML page"},
		"xz --arm64":            {armXZ, "unsupported filters, want LZMA2; compress the archive with xz -6"},
		// RFC 8878, 3.1.1: a frame that wants a window of 2 GiB, as zstd --long=31 makes.
		"zstd --long=31": {append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1 | 3<<3, 0, 0}, "abc"...),
			"compress the archive with a window of 128 MiB or less"},
		"cut gzip": {bomb["gzip"][:20], "EOF"},
	} {
		f := storetest.File(t, 1<<20)
		err := applyTar(NewTree(f), f, file(t, c.b), "")
		if err == nil || !strings.Contains(strings.Join(append([]string{err.Error()}, hint.Of(err)...), "; "), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}

// withArmFilter returns an xz file whose block header names the filter for
// ARM64 before LZMA2, as xz --arm64 writes it.
func withArmFilter(t *testing.T) []byte {
	t.Helper()
	// xz file format 1.2.1, 3.1: size, flags (two filters), ARM64, LZMA2 with
	// its dictionary, padding, CRC32.
	block := []byte{2, 1, 0x0a, 0, 0x21, 1, 22, 0}
	block = binary.LittleEndian.AppendUint32(block, crc32.ChecksumIEEE(block))
	return append(xzOf(t, nil, xz.WriterConfig{})[:xzStreamHeader:xzStreamHeader], block...)
}

// TestNamesThatLookLikeOtherKinds: a plain tar is one whatever its first name.
func TestNamesThatLookLikeOtherKinds(t *testing.T) {
	for _, name := range []string{"]", "BZh", "PK\x03\x04", "070701"} {
		b := tarOf(t, tar.Header{Typeflag: tar.TypeDir, Name: "]"})
		copy(b, name)
		if got, err := unpacked(b); err != nil || len(got) != len(b) {
			t.Errorf("%q: %d of %d bytes, %v", name, len(got), len(b), err)
		}
	}
}

// TestGitIsLeftOut: a checkout's .git holds its history, and often a token of
// whoever cloned it.
func TestGitIsLeftOut(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{".git/config", "etc/a", "sub/.git", "sub/.gitignore", "etc/.github/b"} {
		os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := filepath.ToSlash(strings.Join(f.names, " ")), "etc etc/.github etc/.github/b etc/a sub sub/.gitignore"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func applyTar(tree *Tree, kept *store.File, name, to string) error {
	p, err := Archive{name}.Read(kept, "tar x")
	if err != nil {
		return err
	}
	p.Rebase(to)
	return p.Apply(tree)
}

func applyFolder(t *testing.T, tree *Tree, f *Dir, to string, rules []Rule) error {
	t.Helper()
	kept := storetest.File(t, 1<<30)
	p, err := f.Read(func(r *os.File, size int64) (*store.Content, error) { return kept.Put(r, size) }, "directory x")
	if err != nil {
		return err
	}
	if want, err := f.Digest(); err != nil || DirDigest(p) != want {
		t.Errorf("read, the directory is %s; by itself it is %s, %v", DirDigest(p), want, err)
	}
	if err := Normalize(p, "directory x", to, rules, at); err != nil {
		return err
	}
	return p.Apply(tree)
}

func TestDirectoryRules(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"etc/secret/key", "etc/secret/deep/er", "bin/run"} {
		os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755)
		os.WriteFile(filepath.Join(dir, name), nil, 0o600)
	}
	f, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	tree := newTree(t)
	rules := []Rule{{Path: "srv/etc/secret/**", Owner: "ssl:28", Mode: "0600"}, {Path: "/srv/etc/secret/k*", Mode: "0440"},
		{Path: "srv/etc/secret", Mode: "0700"}}
	if err := applyFolder(t, tree, f, "srv", rules); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"srv/etc/secret/key": 0o440, "srv/etc/secret/deep/er": 0o600, "srv/etc/secret": 0o700,
		"srv/bin/run": 0o644} {
		if e := tree.Lookup(name); e == nil || e.Mode != want {
			t.Errorf("%s: %+v, want mode %o", name, e, want)
		}
	}
	if e := tree.Lookup("srv/etc/secret/key"); e.Uname != "ssl" || e.Gname != "28" {
		t.Errorf("owner %q %q", e.Uname, e.Gname)
	}
	if err := applyFolder(t, newTree(t), f, "", []Rule{{Path: "etc/none", Mode: "0600"}}); err == nil ||
		!strings.Contains(err.Error(), `rule for "etc/none" matches no file`) {
		t.Errorf("a rule for nothing: %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	for _, b := range compressed(f, tarOf(f, tar.Header{Typeflag: tar.TypeReg, Name: "etc/a", Size: 3},
		tar.Header{Typeflag: tar.TypeLink, Name: "b", Linkname: "etc/a"})) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		kept := storetest.File(t, 1<<20)
		tree := NewTree(kept)
		if err := applyTar(tree, kept, file(t, b), "x"); err == nil {
			for _, e := range tree.Entries() {
				if e.Name != "x" && !strings.HasPrefix(e.Name, "x/") {
					t.Fatalf("%q landed outside", e.Name)
				}
			}
		}
	})
}
