package squashfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/internal/tools/full"
)

func reader(t *testing.T, image string, c Compression) *Reader {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Open(f, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); f.Close() })
	return r
}

func contents(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tiny has the smallest blocks there may be.
var tiny = Compression{Name: "tiny", BlockSize: 4 << 10, level: zstd.SpeedFastest, fourth: zstd.SpeedDefault}

// compressions are those that tests write everything in. Small's blocks are as
// large as Fast's, its encoder is slow, and TestGolden has its bytes.
func compressions() []Compression {
	if full.Tests {
		return []Compression{Fast(), Small(), tiny}
	}
	return []Compression{Fast(), tiny}
}

// TestReadWritesTheSame: what is read of an image makes the same image again,
// with its blocks taken as they are, and with all of them compressed anew.
func TestReadWritesTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	for _, c := range compressions() {
		t.Run(c.Name, func(t *testing.T) {
			entries := corners()
			image := write(t, entries, Options{Compression: c, Workers: 2})
			r := reader(t, image, c)
			byName, got := map[string]Entry{}, map[string]bool{}
			for _, e := range entries {
				byName[e.Name] = e
			}
			for _, e := range r.Entries {
				if got[e.Name] = true; e.Name == "." || e.Typeflag == tar.TypeLink {
					continue
				}
				was := byName[e.Name]
				if was.Typeflag == tar.TypeLink {
					was = byName[was.Linkname]
				}
				if e.Typeflag != was.Typeflag || e.Mode != was.Mode || e.Uid != was.Uid || e.Gid != was.Gid || e.Size != was.Size ||
					!e.ModTime.Equal(was.ModTime) ||
					e.Linkname != was.Linkname || e.Devmajor != was.Devmajor || e.Devminor != was.Devminor ||
					fmt.Sprint(e.PAXRecords) != fmt.Sprint(was.PAXRecords) {
					t.Errorf("%s: read %+v, written %+v", e.Name, e.Header, was.Header)
				}
				if e.Typeflag == tar.TypeReg && e.Size > 0 && !bytes.Equal(all(t, e), all(t, was)) {
					t.Errorf("%s: its contents differ", e.Name)
				}
			}
			for _, e := range entries {
				if !got[e.Name] {
					t.Errorf("%s is not there", e.Name)
				}
			}
			want := contents(t, image)
			o := r.Options
			o.Workers = 2
			if !bytes.Equal(contents(t, write(t, tree(r.Entries), o)), want) {
				t.Error("with its blocks taken as they are, it is another image")
			}
			anew := slices.Clone(r.Entries)
			for i := range anew {
				anew[i].From = nil
			}
			if !bytes.Equal(contents(t, write(t, tree(anew), o)), want) {
				t.Error("with its blocks compressed anew, it is another image")
			}
		})
	}
}

func all(t *testing.T, e Entry) []byte {
	t.Helper()
	r, err := e.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReuseOfAnotherImage writes a tree half of whose files come from another
// image: the bytes are the same as without that image.
func TestReuseOfAnotherImage(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes long")
	}
	for _, c := range compressions() {
		old := corners()
		r := reader(t, write(t, old, Options{Compression: c}), c)
		var plain, mixed tree
		for i, e := range r.Entries {
			if e.Typeflag == tar.TypeReg && i%5 == 0 {
				b := append([]byte("changed"), all(t, e)...)
				h := *e.Header
				h.Size = int64(len(b))
				e = Entry{Header: &h, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
			}
			if e.Name == "many/file-with-a-long-name-0007" {
				continue
			}
			mixed = append(mixed, e)
			e.From = nil
			plain = append(plain, e)
		}
		// A new file whose whole blocks an old one has, and whose tail it has not.
		b := slices.Concat(all(t, find(t, r.Entries, "run1"))[:2<<20], []byte("a third tail"))
		new := Entry{Header: &tar.Header{Typeflag: tar.TypeReg, Name: "run0", Mode: 0o644, Size: int64(len(b)), ModTime: epoch},
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
		mixed, plain = append(mixed, new), append(plain, new)
		if !bytes.Equal(contents(t, write(t, mixed, Options{Compression: c, Workers: 3})),
			contents(t, write(t, plain, Options{Compression: c}))) {
			t.Errorf("%s: the images differ", c.Name)
		}
	}
}

func find(t *testing.T, list []Entry, name string) Entry {
	t.Helper()
	i := slices.IndexFunc(list, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		t.Fatalf("no %s", name)
	}
	return list[i]
}

// TestHardLinkOrderDoesNotMatter: the image is the same whichever name of a file
// comes first in the list.
func TestHardLinkOrderDoesNotMatter(t *testing.T) {
	var one, two tree
	for _, p := range []struct {
		to           *tree
		first, links []string
	}{{&one, []string{"a/z"}, []string{"a/b", "c"}}, {&two, []string{"c"}, []string{"a/z", "a/b"}}} {
		p.to.add(tar.Header{Typeflag: tar.TypeDir, Name: "a", Mode: 0o755}, nil)
		p.to.add(tar.Header{Typeflag: tar.TypeReg, Name: p.first[0], Mode: 0o4755}, []byte("program"))
		for _, l := range p.links {
			p.to.add(tar.Header{Typeflag: tar.TypeLink, Name: l, Linkname: p.first[0]}, nil)
		}
	}
	if !bytes.Equal(contents(t, write(t, one, Options{})), contents(t, write(t, two, Options{}))) {
		t.Error("the images differ")
	}
}

// TestReadAt reads parts of a file across blocks, holes and its tail.
func TestReadAt(t *testing.T) {
	r := reader(t, write(t, corners(), Options{}), Fast())
	for _, name := range []string{"hole", "noise", "run1", "allhole"} {
		e := find(t, r.Entries, name)
		want := all(t, e)
		for _, at := range []int{0, 1, 262143, 262144, len(want) - 5} {
			got := make([]byte, min(600_000, len(want)-at))
			if _, err := e.From.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, want[at:at+len(got)]) {
				t.Errorf("%s at %d: %v", name, at, err)
			}
		}
		if n, err := e.From.ReadAt(make([]byte, 10), int64(len(want))-4); n != 4 || !errors.Is(err, io.EOF) {
			t.Errorf("%s behind its end: %d, %v", name, n, err)
		}
	}
}

// FuzzRead reads damaged images: an error, or something that is no longer than
// it says, in bounded memory.
func FuzzRead(f *testing.F) {
	var small tree
	small.add(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755}, nil)
	small.add(tar.Header{Typeflag: tar.TypeReg, Name: "d/f", Mode: 0o644, PAXRecords: map[string]string{XattrPrefix + "user.a": "b"}},
		bytes.Repeat([]byte("text"), 3000))
	small.add(tar.Header{Typeflag: tar.TypeLink, Name: "d/g", Linkname: "d/f"}, nil)
	small.add(tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "d"}, nil)
	c := tiny
	name := f.TempDir() + "/image"
	out, err := os.Create(name)
	if err != nil {
		f.Fatal(err)
	}
	if _, err := Write(out, small, Options{Compression: c, Time: epoch}); err != nil {
		f.Fatal(err)
	}
	out.Close()
	b, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	for i := 0; i < len(b); i += 7 {
		f.Add(append(append(bytes.Clone(b[:i]), b[i]^0x55), b[i+1:]...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Open(bytes.NewReader(b), c)
		if err != nil {
			return
		}
		defer r.Close()
		for _, e := range r.Entries {
			if e.Typeflag == tar.TypeReg {
				if n, err := io.Copy(io.Discard, io.LimitReader(e.From.Reader(), 1<<20)); err == nil && n != min(e.Size, 1<<20) {
					t.Errorf("%q has %d bytes, %d were read", e.Name, e.Size, n)
				}
			}
		}
	})
}
