package updater

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
	"github.com/pikelet-os/pikelet/internal/slots"
	"github.com/pikelet-os/pikelet/internal/verity"
)

var (
	states = flag.Int("states", 1500, "how many states of a card after a power cut are judged")
	seed   = flag.Uint64("seed", 0, "repeats an earlier run; 0 takes one by chance")
)

// tape is a card that remembers what was written to it, sector by sector, and
// when it was flushed.
type tape struct {
	sectors map[int64][disk.SectorSize]byte
	log     []op
	fail    func(at int64) error // may refuse a write
	rots    int64                // a byte that does not keep what is written to it
}

// op is a write of one sector, or a flush.
type op struct {
	sector int64
	data   [disk.SectorSize]byte
	flush  bool
}

func (t *tape) ReadAt(b []byte, at int64) (int, error) {
	for done := 0; done < len(b); {
		pos := at + int64(done)
		s := t.sectors[pos/disk.SectorSize]
		done += copy(b[done:], s[pos%disk.SectorSize:])
	}
	return len(b), nil
}

func (t *tape) WriteAt(b []byte, at int64) (int, error) {
	if t.fail != nil {
		if err := t.fail(at); err != nil {
			return 0, err
		}
	}
	for done := 0; done < len(b); {
		pos := at + int64(done)
		o := op{sector: pos / disk.SectorSize, data: t.sectors[pos/disk.SectorSize]} // the kernel writes whole sectors
		done += copy(o.data[pos%disk.SectorSize:], b[done:])
		if t.rots > 0 && t.rots/disk.SectorSize == o.sector {
			o.data[t.rots%disk.SectorSize] = 0xa5
		}
		t.sectors[o.sector] = o.data
		t.log = append(t.log, o)
	}
	return len(b), nil
}

func (t *tape) Flush() error  { t.log = append(t.log, op{flush: true}); return nil }
func (t *tape) Forget() error { return nil }

// image makes a small image; what changes from release to release is its
// kernel, its root and its words.
func image(t *testing.T, release string) slots.Image {
	t.Helper()
	root := bytes.Repeat([]byte("root of all releases "), 1<<16)[:64*verity.BlockSize+verity.TreeSize(64)]
	copy(root[100_000:], "root of "+release)
	files := map[string][]byte{
		"cmdline-a.txt": []byte("slot=a " + release + "\n"), "cmdline-b.txt": []byte("slot=b " + release + "\n"), "cmdline-net.txt": []byte("slot=net\n"),
		"vmlinuz": bytes.Repeat([]byte("kernel "+release), 20_000), "config.txt": []byte("[all]\n"), artifact.RootFile: root,
	}
	m := &artifact.Manifest{Format: artifact.Format, Stream: "lab", Release: release, BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000, Arch: "arm64",
		SlotSize: 40 << 20, Packages: artifact.DigestOf(nil), Root: artifact.Root{DataBlocks: 64, Salt: "ab", Hash: strings.Repeat("cd", 32), Generation: 1, BlockSize: 131072}}
	for name, b := range files {
		m.Files = append(m.Files, artifact.File{Name: name, Size: int64(len(b)), Digest: artifact.DigestOf(b)})
	}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return slots.Image{Manifest: m, Text: text, Signature: []byte("signature of " + release), Digest: artifact.DigestOf(text),
		Open: func(name string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files[name])), nil }}
}

// newTape returns a card with an image on slot a, and nothing on b.
func newTape(t *testing.T, img slots.Image) (*tape, disk.Table) {
	t.Helper()
	table, err := disk.Card(img.Manifest.SlotSize, disk.StateInImage, 7)
	if err != nil {
		t.Fatal(err)
	}
	card := &tape{sectors: map[int64][disk.SectorSize]byte{}}
	control, err := img.Control(slots.Files{Default: slots.A}, table.Partitions[disk.Control-1])
	if err != nil {
		t.Fatal(err)
	}
	if err := control.Write(io.NewOffsetWriter(card, table.Partitions[disk.Control-1].Start)); err != nil {
		t.Fatal(err)
	}
	if _, err := card.WriteAt(table.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	write(t, card, table, img, slots.A)
	card.log = nil
	return card, table
}

func write(t *testing.T, card *tape, table disk.Table, img slots.Image, l slots.Letter) Written {
	t.Helper()
	w, err := WriteSlot(context.Background(), card, img, l, table.Partitions[l.Partition()-1])
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// starts says which slot a firmware starts that has the card as it is, and
// whether that is one of the images, whole.
func starts(card io.ReaderAt, table disk.Table, images ...slots.Image) (slots.Letter, bool) {
	at, size, err := slots.ControlFile(card, table, slots.AutobootFile)
	if err != nil {
		return "", false
	}
	text := make([]byte, size)
	if _, err := card.ReadAt(text, at); err != nil {
		return "", false
	}
	l, err := slots.DecodeAutoboot(text)
	return l, err == nil && whole(card, table, l, images...)
}

// whole says whether every file of one of the images can be read from a slot,
// through its filesystem, as /init does.
func whole(card io.ReaderAt, table disk.Table, l slots.Letter, images ...slots.Image) bool {
	p := table.Partitions[l.Partition()-1]
	v, err := fat.Open(io.NewSectionReader(card, p.Start, p.Size))
	if err != nil {
		return false
	}
	for _, img := range images {
		good := true
		for _, f := range img.Manifest.Files {
			name := f.Name
			switch {
			case name == l.CmdlineFile():
				name = slots.CmdlineFile
			case strings.HasPrefix(name, "cmdline-"):
				continue
			}
			b, err := v.ReadFile(name, f.Size)
			good = good && err == nil && artifact.DigestOf(b) == f.Digest
		}
		if good {
			return true
		}
	}
	return false
}

// isVolume says whether a firmware walks into a slot.
func isVolume(card io.ReaderAt, table disk.Table, l slots.Letter) bool {
	p := table.Partitions[l.Partition()-1]
	_, err := fat.Open(io.NewSectionReader(card, p.Start, p.Size))
	return err == nil
}

// upgrade is one whole upgrade of slot b, and the commit.
func upgrade(t *testing.T, card *tape, table disk.Table, img slots.Image) {
	write(t, card, table, img, slots.B)
	err := slots.ChangeCard(card, func(c *slots.Card) {
		c.Update = &slots.Update{Step: slots.Armed, Slot: slots.B, Digest: img.Digest, Release: img.Manifest.Release}
	})
	if err == nil {
		err = card.Flush()
	}
	if err == nil {
		err = Commit(card, table, slots.B)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestPowerCuts records an upgrade, sector by sector, and judges what a power
// cut leaves: after any number of writes, and with any of those lost that were
// not flushed. Always the default slot is a whole image; and the other one is
// whole, or no filesystem.
func TestPowerCuts(t *testing.T) {
	old, now := image(t, "1.0"), image(t, "1.1")
	card, table := newTape(t, old)
	write(t, card, table, image(t, "0.9"), slots.B) // what an earlier upgrade left
	before := map[int64][disk.SectorSize]byte{}
	for k, v := range card.sectors {
		before[k] = v
	}
	card.log = nil
	upgrade(t, card, table, now)
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	random := rand.New(rand.NewPCG(*seed, 1))
	var epochs [][]op
	for epoch := []op(nil); ; {
		if len(card.log) == 0 {
			break
		}
		o := card.log[0]
		card.log = card.log[1:]
		if !o.flush {
			epoch = append(epoch, o)
			continue
		}
		if len(epoch) > 0 {
			epochs = append(epochs, epoch)
		}
		epoch = nil
	}
	judged, unbootable := 0, 0
	at := &tape{sectors: before}
	for i, epoch := range epochs {
		for range max(20, *states/len(epochs)) {
			cut := &tape{sectors: map[int64][disk.SectorSize]byte{}}
			for k, v := range at.sectors {
				cut.sectors[k] = v
			}
			reached := random.IntN(len(epoch) + 1)
			if random.IntN(3) == 0 {
				reached = len(epoch) // what comes last is there, and something before it is not
			}
			lose := random.IntN(3) // nothing, half, or nearly all of what was not flushed
			for _, o := range epoch[:reached] {
				if lose == 0 || lose == 1 && random.IntN(2) == 0 || lose == 2 && random.IntN(20) == 0 {
					cut.sectors[o.sector] = o.data
				}
			}
			judged++
			l, ok := starts(cut, table, old, now)
			if !ok {
				unbootable++
				t.Errorf("epoch %d of %d, %d of %d writes, seed %d: slot %q is the default, and no whole image", i, len(epochs), reached, len(epoch), *seed, l)
			}
			if other := l.Other(); ok && isVolume(cut, table, other) && !whole(cut, table, other, old, now, image(t, "0.9")) {
				t.Errorf("epoch %d of %d, seed %d: slot %s is a filesystem, and not whole", i, len(epochs), *seed, other)
			}
			if t.Failed() {
				return
			}
		}
		for _, o := range epoch {
			at.sectors[o.sector] = o.data
		}
	}
	t.Logf("crash states: %d, unbootable: %d, epochs: %d, seed: %d", judged, unbootable, len(epochs), *seed)
	if l, ok := starts(at, table, now); l != slots.B || !ok || len(epochs) < 5 {
		t.Errorf("in the end slot %q is the default, and the new image: %v", l, ok)
	}
}

// TestWhatIsThereIsNotWritten: a second release costs what differs; the same
// one costs nothing.
func TestWhatIsThereIsNotWritten(t *testing.T) {
	old, now := image(t, "1.0"), image(t, "1.1")
	card, table := newTape(t, old)
	first := write(t, card, table, old, slots.B)
	second := write(t, card, table, now, slots.B)
	kernel, _ := now.Manifest.File("vmlinuz")
	if second.Bytes > kernel.Size+200<<10 || second.Same < first.Bytes/3 {
		t.Errorf("the first took %+v, one with another kernel of %d bytes %+v", first, kernel.Size, second)
	}
	card.log = nil
	if w := write(t, card, table, now, slots.B); w != (Written{}) || len(card.log) != 0 {
		t.Errorf("what was there was written again: %+v, %d writes", w, len(card.log))
	}
}

// TestCardsThatFail: an error, and a card that does not keep what it is given,
// leave the default slot as it was and the other one not to be armed.
func TestCardsThatFail(t *testing.T) {
	old, now := image(t, "1.0"), image(t, "1.1")
	for name, spoil := range map[string]func(*tape, disk.Partition){
		"an error": func(c *tape, p disk.Partition) {
			n := 0
			c.fail = func(int64) error {
				if n++; n > 10 {
					return errors.New("input/output error")
				}
				return nil
			}
		},
		"an error at once": func(c *tape, p disk.Partition) {
			c.fail = func(int64) error { return errors.New("input/output error") }
		},
		"a byte of the root":  func(c *tape, p disk.Partition) { c.rots = rootOf(t, now, p) + 100_000 },
		"a byte of the FAT":   func(c *tape, p disk.Partition) { c.rots = p.Start + 64<<10 - 1000 },
		"the first sector":    func(c *tape, p disk.Partition) { c.rots = p.Start + 3 },
		"a file that is gone": func(c *tape, p disk.Partition) {},
	} {
		t.Run(name, func(t *testing.T) {
			card, table := newTape(t, old)
			p := table.Partitions[disk.SlotB-1]
			spoil(card, p)
			img := now
			if name == "a file that is gone" {
				img.Open = func(name string) (io.ReadCloser, error) { return nil, errors.New("the registry is gone") }
			}
			if _, err := WriteSlot(context.Background(), card, img, slots.B, p); err == nil {
				t.Error("no error")
			}
			if l, ok := starts(card, table, old); l != slots.A || !ok {
				t.Errorf("slot %q is the default, whole: %v", l, ok)
			}
		})
	}
	card, table := newTape(t, old)
	at, _, err := slots.ControlFile(card, table, slots.AutobootFile)
	if err != nil {
		t.Fatal(err)
	}
	card.rots = at + 3
	if err := Commit(card, table, slots.B); err == nil || !strings.Contains(err.Error(), "does not hold what was written") {
		t.Errorf("a commit that was not kept: %v", err)
	}
}

func rootOf(t *testing.T, img slots.Image, p disk.Partition) int64 {
	t.Helper()
	layout, err := img.Slot(slots.B, p)
	if err != nil {
		t.Fatal(err)
	}
	return p.Start + layout.Offset(artifact.RootFile)
}
