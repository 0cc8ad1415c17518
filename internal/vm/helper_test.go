package vm_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"github.com/pikelet-os/pikelet/builder"
	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/builder/device"
	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/initramfs/archive"
	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/disk/fat"
	"github.com/pikelet-os/pikelet/internal/slots"
	"github.com/pikelet-os/pikelet/internal/vm"
)

// patience is how long a guest may take for anything: many times what it
// takes on an idle machine, because tests share theirs, and because a volume
// that another boot did not close is waited for, the longer the slower that
// one was (ext4 mmp).
const patience = 5 * time.Minute

// shared are images that several tests boot: each is built by the first that
// wants a card of it, and copied by each.
var shared = struct {
	sync.Mutex
	dir    string
	images map[string]*sharedImage
}{images: map[string]*sharedImage{}}

type sharedImage struct {
	once   sync.Once
	result *builder.Result
	err    error
}

// image is what testdata/small.yaml makes, once newCard was called.
var image *builder.Result

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// sharedBuild builds an image of testdata once for all tests.
func sharedBuild(t *testing.T, file string) *builder.Result {
	t.Helper()
	return sharedBuildOf(t, file, func(string) []string { return nil })
}

// sharedBuildOf is sharedBuild for a spec in which words are replaced. fill
// gets a folder for files of its own, and returns words and what stands for
// them in turn.
func sharedBuildOf(t *testing.T, file string, fill func(dir string) []string) *builder.Result {
	t.Helper()
	shared.Lock()
	var err error
	if shared.dir == "" {
		shared.dir, err = os.MkdirTemp("", "pikelet-boot-")
	}
	s := shared.images[file]
	if s == nil {
		s = &sharedImage{}
		shared.images[file] = s
	}
	shared.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	s.once.Do(func() {
		s.err = errors.New("a test before this one failed while it built it")
		dir := filepath.Join(shared.dir, file)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s.result, s.err = buildFilled(t, file, dir, fill(dir))
	})
	if s.err != nil {
		t.Fatalf("building an image that boot tests share: %v", s.err)
	}
	return s.result
}

// buildFilled builds a spec of testdata with words replaced.
func buildFilled(t *testing.T, file, dir string, words []string) (*builder.Result, error) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp("testdata", "variant-*.yaml") // here, because its paths are relative
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.WriteString(strings.NewReplacer(words...).Replace(string(b))); err != nil {
		t.Fatal(err)
	}
	return buildImage(f.Name(), dir)
}

func buildImage(file, dir string) (*builder.Result, error) {
	img, err := spec.Load(file)
	if err != nil {
		return nil, fmt.Errorf("%w\n(make starter makes the repository)", err)
	}
	programs, err := device.Load()
	if err != nil {
		return nil, err
	}
	key, err := testKey()
	if err != nil {
		return nil, err
	}
	return builder.Build(context.Background(), img, builder.Inputs{
		Cache: fetch.New(&cache.Cache{Dir: dir}), Programs: programs, Key: key, Workers: 2, Report: func(string) {},
	}, filepath.Join(dir, "out"))
}

// testKey signs all images of these tests: one is an upgrade of another.
var testKey = sync.OnceValues(func() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })

// variant builds the small image with a part of its spec replaced.
func variant(t *testing.T, from, to string) *builder.Result {
	t.Helper()
	b, err := os.ReadFile("testdata/small.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), from) {
		t.Fatalf("the spec has no %q", from)
	}
	r, err := buildFilled(t, "small.yaml", t.TempDir(), []string{from, to})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pi is a virtual Pi under test.
type pi struct {
	*vm.Machine
	t    *testing.T
	card string
}

// newCard returns a test's own copy of the small image.
func newCard(t *testing.T) string {
	t.Helper()
	r := sharedBuild(t, "small.yaml")
	imageOnce.Do(func() { image = r })
	return cardOf(t, r)
}

var imageOnce sync.Once

// cardOf returns a test's own copy of an image.
func cardOf(t *testing.T, r *builder.Result) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := vm.CopySparse(r.Disk, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// boot starts a virtual Pi from a card.
func boot(t *testing.T, card string, change ...func(*vm.Options)) *pi {
	t.Helper()
	o := vm.Options{Image: card, Machine: "virt", Log: func(s string) { t.Log(s) }}
	for _, c := range change {
		c(&o)
	}
	m, err := vm.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	p := &pi{Machine: m, t: t, card: card}
	t.Cleanup(func() {
		m.Close()
		if t.Failed() {
			t.Logf("the console said:\n%s", m.Output())
		}
	})
	return p
}

// expect waits for text on the console.
func (p *pi) expect(texts ...string) {
	p.t.Helper()
	for _, text := range texts {
		if err := p.Expect(text); err != nil {
			p.t.Fatal(err)
		}
	}
}

// prompt waits for the root shell of the test image.
func (p *pi) prompt() { p.t.Helper(); p.expect(":~# ") }

// run types a command at the prompt and expects texts in its answer.
func (p *pi) run(command string, texts ...string) {
	p.t.Helper()
	if _, err := io.WriteString(p, command+"\n"); err != nil {
		p.t.Fatal(err)
	}
	p.expect(texts...)
}

// works runs a command in the guest and fails the test if its exit status is
// not 0. What it waits for does not stand in what is typed.
func (p *pi) works(command string) {
	p.t.Helper()
	p.run("if { " + command + "; }; then echo it''=worked; else echo it''=failed; fi")
	if got, err := p.ExpectAny("it=worked", "it=failed"); err != nil || got != "it=worked" {
		p.t.Errorf("%s: it failed in the guest (%v)", command, err)
	}
}

// off powers the machine off and waits for its end.
func (p *pi) off() {
	p.t.Helper()
	p.run("poweroff")
	if err := p.Wait(); err != nil {
		p.t.Fatal(err)
	}
}

// offset returns where a file of a slot begins on a card, in bytes.
func offset(t *testing.T, card string, l slots.Letter, name string) int64 {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := partition(t, f, l.Partition())
	v, err := fat.Open(io.NewSectionReader(f, p.Start, p.Size))
	if err != nil {
		t.Fatal(err)
	}
	_, runs, err := v.Extents(name)
	if err != nil {
		t.Fatal(err)
	}
	return p.Start + runs[0].Offset
}

func partition(t *testing.T, r io.ReaderAt, n int) disk.Partition {
	t.Helper()
	table, err := disk.ReadTable(r)
	if err != nil {
		t.Fatal(err)
	}
	p, err := table.Partition(n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// flip inverts one byte of a card.
func flip(t *testing.T, card string, at int64) {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0xff
	overwrite(t, card, at, b)
}

// overwrite writes bytes on a card.
func overwrite(t *testing.T, card string, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

// partitionOf returns a partition of a card.
func partitionOf(t *testing.T, card string, n int) disk.Partition {
	t.Helper()
	f, err := os.Open(card)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return partition(t, f, n)
}

// openOn opens a file of a partition.
func openOn(t *testing.T, r io.ReaderAt, n int, name string) io.Reader {
	t.Helper()
	p := partition(t, r, n)
	v, err := fat.Open(io.NewSectionReader(r, p.Start, p.Size))
	if err != nil {
		t.Fatal(err)
	}
	f, _, err := v.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// spoilModule returns the image's initramfs with one byte of the squashfs
// module inverted, packed as the builder packs it.
func spoilModule(t *testing.T) []byte {
	t.Helper()
	r, err := image.Open(artifact.InitramfsFile)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dec, err := zstd.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	var files []archive.File
	for cr := cpio.NewReader(dec); ; {
		h, err := cr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.Mode.IsRegular() {
			continue
		}
		b, err := io.ReadAll(cr)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(h.Name, "-squashfs.ko") {
			b[len(b)/2] ^= 0xff
		}
		files = append(files, archive.File{Name: h.Name, Mode: uint32(h.Mode.Perm()), Data: b})
	}
	out, err := archive.Pack(files, time.Unix(image.Manifest.Epoch, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// writeSlot writes a slot of a card anew with other bytes in one file, and
// manifest and signature as they were.
func writeSlot(t *testing.T, card string, l slots.Letter, name string, other []byte) {
	t.Helper()
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := *image.Manifest
	m.Files = append([]artifact.File(nil), m.Files...)
	for i := range m.Files {
		if m.Files[i].Name == name {
			m.Files[i].Size = int64(len(other))
		}
	}
	source := func(n string) (io.ReadCloser, error) {
		if n == name {
			return io.NopCloser(bytes.NewReader(other)), nil
		}
		return image.Open(n)
	}
	p := partition(t, f, l.Partition())
	layout, err := slots.Image{Manifest: &m, Text: image.Text, Signature: image.Signature, Digest: image.Digest, Open: source}.Slot(l, p)
	if err != nil {
		t.Fatal(err)
	}
	if err := layout.Write(io.NewOffsetWriter(f, p.Start)); err != nil {
		t.Fatal(err)
	}
}
