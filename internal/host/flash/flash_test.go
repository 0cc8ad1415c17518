package flash

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

var seed = flag.Uint64("seed", 0, "seed of the cuts; 0 takes one by chance")

// sample returns the card of a small image.
func sample(t *testing.T, release, node string) *Card {
	t.Helper()
	rootSize := 64*verity.BlockSize + verity.TreeSize(64)
	files := map[string][]byte{
		"cmdline-a.txt": []byte("slot=a\n"), "cmdline-b.txt": []byte("slot=b\n"), "cmdline-net.txt": []byte("slot=net\n"),
		"bootcode.bin": []byte("code"),
		"vmlinuz":      bytes.Repeat([]byte("kernel "+release), 50_000), image.RootFile: bytes.Repeat([]byte("r"+release), 1<<21)[:rootSize],
	}
	m := &image.Manifest{
		Format: image.Format, Stream: "lab", Release: release, BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000,
		Arch: "arm64", SlotSize: 40 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{DataBlocks: 64, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, BlockSize: 131072},
	}
	for name, b := range files {
		m.Files = append(m.Files, image.File{Name: name, Size: int64(len(b)), Digest: image.DigestOf(b)})
	}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	img := image.Image{Manifest: m, Text: text, Digest: image.DigestOf(text), Source: image.Memory(files)}
	var config []byte
	if node != "" {
		config = []byte(node)
	}
	c, err := NewCard(context.Background(), img, disk.StateInImage, config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// faulty is a file with the faults of cards. Writes are counted from 1.
type faulty struct {
	*os.File
	n       int
	cut     int   // the write that does not happen, nor any after it
	fails   int   // the write that fails
	full    int64 // writes behind this byte find no space
	forgets int64 // a byte that does not keep what is written to it
	flushes int
}

var errCut = errors.New("the power is gone")

func (f *faulty) WriteAt(b []byte, at int64) (int, error) {
	f.n++
	switch {
	case f.cut > 0 && f.n >= f.cut:
		return 0, errCut
	case f.fails > 0 && f.n == f.fails:
		return 0, errors.New("input/output error")
	case f.full > 0 && at+int64(len(b)) > f.full:
		return 0, errors.New("no space left on device")
	}
	if f.forgets > 0 && at <= f.forgets && f.forgets < at+int64(len(b)) {
		b = bytes.Clone(b)
		b[f.forgets-at] ^= 0xff
	}
	return f.File.WriteAt(b, at)
}

func (f *faulty) Flush() error  { f.flushes++; return nil }
func (f *faulty) Forget() error { return nil }

func newDisk(t *testing.T, size int64) *faulty {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "card"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return &faulty{File: f}
}

func silent(Phase, int64) {}

func mustWrite(t *testing.T, c *Card, d Disk) {
	t.Helper()
	if err := c.Write(context.Background(), d, silent); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, d io.ReaderAt, at, n int64) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := d.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestInterruptedWrites cuts the power at every write in turn, many of them at
// random: until the last one the card starts nothing and says that it is not
// finished; the next attempt makes it whole.
func TestInterruptedWrites(t *testing.T) {
	old, now := sample(t, "1.0", ""), sample(t, "1.1", "hostname: attic\n")
	d := newDisk(t, old.Size())
	mustWrite(t, old, d)
	first := d.n
	d.n = 0
	mustWrite(t, now, d)
	writes := d.n
	whole := read(t, d, 0, now.Size())
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("%d writes of a first flash, %d of a second; -seed %d", first, writes, *seed)
	r := rand.New(rand.NewPCG(*seed, 0))
	cuts := []int{1, 2, 3, writes - 1, writes}
	for range 20 {
		cuts = append(cuts, 1+r.IntN(writes))
	}
	for _, cut := range cuts {
		mustWrite(t, old, &faulty{File: d.File})
		cutting := &faulty{File: d.File, cut: cut}
		if err := now.Write(context.Background(), cutting, silent); !errors.Is(err, errCut) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		_, err := disk.ReadTable(d)
		switch {
		case cut == 1 && err != nil:
			t.Errorf("nothing was written, and the old card is none: %v", err)
		case cut > 1 && (err == nil || !strings.Contains(err.Error(), "the card was being flashed when that was interrupted; flash it again")):
			t.Errorf("cut at %d: %v", cut, err)
		case cut > 1 && (read(t, d, 510, 2)[0] == 0x55):
			t.Errorf("cut at %d: the firmware finds a partition table", cut)
		}
	}
	mustWrite(t, now, &faulty{File: d.File})
	if !bytes.Equal(read(t, d, 0, now.Size()), whole) {
		t.Error("a card that was cut is another one when it is written again")
	}
}

// TestCardsThatFail: an error, no space, a card that does not keep what is
// written, and a reader that is not what it says: each is told, and the card
// starts nothing.
func TestCardsThatFail(t *testing.T) {
	c := sample(t, "1.0", "")
	d := newDisk(t, c.Size())
	probe := &faulty{File: d.File}
	mustWrite(t, c, probe)
	slotB := c.Table.Partitions[disk.SlotB-1]
	node, _, err := slots.ControlFile(d, c.Table, slots.NodeFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]struct {
		faults faulty
		want   string
	}{
		"the first write":      {faulty{fails: 1}, "writing the first sector: input/output error"},
		"a write in between":   {faulty{fails: probe.n / 2}, "input/output error"},
		"the partition table":  {faulty{fails: probe.n}, "writing the partition table: input/output error"},
		"no space":             {faulty{full: slotB.Start + 1<<20}, "clearing the state partition: no space left on device"},
		"a byte of a slot":     {faulty{forgets: slotB.Start + 5}, "the card does not hold what was written to it"},
		"a byte of state":      {faulty{forgets: c.Table.Partitions[3].Start + 77}, "the card does not hold what was written to it"},
		"a byte of the config": {faulty{forgets: node + 77}, "the card does not hold what was written to it"},
		"the table's magic":    {faulty{forgets: 510}, "the partition table: the card does not hold what was written to it"},
	} {
		t.Run(name, func(t *testing.T) {
			faults := f.faults
			faults.File = d.File
			err := c.Write(context.Background(), &faults, silent)
			if err == nil || !strings.Contains(err.Error(), f.want) {
				t.Errorf("%v; want %q", err, f.want)
			}
			if _, err := disk.ReadTable(d); err == nil && name != "the first write" {
				t.Error("what is on the card starts")
			}
			mustWrite(t, c, &faulty{File: d.File})
		})
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	if err := c.Write(ctx, &faulty{File: d.File}, silent); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

// TestKeepState: state stays where it is and as long as it grew, also when the
// flash that was to keep it was cut and done again; a card without one, or
// with slots of another size, is refused before anything is written.
func TestKeepState(t *testing.T) {
	old := sample(t, "1.0", "")
	d := newDisk(t, old.Size()+100<<20)
	if err := sample(t, "1.1", "").Keep(d); err == nil || !strings.Contains(err.Error(), "no state to keep") {
		t.Errorf("an empty card: %v", err)
	}
	mustWrite(t, old, d)
	grown := old.Table
	grown.Partitions[3].Size += 100 << 20
	state := grown.Partitions[3]
	for at, b := range map[int64][]byte{0: grown.Encode(), state.Start: []byte("what must not be lost"), state.Start +
		state.Size - 5: []byte("ever!")} {
		if _, err := d.File.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		if string(read(t, d, state.Start, 21)) != "what must not be lost" || string(read(t, d, state.Start+state.Size-5, 5)) != "ever!" {
			t.Errorf("%s: the state is gone", when)
		}
	}
	now := sample(t, "1.1", "")
	if err := now.Keep(d); err != nil {
		t.Fatal(err)
	}
	for _, cut := range []int{3, 40} {
		if err := now.Write(context.Background(), &faulty{File: d.File, cut: cut}, silent); !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		check("cut")
		now = sample(t, "1.1", "")
		if err := now.Keep(d); err != nil {
			t.Fatalf("after a cut: %v", err)
		}
	}
	mustWrite(t, now, d)
	check("done")
	if table, err := disk.ReadTable(d); err != nil || table.Partitions[3] != state {
		t.Errorf("the state partition is %+v (%v), was %+v", table.Partitions[3], err, state)
	}
	larger := sample(t, "1.2", "")
	var err error
	if larger.Table, err = disk.Card(48<<20, disk.StateInImage, 1); err != nil {
		t.Fatal(err)
	}
	if err := larger.Keep(d); err == nil || !strings.Contains(err.Error(), "the state cannot be kept") {
		t.Errorf("larger slots: %v", err)
	}
	mustWrite(t, sample(t, "1.1", ""), d)
	if b := read(t, d, state.Start, disk.StateClear); bytes.Count(b, []byte{0}) != len(b) {
		t.Error("a flash that was not told to keep state kept it")
	}
}

// TestRepairControl: a control partition that is gone comes back as it was, and
// nothing else is written.
func TestRepairControl(t *testing.T) {
	c := sample(t, "1.0", "hostname: attic\n")
	d := newDisk(t, c.Size())
	mustWrite(t, c, d)
	before := read(t, d, 0, c.Size())
	control := c.Table.Partitions[disk.Control-1]
	if _, err := d.File.WriteAt(bytes.Repeat([]byte{0xff}, 8<<20), control.Start); err != nil {
		t.Fatal(err)
	}
	if err := c.Repair(context.Background(), d, silent); err != nil {
		t.Fatal(err)
	}
	after := read(t, d, 0, c.Size())
	// What no file and no table lies in is not written.
	if !bytes.Equal(before[:control.Start], after[:control.Start]) || !bytes.Equal(before[control.Start+control.Size:],
		after[control.Start+control.Size:]) {
		t.Error("something beside the control partition changed")
	}
	for _, name := range []string{slots.AutobootFile, slots.NodeFile, slots.ReportFile, slots.BootcodeFile} {
		at, size, err := slots.ControlFile(bytes.NewReader(after), c.Table, name)
		if err != nil || !bytes.Equal(before[at:at+size], after[at:at+size]) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBackupGPT: the copy of an old GPT at the end of a disk is cleared, and
// nothing else is that lies there.
func TestBackupGPT(t *testing.T) {
	const size = 400 << 20
	header := append([]byte("EFI PART"), make([]byte, disk.SectorSize-8)...)
	entries := bytes.Repeat([]byte{7}, 32*disk.SectorSize)
	for what, c := range map[string]struct {
		header []byte
		keep   bool // the state, which reaches the end of the disk
		clear  bool
	}{
		"a GPT":            {header, false, true},
		"no GPT":           {bytes.Repeat([]byte{9}, disk.SectorSize), false, false},
		"a state like one": {header, true, false},
	} {
		d := newDisk(t, size)
		card := sample(t, "1.0", "")
		card.DiskSize = size
		if c.keep {
			card.KeepState = true
			p := &card.Table.Partitions[disk.State-1]
			p.Size = size - p.Start
		}
		end := append(bytes.Clone(entries), c.header...)
		if _, err := d.File.WriteAt(end, size-int64(len(end))); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, card, d)
		want := end
		if c.clear {
			want = make([]byte, len(end))
		}
		if !bytes.Equal(read(t, d, size-int64(len(end)), int64(len(end))), want) {
			t.Errorf("%s: the end of the disk is not what it should be", what)
		}
	}
}

// TestTruncatedDiskImage: a disk image that is shorter than its partition table
// says is refused before anything is read of it.
func TestTruncatedDiskImage(t *testing.T) {
	c := sample(t, "1.0", "")
	d := newDisk(t, c.Size())
	mustWrite(t, c, d)
	name := d.File.Name()
	if err := os.Truncate(name, c.Size()-disk.SectorSize); err != nil {
		t.Fatal(err)
	}
	if s, err := OpenSource(name); err == nil || !strings.Contains(err.Error(), "the disk image is truncated") {
		t.Errorf("got %v, %v", s, err)
	}
}
