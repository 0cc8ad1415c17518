package squashfs

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"
)

var epoch = time.Unix(1_700_000_000, 0)

type tree []Entry

func (t *tree) add(h tar.Header, content []byte) {
	h.ModTime = epoch
	h.Size = int64(len(content))
	*t = append(*t, Entry{Header: &h, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }})
}

// corners holds one of everything the format can hold, and the shapes that
// cross its limits: directories longer than a metadata block, names by thousands,
// duplicate files, holes, hard links.
func corners() tree {
	rnd := rand.New(rand.NewSource(1))
	noise := func(n int) []byte { b := make([]byte, n); rnd.Read(b); return b }
	var t tree
	dir := func(name string, mode int64) { t.add(tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil) }
	file := func(name string, b []byte) { t.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, b) }
	dir("bin", 0o755)
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/su", Mode: 0o4755, Uid: 0, Gid: 42}, []byte("#!setuid"))
	t.add(tar.Header{Typeflag: tar.TypeLink, Name: "bin/su2", Linkname: "bin/su"}, nil)
	t.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/ash", Linkname: "/bin/busybox", Mode: 0o777}, nil)
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/ping", Mode: 0o755,
		PAXRecords: map[string]string{XattrPrefix + "user.note": "caps",
			XattrPrefix + "security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		[]byte("ping"))
	dir("dev", 0o755)
	t.add(tar.Header{Typeflag: tar.TypeChar, Name: "dev/console", Mode: 0o600, Devmajor: 5, Devminor: 1}, nil)
	t.add(tar.Header{Typeflag: tar.TypeBlock, Name: "dev/big", Mode: 0o660, Devmajor: 259, Devminor: 70000}, nil)
	t.add(tar.Header{Typeflag: tar.TypeFifo, Name: "dev/fifo", Mode: 0o600}, nil)
	dir("tmp", 0o1777)
	t.add(tar.Header{Typeflag: tar.TypeReg, Name: "tmp/mine", Mode: 0o600, Uid: 100000, Gid: 1001}, []byte("x"))
	dir("empty", 0o700)
	file("empty.txt", nil)
	file("noise", noise(700_000))
	file("twin", []byte(strings.Repeat("twins are stored once ", 60_000)))
	file("twin2", []byte(strings.Repeat("twins are stored once ", 60_000)))
	file("hole", append(make([]byte, 3<<20), "end"...))
	file("allhole", make([]byte, 1<<20))
	file("exact", noise(256<<10))
	blocks := noise(2 << 20)
	file("run1", append(blocks[:2<<20:2<<20], "one tail"...))
	file("run2", append(blocks[:2<<20:2<<20], "another"...))
	file("run3", blocks)
	file("nearly", append(blocks[:5000:5000], noise(2<<20-5000)...))
	dir("many", 0o755)
	for i := range 3000 {
		file(fmt.Sprintf("many/file-with-a-long-name-%04d", i), []byte(fmt.Sprint(i)))
	}
	dir("dirs", 0o755)
	for i := range 700 {
		dir(fmt.Sprintf("dirs/%03d", i), 0o755)
		file(fmt.Sprintf("dirs/%03d/one", i), noise(i))
	}
	return t
}

func write(t *testing.T, entries tree, o Options) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o.Time = epoch
	n, err := Write(f, entries, o)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := f.Stat(); st.Size() != n || n%4096 != 0 {
		t.Fatalf("Write says %d bytes, the file has %d; want the same multiple of 4096", n, st.Size())
	}
	return name
}

// TestUnsquashfsAgrees lets the real tool unpack the image and compares every
// name with what went in.
func TestUnsquashfsAgrees(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs unsquashfs, and root, who makes device nodes")
	}
	for _, c := range compressions() {
		t.Run(c.Name, func(t *testing.T) {
			entries := corners()
			image := write(t, entries, Options{Compression: c, Workers: 3})
			out := filepath.Join(t.TempDir(), "out")
			if b, err := exec.Command("unsquashfs", "-q", "-n", "-d", out, image).CombinedOutput(); err != nil {
				t.Fatalf("unsquashfs: %v\n%s", err, b)
			}
			compare(t, out, entries)
		})
	}
}

func compare(t *testing.T, dir string, entries tree) {
	var want, got []string
	byName := map[string]Entry{}
	for _, e := range entries {
		byName[e.Name] = e
		want = append(want, describe(t, e, byName))
	}
	filepath.Walk(dir, func(p string, st os.FileInfo, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		if rel, _ := filepath.Rel(dir, p); rel != "." {
			got = append(got, found(t, p, rel, st))
		}
		return nil
	})
	sort.Strings(want)
	sort.Strings(got)
	if len(want) != len(got) {
		t.Errorf("%d names went in, %d came out", len(want), len(got))
	}
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			t.Fatalf("want %.200s\n got %.200s", want[i], got[i])
		}
	}
}

func describe(t *testing.T, e Entry, byName map[string]Entry) string {
	if e.Typeflag == tar.TypeLink {
		name := e.Name
		e = byName[e.Linkname]
		h := *e.Header
		h.Name = name
		e.Header = &h
	}
	s := fmt.Sprintf("%s %c %o %d:%d %d", e.Name, e.Typeflag, e.Mode, e.Uid, e.Gid, e.ModTime.Unix())
	switch e.Typeflag {
	case tar.TypeReg:
		r, _ := e.Open()
		b, _ := io.ReadAll(r)
		s += fmt.Sprintf(" %q", b)
		for _, x := range []string{"user.note", "security.capability"} {
			if v, ok := e.PAXRecords[XattrPrefix+x]; ok {
				s += fmt.Sprintf(" %s=%q", x, v)
			}
		}
	case tar.TypeSymlink:
		s += " -> " + e.Linkname
	case tar.TypeChar, tar.TypeBlock:
		s += fmt.Sprintf(" %d,%d", e.Devmajor, e.Devminor)
	}
	return s
}

func found(t *testing.T, p, rel string, st os.FileInfo) string {
	sys := st.Sys().(*syscall.Stat_t)
	kind := map[uint32]byte{syscall.S_IFREG: tar.TypeReg, syscall.S_IFDIR: tar.TypeDir, syscall.S_IFLNK: tar.TypeSymlink,
		syscall.S_IFCHR: tar.TypeChar, syscall.S_IFBLK: tar.TypeBlock, syscall.S_IFIFO: tar.TypeFifo}[sys.Mode&syscall.S_IFMT]
	s := fmt.Sprintf("%s %c %o %d:%d %d", rel, kind, sys.Mode&0o7777, sys.Uid, sys.Gid, st.ModTime().Unix())
	switch kind {
	case tar.TypeReg:
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		s += fmt.Sprintf(" %q", b)
		for _, x := range []string{"user.note", "security.capability"} {
			v := make([]byte, 100)
			if n, err := syscall.Getxattr(p, x, v); err == nil {
				s += fmt.Sprintf(" %s=%q", x, v[:n])
			}
		}
	case tar.TypeSymlink:
		to, _ := os.Readlink(p)
		s += " -> " + to
	case tar.TypeChar, tar.TypeBlock:
		major := sys.Rdev>>8&0xfff | sys.Rdev>>32&^0xfff
		minor := sys.Rdev&0xff | sys.Rdev>>12&^0xff
		s += fmt.Sprintf(" %d,%d", major, minor)
	}
	return s
}

// TestWorkersDoNotChangeBytes is what makes images the same on every machine.
func TestWorkersDoNotChangeBytes(t *testing.T) {
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		b, err := os.ReadFile(write(t, corners(), Options{Workers: workers}))
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = b
		}
		if !bytes.Equal(first, b) {
			t.Fatalf("%d workers wrote other bytes than one", workers)
		}
	}
}

// packed is the simplest Packed: a file's blocks in memory.
type packed struct {
	all, head [sha256.Size]byte
	sizes     []uint32
	blocks    [][]byte
	tail      []byte
}

func (p *packed) Sums() (all, head [sha256.Size]byte) { return p.all, p.head }
func (p *packed) Sizes() []uint32                     { return p.sizes }
func (p *packed) ReadBlock(i int, to []byte) error    { copy(to, p.blocks[i]); return nil }
func (p *packed) ReadTail(to []byte) error            { copy(to, p.tail); return nil }

func pack(t *testing.T, entries tree, c Compression) tree {
	enc, err := c.NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	var list tree
	for _, e := range entries {
		if e.Typeflag == tar.TypeReg {
			r, _ := e.Open()
			b, _ := io.ReadAll(r)
			p := &packed{all: sha256.Sum256(b)}
			whole := b[:len(b)/c.BlockSize*c.BlockSize]
			p.head, p.tail = sha256.Sum256(whole), b[len(whole):]
			for len(whole) > 0 {
				out, size, err := enc.Encode(len(p.sizes), whole[:c.BlockSize], nil)
				if err != nil {
					t.Fatal(err)
				}
				p.blocks, p.sizes = append(p.blocks, bytes.Clone(out)), append(p.sizes, size)
				whole = whole[c.BlockSize:]
			}
			e.Open, e.Packed = nil, p
		}
		list = append(list, e)
	}
	return list
}

// TestPlanWritesTheSame compares the two ways to an image: from files, and
// from blocks that were compressed before.
func TestPlanWritesTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	for _, c := range compressions() {
		want, err := os.ReadFile(write(t, corners(), Options{Compression: c, Workers: 2}))
		if err != nil {
			t.Fatal(err)
		}
		img, err := Plan(pack(t, corners(), c), nil, Options{Compression: c, Workers: 3, Time: epoch})
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if n, err := img.WriteTo(&got); err != nil || n != img.Size {
			t.Fatalf("%s: wrote %d bytes of %d: %v", c.Name, n, img.Size, err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: Plan's image has other bytes than Write's", c.Name)
		}
	}
}

// TestDuplicatesCostNothing has files with the same contents, and files that
// begin with the same blocks.
func TestDuplicatesCostNothing(t *testing.T) {
	b := make([]byte, 1<<20)
	rand.New(rand.NewSource(2)).Read(b)
	for what, other := range map[string][]byte{"alike": b, "but for the tail": append(b[:1<<20:1<<20], "tail"...)} {
		once, twice := tree{}, tree{}
		once.add(tar.Header{Typeflag: tar.TypeReg, Name: "a"}, b)
		twice.add(tar.Header{Typeflag: tar.TypeReg, Name: "a"}, b)
		twice.add(tar.Header{Typeflag: tar.TypeReg, Name: "b"}, other)
		one, _ := os.Stat(write(t, once, Options{}))
		two, _ := os.Stat(write(t, twice, Options{}))
		if two.Size() > one.Size()+4096 {
			t.Errorf("one file takes %d bytes, two %s take %d", one.Size(), what, two.Size())
		}
	}
}

// TestHolesAreNotRead packs a file of 64 GiB on disk with a few bytes in it:
// reading its holes would take minutes, and more reads than are allowed.
func TestHolesAreNotRead(t *testing.T) {
	name := filepath.Join(t.TempDir(), "sparse")
	const size, at = 64 << 30, 40<<30 + 12345
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("needle"), at); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size + 3); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1<<20)
	read, total := 0, int64(0)
	for b := NewBlockReader(f, size+3, len(buf)); ; {
		n, hole, err := b.Next(buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		if total += int64(n); hole {
			continue
		}
		if read++; read == 1 && !bytes.Contains(buf[:n], []byte("needle")) {
			t.Error("the first block that was read does not hold what was written")
		}
	}
	if total != size+3 || read == 0 || read > 2 {
		t.Errorf("%d bytes came, %d blocks were read; want %d bytes and one or two blocks", total, read, int64(size+3))
	}
	if err := f.Truncate(8<<20 + 3); err != nil {
		t.Fatal(err)
	}
	entries := tree{{Header: &tar.Header{Typeflag: tar.TypeReg, Name: "sparse", Size: 8<<20 + 3, ModTime: epoch},
		Open: func() (io.ReadCloser, error) { return os.Open(name) }}}
	full := tree{}
	full.add(tar.Header{Typeflag: tar.TypeReg, Name: "sparse"}, make([]byte, 8<<20+3))
	a, _ := os.ReadFile(write(t, entries, Options{}))
	b, _ := os.ReadFile(write(t, full, Options{}))
	if !bytes.Equal(a, b) {
		t.Error("a file with holes and one of zeros make different images")
	}
}

func TestBadTrees(t *testing.T) {
	for what, c := range map[string]struct {
		entries []tar.Header
		want    string
	}{
		"twice":     {[]tar.Header{{Name: "a", Typeflag: tar.TypeReg}, {Name: "/a", Typeflag: tar.TypeReg}}, `"a" is there twice`},
		"orphan":    {[]tar.Header{{Name: "a/b", Typeflag: tar.TypeReg}}, `"a/b" comes before its directory`},
		"in a file": {[]tar.Header{{Name: "a", Typeflag: tar.TypeReg}, {Name: "a/b", Typeflag: tar.TypeReg}}, "is not a directory"},
		"link":      {[]tar.Header{{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}}, "not an earlier file"},
		"xattr":     {[]tar.Header{{Name: "a", Typeflag: tar.TypeFifo, PAXRecords: map[string]string{XattrPrefix + "system.x": ""}}}, "system.x"},
		"kind":      {[]tar.Header{{Name: "a", Typeflag: 'V'}}, "no files of tar type"},
	} {
		var entries tree
		for _, h := range c.entries {
			entries.add(h, nil)
		}
		f, _ := os.Create(filepath.Join(t.TempDir(), "x"))
		if _, err := Write(f, entries, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", what, err, c.want)
		}
		f.Close()
	}
}
