package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	diskfs "github.com/diskfs/go-diskfs"
)

var epoch = time.Date(2026, 3, 4, 5, 6, 8, 0, time.UTC)

func blob(name string, b []byte) File {
	return File{Name: name, Size: int64(len(b))}
}

// opened returns what opens files in memory.
func opened(files map[string][]byte) Contents {
	return func(name string) (io.ReadCloser, error) {
		b, ok := files[name]
		if !ok {
			return nil, fs.ErrNotExist
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(b)
	return b
}

// contents is a slot with its corners: directories, an empty file, names that are
// 8.3 but for case, long names that need aliases, hundreds of files in one
// directory, sizes around a cluster.
func contents() map[string][]byte {
	m := map[string][]byte{
		"config.txt": []byte("arm_64bit=1\n"), "BOOTCODE.BIN": noise(3000), "start4.elf": noise(5_000_000), "empty.txt": nil,
		"cmdline.txt": []byte("x"), "bcm2710-rpi-3-b.dtb": noise(511), "bcm2710-rpi-3-b-plus.dtb": noise(512), "bcm2710-rpi-cm3.dtb": noise(513),
		"root.squashfs": noise(9_000_001), "deep/er/still/x.y.z": noise(7), "kernel.config.gz": noise(2048),
	}
	for i := range 300 {
		m[fmt.Sprintf("overlays/some-overlay-%03d.dtbo", i)] = noise(900 + i)
	}
	return m
}

func plannedFiles() []File {
	var files []File
	all := contents()
	var names []string
	for n := range all {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		f := blob(n, all[n])
		if n == "root.squashfs" {
			f.Align, f.Apart = 1<<20, 64<<10
		}
		files = append(files, f)
	}
	return files
}

func volume(t *testing.T, size int64) (string, *Layout) {
	t.Helper()
	l, err := Plan(plannedFiles(), Options{Size: size, Hidden: 4 << 20, VolumeID: 0xcafe1234, Label: "SLOT-A", Time: epoch})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "volume")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := l.Write(f, opened(contents())); err != nil {
		t.Fatal(err)
	}
	return name, l
}

// TestOtherToolsReadTheVolume reads volumes of both cluster sizes with fsck, mtools
// and go-diskfs.
func TestOtherToolsReadTheVolume(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs mtools and fsck.vfat")
	}
	for _, size := range []int64{64 << 20, 512 << 20} {
		name, _ := volume(t, size)
		if out, err := exec.Command("fsck.vfat", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("%d MiB: fsck.vfat: %v\n%s", size>>20, err, out)
		}
		out, err := exec.Command("mdir", "-/", "-b", "-i", name, "::").CombinedOutput()
		if err != nil {
			t.Fatalf("mdir: %v\n%s", err, out)
		}
		listing := string(out)
		for n, want := range contents() {
			if !strings.Contains(listing, "::/"+n+"\n") {
				t.Errorf("mdir does not list %q", n)
			}
			if !strings.HasPrefix(n, "overlays/") || strings.HasSuffix(n, "7.dtbo") {
				got, err := exec.Command("mtype", "-i", name, "::"+n).Output()
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("mtype %s: %d bytes (%v), want %d", n, len(got), err, len(want))
				}
			}
		}
		judgeDiskfs(t, name)
	}
}

func judgeDiskfs(t *testing.T, name string) {
	d, err := diskfs.Open(name, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	fs, err := d.GetFilesystem(0)
	if err != nil {
		t.Fatal(err)
	}
	if fs.Label() != "SLOT-A" {
		t.Errorf("go-diskfs reads the label %q", fs.Label())
	}
	for _, n := range []string{"config.txt", "bcm2710-rpi-3-b-plus.dtb", "overlays/some-overlay-007.dtbo", "deep/er/still/x.y.z"} {
		f, err := fs.OpenFile("/"+n, os.O_RDONLY)
		if err != nil {
			t.Errorf("go-diskfs: %s: %v", n, err)
			continue
		}
		// In one read: v1.9.4 returns bytes behind the end of a file that is
		// read in pieces.
		got := make([]byte, len(contents()[n]))
		if _, err := io.ReadFull(f, got); err != nil || !bytes.Equal(got, contents()[n]) {
			t.Errorf("go-diskfs reads %s wrongly (%v)", n, err)
		}
	}
}

func TestReaderReadsWhatWriterWrote(t *testing.T) {
	name, l := volume(t, 64<<20)
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if v.VolumeID() != 0xcafe1234 {
		t.Errorf("volume id %08x", v.VolumeID())
	}
	for n, want := range contents() {
		got, err := v.ReadFile(strings.ToUpper(n), 1<<30)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", n, len(got), err)
		}
		_, runs, err := v.Extents(n, 1<<30)
		if err != nil || len(want) > 0 && (len(runs) != 1 || runs[0].Offset != l.Offset(n)) {
			t.Errorf("%s lies in %v, planned at %d (%v)", n, runs, l.Offset(n), err)
		}
	}
	if at := l.Offset("root.squashfs"); at%(1<<20) != 0 {
		t.Errorf("root.squashfs at %d, asked for a 1 MiB border", at)
	}
	list, err := v.ReadDir("overlays")
	if err != nil || len(list) != 300 {
		t.Errorf("overlays holds %d names (%v)", len(list), err)
	}
	var gone *NotFoundError
	if _, err := v.Stat("nothing"); !errors.As(err, &gone) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := v.ReadFile("start4.elf", 100); err == nil {
		t.Error("a file over the limit was read")
	}
}

// TestReaderReadsMkfs reads a volume of the real mkfs, filled by mtools, with
// a file in pieces.
func TestReaderReadsMkfs(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs mtools and mkfs.vfat")
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "volume")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Truncate(name, 36<<20)
	run("mkfs.vfat", "-F", "32", "-s", "1", name)
	big := noise(150_000)
	for file, b := range map[string][]byte{"small": noise(100_000), "filler": noise(30 << 20), "big": big} {
		os.WriteFile(filepath.Join(dir, file), b, 0o600)
	}
	// Fill the volume, then free two places that do not touch: big fits
	// into neither alone.
	for _, n := range []string{"a", "b", "c"} {
		run("mcopy", "-i", name, filepath.Join(dir, "small"), "::"+n)
	}
	run("mcopy", "-i", name, filepath.Join(dir, "filler"), "::filler")
	for i := range 80 {
		if exec.Command("mcopy", "-i", name, filepath.Join(dir, "small"), fmt.Sprint("::f", i)).Run() != nil {
			break
		}
	}
	run("mdel", "-i", name, "::a")
	run("mdel", "-i", name, "::c")
	run("mcopy", "-i", name, filepath.Join(dir, "big"), "::Some Long Name.bin")
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := Open(f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := v.ReadFile("some long name.BIN", 1<<20)
	if err != nil || !bytes.Equal(got, big) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, runs, _ := v.Extents("some long name.bin", 1<<20); len(runs) < 2 {
		t.Error("mtools wrote the file in one piece, so nothing of this reads a file in pieces")
	}
}

func TestWriteCutShortIsNoVolume(t *testing.T) {
	l, err := Plan(plannedFiles(), Options{Size: 64 << 20, Time: epoch})
	if err != nil {
		t.Fatal(err)
	}
	w, files := &failing{left: 100}, contents()
	for ; ; w.left += 37 {
		w.data = make([]byte, 64<<20)
		n := w.left
		err := l.Write(w, opened(files))
		w.left = n
		if err == nil {
			return // all writes fitted: every shorter run was checked
		}
		if _, err := Open(bytes.NewReader(w.data)); err == nil {
			t.Fatalf("after %d writes of a cut-short volume, Open takes it for whole", n)
		}
	}
}

type failing struct {
	data []byte
	left int
}

func (f *failing) WriteAt(p []byte, at int64) (int, error) {
	if f.left == 0 {
		return 0, errors.New("power cut")
	}
	f.left--
	return copy(f.data[at:], p), nil
}

func TestPlanRefuses(t *testing.T) {
	o := Options{Size: 64 << 20, Time: epoch}
	for what, c := range map[string]struct {
		files []File
		o     Options
		want  string
	}{
		"too small":     {nil, Options{Size: 30 << 20}, "too small"},
		"odd":           {nil, Options{Size: 64<<20 + 1}, "multiple of 512"},
		"full":          {[]File{{Name: "x", Size: 70 << 20}}, o, "MiB more"},
		"huge":          {[]File{{Name: "x", Size: 1 << 32}}, o, "below 4 GiB"},
		"twice":         {[]File{blob("a.txt", nil), blob("A.TXT", nil)}, o, "called"},
		"bad name":      {[]File{blob("a:b", nil)}, o, "can't hold the name"},
		"bad directory": {[]File{blob("a?/b", nil)}, o, "can't hold the name"},
		"alignment":     {[]File{{Name: "x", Size: 1, Align: 3}}, o, "alignment"},
	} {
		if _, err := Plan(c.files, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error with %q", what, err, c.want)
		}
	}
}

// scattered is a FAT32 volume whose one file claims 4 GiB, in clusters none of
// which is beside the one before.
type scattered struct {
	g    geometry
	read int64 // bytes
}

func (h *scattered) ReadAt(p []byte, at int64) (int, error) {
	if h.read += int64(len(p)); h.read > 8<<20 {
		return 0, errors.New("more is read than any file here has")
	}
	clear(p)
	first, end := int64(h.g.reserved)*sectorSize, int64(h.g.reserved+h.g.fatSectors)*sectorSize
	switch {
	case at == 0:
		copy(p, h.g.encode())
	case at >= first && at < end:
		half := h.g.clusters() / 2
		for i := 0; i+4 <= len(p); i += 4 {
			next, c := uint32(0x0fffffff), uint32((at-first)/4)+uint32(i/4)
			switch {
			case c >= 3 && c < half: // to the other half of the table and back, never to where it was
				next = c + half - 1
			case c >= half:
				next = c - half + 2
			}
			binary.LittleEndian.PutUint32(p[i:], next)
		}
	case at == h.g.offset(2):
		copy(p, "MANIFE~1JSO")
		p[11] = 0x20
		binary.LittleEndian.PutUint16(p[26:], 3)
		binary.LittleEndian.PutUint32(p[28:], 0xfffffff0)
	}
	return len(p), nil
}

// TestLimitBeforeChain: of a file that claims more than want at most, no chain
// is followed, and following one that jumps about costs a sector a step.
func TestLimitBeforeChain(t *testing.T) {
	g, err := plan(9 << 30)
	if err != nil {
		t.Fatal(err)
	}
	h := &scattered{g: g}
	v, err := Open(h)
	if err != nil {
		t.Fatal(err)
	}
	const name = "MANIFE~1.JSO"
	for what, open := range map[string]func() error{
		"ReadFile": func() error { _, err := v.ReadFile(name, 1<<20); return err },
		"OpenFile": func() error { _, _, err := v.OpenFile(name, 1<<20); return err },
		"OpenAt":   func() error { _, _, err := v.OpenAt(name, 1<<20); return err },
		"Extents":  func() error { _, _, err := v.Extents(name, 1<<20); return err },
	} {
		h.read = 0
		if err := open(); err == nil || !strings.Contains(err.Error(), "want at most 1048576") || h.read > 1<<20 {
			t.Errorf("%s: %v, after %d bytes were read", what, err, h.read)
		}
	}
	h.read = 0
	const steps = 100
	if _, err := v.chain(3, steps*v.clusterSize()); err != nil || h.read > steps*sectorSize {
		t.Errorf("%d steps of a scattered chain read %d bytes (%v)", steps, h.read, err)
	}
}

// FuzzOpen feeds damaged volumes to the reader: errors are fine, hanging,
// panics and reading without bound are not.
func FuzzOpen(f *testing.F) {
	l, err := Plan([]File{blob("a-long-name.txt", []byte("hello")), blob("d/e", noise(5000))}, Options{Size: 36 << 20, Time: epoch})
	if err != nil {
		f.Fatal(err)
	}
	base := make([]byte, 36<<20)
	l.Write(&failing{data: base, left: 1 << 30}, opened(map[string][]byte{"a-long-name.txt": []byte("hello"), "d/e": noise(5000)}))
	start := int64(l.dataStart()) * sectorSize
	f.Add(uint32(13), byte(1), uint32(0), byte(0))
	f.Add(uint32(start), byte(0xe5), uint32(start+20), byte(0xff))
	f.Add(l.reserved*sectorSize+8, byte(2), uint32(44), byte(3))
	f.Fuzz(func(t *testing.T, a uint32, x byte, b uint32, y byte) {
		data := &patched{base: base, at: map[int64]byte{int64(a) % int64(len(base)): x, int64(b) % int64(len(base)): y}}
		v, err := Open(data)
		if err != nil {
			return
		}
		list, err := v.ReadDir("")
		if err != nil {
			return
		}
		for _, e := range list {
			v.ReadFile(e.Name, 1<<20)
			v.ReadDir(e.Name)
		}
	})
}

type patched struct {
	base []byte
	at   map[int64]byte
}

func (p *patched) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(p.base)) {
		return 0, io.EOF
	}
	n := copy(b, p.base[at:])
	for i, x := range p.at {
		if i >= at && i < at+int64(n) {
			b[i-at] = x
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}
