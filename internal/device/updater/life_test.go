package updater

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/initrd"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// testKey signs the images of these tests.
// It is always the same, so that a seed makes the same cards again.
var testKey = sync.OnceValues(func() (*ecdsa.PrivateKey, error) {
	return ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
})

// smallRoot makes a root: a program that no compressor helps with, and in its
// midst what release it is of.
func smallRoot(t testing.TB, release string) []byte {
	t.Helper()
	program := make([]byte, 180_000)
	random := rand.New(rand.NewPCG(1, 1))
	for i := range program {
		program[i] = byte(random.Uint32())
	}
	copy(program[100_000:], "root of "+release)
	f := &memory{}
	at := time.Unix(1_790_000_000, 0)
	_, err := squashfs.Write(f, []squashfs.Entry{
		{Header: &tar.Header{Typeflag: tar.TypeDir, Name: "bin", Mode: 0o755, ModTime: at}},
		{Header: &tar.Header{Typeflag: tar.TypeReg, Name: "bin/program", Mode: 0o755, Size: int64(len(program)), ModTime: at}, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(program)), nil }},
	}, squashfs.Options{Time: at})
	if err != nil {
		t.Fatal(err)
	}
	return f.b
}

// memory is a file in memory.
type memory struct{ b []byte }

// WriteAt implements io.WriterAt.
func (m *memory) WriteAt(b []byte, at int64) (int, error) {
	if end := int(at) + len(b); end > len(m.b) {
		m.b = append(m.b, make([]byte, end-len(m.b))...)
	}
	return copy(m.b[at:], b), nil
}

// making is what a test's image is made of.
type making struct {
	release string
	change  func(*image.Manifest) // before it is signed; may be nil
	info    cmdline.Info          // what its initramfs says; none where it has no keys
	signers []*ecdsa.PrivateKey
	more    func(digest string) []image.Signed // further signatures; may be nil
}

// newMaking is that of an image which testKey signs and which trusts it.
func newMaking(t testing.TB, release string) making {
	t.Helper()
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	return making{release: release, info: infoWith(t, key), signers: []*ecdsa.PrivateKey{key}}
}

// infoWith returns what an initramfs says that trusts some keys.
func infoWith(t testing.TB, keys ...*ecdsa.PrivateKey) cmdline.Info {
	t.Helper()
	info := cmdline.Info{Stream: "lab", BuildID: strings.Repeat("ab", 16)}
	for _, k := range keys {
		text, err := image.EncodePublicKey(&k.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		info.Keys = append(info.Keys, string(text))
	}
	return info
}

// newImage makes a small image, signed; what changes from release to release is
// its kernel, a block of its root and its words.
func newImage(t testing.TB, release string) image.Image {
	t.Helper()
	return newMaking(t, release).image(t)
}

func (k making) image(t testing.TB) image.Image {
	t.Helper()
	release := k.release
	text, err := cmdline.EncodeInfo(k.info)
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := initrd.Pack([]initrd.File{{Name: "etc/pikelet/boot.json", Mode: 0o644, Data: text}}, time.Unix(1_790_000_000, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	root := smallRoot(t, release)
	h := verity.NewHasher(verity.Salt())
	if _, err := h.Write(root); err != nil {
		t.Fatal(err)
	}
	params, tree, err := h.Tree()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"cmdline-a.txt": []byte("slot=a " + release + "\n"), "cmdline-b.txt": []byte("slot=b " + release + "\n"), "cmdline-net.txt": []byte("slot=net\n"),
		"start.elf": bytes.Repeat([]byte("firmware"), 4000), "vmlinuz": bytes.Repeat([]byte("kernel "+release), 12_000), "config.txt": []byte("[all]\n"), image.InitramfsFile: initramfs,
		image.RootFile: append(root, tree...),
	}
	m := &image.Manifest{Format: image.Format, Stream: "lab", Release: release, BuildID: strings.Repeat("ab", 16), Epoch: 1_790_000_000, Arch: "arm64",
		Boards: []string{"rpi3"}, SlotSize: 40 << 20, Packages: image.DigestOf(nil),
		Root: image.Root{DataBlocks: params.DataBlocks, Salt: hex.EncodeToString(params.Salt), Hash: hex.EncodeToString(params.RootHash), Generation: squashfs.Generation, Compression: squashfs.Fast().Name, BlockSize: squashfs.Fast().BlockSize}}
	for _, name := range slices.Sorted(keys(files)) {
		m.Files = append(m.Files, image.File{Name: name, Size: int64(len(files[name])), Digest: image.DigestOf(files[name])})
	}
	if k.change != nil {
		k.change(m)
	}
	if text, err = m.Encode(); err != nil {
		t.Fatal(err)
	}
	oci, err := image.EncodeOCI(m, text)
	if err != nil {
		t.Fatal(err)
	}
	var list []image.Signed
	for _, key := range k.signers {
		signed, err := image.Sign(oci, key)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, signed)
	}
	if k.more != nil {
		list = append(list, k.more(image.DigestOf(oci))...)
	}
	return image.Image{Manifest: m, Text: text, Signature: image.Signature{Manifest: oci, Signatures: list}, Digest: image.DigestOf(oci), Source: image.Memory(files)}
}

// hooked is the source of an image whose files are opened by a function.
type hooked struct {
	image.Source
	open func(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error)
}

// Open implements image.Source.
func (h hooked) Open(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	return h.open(ctx, f, at, n)
}

func sizesOf(t testing.TB, img image.Image) slots.Sizes {
	t.Helper()
	s, err := slots.SizesOf(img)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

const secret = "psk: \"the secret of this network\""

// newCard returns a card as it is flashed, with an image on slot a.
func newCard(t testing.TB, img image.Image) (*powercut.Card, disk.Table) {
	t.Helper()
	card := powercut.NewCard()
	table, err := disk.Card(img.Manifest.SlotSize, disk.StateInImage, 7)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions[disk.Control-1]
	control, contents, err := sizesOf(t, img).Control(slots.Files{Default: slots.A, Bootcode: []byte("bootcode"), Node: []byte("hostname: attic\nwifi: {" + secret + "}\n")}, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := control.Write(io.NewOffsetWriter(card, p.Start), contents); err != nil {
		t.Fatal(err)
	}
	if _, err := card.WriteAt(table.Encode(), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteSlot(context.Background(), powercut.Record(card), img, slots.A, table.Partitions[disk.SlotA-1]); err != nil {
		t.Fatal(err)
	}
	return card, table
}

// life is a node on the desk: a card, a model of the firmware, and what its
// images do. It knows no time but its own.
type life struct {
	t        testing.TB
	card     *powercut.Recorder
	firmware vm.Firmware
	keys     []*ecdsa.PublicKey
	images   map[string]image.Image // by digest
	well     map[string]bool        // images whose checks hold, by digest
	outside  bool                   // what fails does so outside the node
	soak     time.Duration
	again    bool                                  // releases that failed are taken again
	board    string                                // that it is
	info     func(io.Reader) (cmdline.Info, error) // what an initramfs says; nil reads it

	boot    Boot
	release string  // that runs
	asked   *string // what the firmware is told when the node restarts; nil while it runs
	now     time.Duration
	good    time.Duration // when the checks first held on this boot; -1
	said    []string
	reports []string
	kill    func(step string) // may panic with killed
	full    bool              // state is full

	unreachable bool // the registry is
	opened      int  // files of the image

	way   string   // upgrades are brought in: one of patch's names; "" is the whole image
	taken []string // ways that were taken, or tried
}

// killed is what a process ends with that is killed.
type killed struct{}

func newLife(t testing.TB, first image.Image) *life {
	t.Helper()
	key, err := testKey()
	if err != nil {
		t.Fatal(err)
	}
	card, _ := newCard(t, first)
	l := &life{t: t, card: powercut.Record(card), firmware: powercut.Firmwares[0].Firmware, keys: []*ecdsa.PublicKey{&key.PublicKey},
		images: map[string]image.Image{first.Digest: first}, well: map[string]bool{first.Digest: true}, soak: 10 * time.Second, board: "rpi3"}
	return l
}

// add makes an image known, whose checks hold or do not.
func (l *life) add(img image.Image, well bool) image.Image {
	l.images[img.Digest], l.well[img.Digest] = img, well
	return img
}

func (l *life) table() disk.Table {
	t, err := disk.ReadTable(l.card.Card)
	if err != nil {
		l.t.Fatal(err)
	}
	return t
}

// Checks implements Node.
func (l *life) Checks() []node.Check {
	l.step("checks")
	if !l.well[l.boot.Digest] {
		l.good = -1
		return []node.Check{{Name: "state", OK: true}, {Name: "volume", Says: "it never comes", Outside: l.outside}}
	}
	if l.good < 0 {
		l.good = l.now
	}
	if l.now-l.good >= l.soak {
		l.card.Fact(powercut.Well + l.boot.Digest)
		l.good = l.now + 1<<40 // said once
	}
	return []node.Check{{Name: "state", OK: true}, {Name: "volume", OK: true}}
}

// Restart implements Node.
func (l *life) Restart(argument string) error {
	l.step("restart")
	l.asked = &argument
	return nil
}

func (l *life) Tell(text string) { l.said = append(l.said, text) }
func (l *life) Log() string      { return "the log" }

// Report implements Node.
func (l *life) Report(text string) error {
	l.step("report")
	l.reports = append(l.reports, text)
	err := WriteControl(l.card, l.table(), slots.ReportFile, text)
	if l.full {
		err = errors.Join(err, errors.New("no space left on device"))
	}
	return err
}

func (l *life) BeforeArming(slots.Update) error {
	l.step("before arming")
	if l.full {
		return errors.New("no space left on device")
	}
	return nil
}
func (l *life) Alive() { l.step("alive") }

// Committed implements Node.
func (l *life) Committed() error {
	l.boot.Kind = slots.Committed
	l.step("committed")
	return nil
}
func (l *life) Elapsed() time.Duration { return l.now }

func (l *life) Sleep(_ context.Context, d time.Duration) bool {
	l.now += d
	return true
}

func (l *life) step(name string) {
	if l.kill != nil {
		l.kill(name)
	}
}

// survive runs what pikeletd does, and reports whether it was killed.
func survive(do func() error) (err error, dead bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(killed); !ok {
				panic(r)
			}
			dead = true
		}
	}()
	return do(), false
}

// start is the firmware and /init: it finds out which slot runs.
func (l *life) start(argument string, reset Reset) bool {
	l.asked, l.good = nil, -1
	req := vm.Request{Tryboot: argument == reboot.Tryboot}
	n, err := l.firmware.Starts(l.card.Card, req)
	if err != nil {
		l.t.Errorf("nothing starts: %v", err)
		return false
	}
	slot, _ := slots.OfPartition(n)
	digest, err := powercut.Whole(l.card.Card, slot, l.keys, l.firmware)
	if err != nil {
		l.t.Errorf("slot %s starts, and is not whole: %v", slot, err)
		return false
	}
	kind := slots.What(slot, slots.Default(l.card, l.table()), req.Tryboot)
	l.release = l.images[digest].Manifest.Release
	l.boot = Boot{Slot: slot, Kind: kind, Digest: digest, Keys: l.keys, Stream: "lab", Release: l.release, Arch: "arm64", Board: l.board, Reset: reset}
	return true
}

func (l *life) updater() *Updater {
	return &Updater{Card: l.card, Table: l.table(), Boot: l.boot, Node: l, Soak: l.soak, Deadline: time.Minute, info: l.info}
}

// run is the life of pikeletd until nothing happens any more: it concludes,
// restarts where it is killed, and the node with it where it asks for that. It
// returns false where it never comes to rest.
func (l *life) run() bool {
	for range 60 {
		_, dead := survive(func() error { return l.updater().Conclude(context.Background()) })
		switch {
		case dead:
			continue // whoever watches over it starts it again
		case l.asked == nil:
			return true
		}
		if !l.start(*l.asked, Watchdog) {
			return false
		}
	}
	return false
}

// upgrade is the verb.
func (l *life) upgrade(img image.Image, drill bool) (Written, error) {
	u := l.updater()
	var w Written
	err, dead := survive(func() error {
		l.step("idle")
		err := u.MayStart(img.Digest, l.again)
		if err != nil {
			return err
		}
		if w, err = l.bring(u, img); err != nil {
			return err
		}
		return u.Arm(context.Background(), Order{Digest: img.Digest, Drill: drill, Again: l.again})
	})
	if dead {
		err = errors.New("killed")
	}
	return w, err
}

// through starts an upgrade, and goes on until it came to its end.
func (l *life) through(img image.Image) error {
	if _, err := l.upgrade(img, false); err != nil {
		return err
	}
	if l.asked == nil {
		return nil
	}
	if !l.start(*l.asked, Watchdog) {
		return errors.New("it does not start")
	}
	if !l.run() {
		return errors.New("it never comes to rest")
	}
	return nil
}

// record is what the card says of the last upgrade.
func (l *life) record() slots.Update {
	if u := slots.ReadCard(l.card.Card).Update; u != nil {
		return *u
	}
	return slots.Update{}
}

// is fails the test unless a slot runs, with a release and a step of the last
// upgrade.
func (l *life) is(slot slots.Letter, release string, step slots.Step) {
	l.t.Helper()
	u := l.record()
	if l.boot.Slot != slot || l.release != release || u.Step != step {
		l.t.Errorf("slot %s runs release %s, the record says %+v; want slot %s, release %s, %s", l.boot.Slot, l.release, u, slot, release, step)
	}
}

func release(n int) string { return fmt.Sprintf("1.%d", n) }

// vmRequest is a start after the power came back.
var vmRequest = vm.Request{}

func publics(k *ecdsa.PrivateKey) []*ecdsa.PublicKey { return []*ecdsa.PublicKey{&k.PublicKey} }
