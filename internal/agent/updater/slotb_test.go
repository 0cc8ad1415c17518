package updater

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"flag"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/artifact/registry"
	"github.com/pikelet-os/pikelet/internal/disk"
	"github.com/pikelet-os/pikelet/internal/slots"
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
	text, err := os.ReadFile(*slotKey)
	if err != nil {
		t.Fatal(err)
	}
	k, err := artifact.ParsePublicKey(text)
	if err != nil {
		t.Fatal(err)
	}
	place, tag, err := registry.Locate(*slotRef, registry.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	img, err := registry.Open(ctx, place, tag, registry.Want{Keys: []*ecdsa.PublicKey{k}, Arch: "arm64"})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := img.Signature()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(*slotCard, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		t.Fatal(err)
	}
	c := &timed{File: f}
	image := slots.Image{Manifest: img.Manifest, Text: img.Text, Signature: signature, Digest: img.Digest, Open: img.OpenUnchecked}
	if _, err := WriteSlot(ctx, c, image, slots.B, table.Partitions[disk.SlotB-1]); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	// Not what getrusage says: that begins with what the parent held.
	peak := regexp.MustCompile(`VmHWM:\s+([0-9]+) kB`).FindSubmatch(status)
	if peak == nil {
		t.Fatal("/proc/self/status does not say VmHWM")
	}
	kib, err := strconv.ParseFloat(string(peak[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]float64{"Seconds": c.last.Sub(c.first).Seconds(), "Readback": c.readback.Seconds(), "Bytes": float64(c.bytes), "MiB": kib / 1024})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*slotOut, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
