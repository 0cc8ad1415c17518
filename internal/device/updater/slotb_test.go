package updater

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

var (
	slotCard = flag.String("slot-card", "", "for make bench: the card whose slot b is written")
	slotRef  = flag.String("slot-ref", "", "and the image that goes there")
	slotKey  = flag.String("slot-key", "", "and the public key it is signed by")
	slotOut  = flag.String("slot-out", "", "and the file that says what it took")
)

// timed is a card in a file that knows when it was written to.
type timed struct {
	*os.File
	first, last time.Time
	forgot      time.Time // and not written since
	readback    time.Duration
	bytes       int64
}

// WriteAt implements medium.Medium.
func (c *timed) WriteAt(b []byte, at int64) (int, error) {
	if c.first.IsZero() {
		c.first = time.Now()
	}
	if !c.forgot.IsZero() {
		c.readback, c.forgot = c.readback+time.Since(c.forgot), time.Time{}
	}
	c.bytes += int64(len(b))
	return c.File.WriteAt(b, at)
}

// Flush implements medium.Medium.
func (c *timed) Flush() error {
	err := c.File.Sync()
	c.last = time.Now()
	return err
}

// StartWriting implements medium.Starter, as pikeletd does.
func (c *timed) StartWriting(at, n int64) {
	_ = unix.SyncFileRange(int(c.Fd()), at, n, unix.SYNC_FILE_RANGE_WRITE)
}

// StartReading implements medium.Starter, as pikeletd does.
func (c *timed) StartReading(at, n int64) {
	if c.first.IsZero() { // what is read for the sake of writing less counts
		c.first = time.Now()
	}
	_ = unix.Fadvise(int(c.Fd()), at, n, unix.FADV_WILLNEED)
}

// Forget implements medium.Medium: pages that are on the disk leave memory.
func (c *timed) Forget() error {
	defer func() { c.forgot = time.Now() }()
	return unix.Fadvise(int(c.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// BenchmarkSlotB writes an image onto slot b of a card as pikeletd does, once,
// for make bench, which wants it in a process of its own.
func BenchmarkSlotB(t *testing.B) {
	if *slotCard == "" {
		t.Skip("make bench says which card")
	}
	ctx := context.Background()
	img, _, f, table := slotImage(t)
	defer f.Close()
	c := &timed{File: f}
	if _, err := WriteSlot(ctx, c, img.Image, slots.B, table.Partitions[disk.SlotB-1]); err != nil {
		t.Fatal(err)
	}
	peak, err := inStatus("VmHWM")
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]float64{
		"Seconds": c.last.Sub(c.first).Seconds(), "Readback": c.readback.Seconds(), "Bytes": float64(c.bytes), "MiB": peak,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*slotOut, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// slotImage opens the card and the image that make bench names.
func slotImage(t *testing.B) (*registry.Published, []*ecdsa.PublicKey, *os.File, disk.Table) {
	ctx := context.Background()
	text, err := os.ReadFile(*slotKey)
	if err != nil {
		t.Fatal(err)
	}
	k, err := image.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	keys := []*ecdsa.PublicKey{k}
	place, tag, err := registry.Locate(*slotRef, registry.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Keys: keys, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(*slotCard, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	table, err := disk.ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	return img, keys, f, table
}

// inStatus returns a figure of /proc/self/status, MiB. Not what getrusage says:
// that begins with what the parent held.
func inStatus(name string) (float64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(name + `:\s+([0-9]+) kB`).FindSubmatch(status)
	if found == nil {
		return 0, fmt.Errorf("%s in /proc/self/status: not found", name)
	}
	kib, err := strconv.ParseFloat(string(found[1]), 64)
	return kib / 1024, err
}

// BenchmarkByPatch brings an image onto slot b of a card by its patch, as
// pikeletd does, once, for make bench, which wants it in a process of its own.
func BenchmarkByPatch(t *testing.B) {
	if *slotCard == "" {
		t.Skip("make bench says which card")
	}
	ctx := context.Background()
	// As pikeletd does (internal/device/agent/upgrade, sparing).
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(48 << 20)
	img, keys, f, table := slotImage(t)
	defer f.Close()
	c := &timed{File: f}
	old, err := ReadSlot(ctx, c, table, slots.A, keys)
	if err != nil {
		t.Fatal(err)
	}
	digest := old.Digest
	node := &life{
		t: t, card: powercut.Record(powercut.NewCard()), well: map[string]bool{digest: true}, boot: Boot{Digest: digest}, good: -1,
	}
	u := &Updater{Card: c, Table: table, Boot: Boot{Slot: slots.A, Digest: digest, Keys: keys}, Node: node, Log: slog.New(slog.DiscardHandler)}
	p, err := registry.FindPatch(ctx, img, digest, keys)
	if err != nil || p == nil {
		t.Fatalf("no patch for %s: %v", old.Release, err)
	}
	src := Source{Image: img.Image, Patch: &p.Patch, OpenPatch: p.Open, Scratch: func(int64) (*os.File, error) { return patch.Scratch("") }}
	var most atomic.Int64 // KiB, without pages of files
	stop := make(chan bool)
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			anon, err1 := inStatus("RssAnon")
			shared, err2 := inStatus("RssShmem")
			if err1 == nil && err2 == nil {
				most.Store(max(most.Load(), int64(1024*(anon+shared))))
			}
		}
	}()
	var logged strings.Builder
	log := testLog(&logged)
	strategies := u.Strategies(ctx, src, log)
	if strategies[0].Name != patch.ByPatch {
		t.Fatalf("by %s; logged %q", strategies[0].Name, logged.String())
	}
	// All files that the patch makes, and nothing written; then the upgrade.
	made, done, err := strategies[0].img(ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	for _, file := range img.Manifest.Files {
		r, err := made.OpenUnchecked(ctx, file.Name)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := digestOf(r); err != nil || got != file.Digest {
			t.Fatalf("%s: %s, %v", file.Name, got, err)
		}
		r.Close()
	}
	making := time.Since(start)
	done()
	start = time.Now()
	if _, err := u.BringBy(ctx, strategies[:1], log); err != nil || logged.Len() > 0 {
		t.Fatalf("%v; logged %q", err, logged.String())
	}
	b, err := json.Marshal(map[string]float64{
		"Seconds": time.Since(start).Seconds(), "Making": making.Seconds(), "MiB": float64(most.Load()) / 1024,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*slotOut, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
