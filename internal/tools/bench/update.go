package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// updated is what writing one slot took.
type updated struct {
	Seconds  float64 // from the first write to the end of the last flush
	Readback float64 // seconds of those that went into reading back
	Bytes    int64   // written
	MiB      float64 // held at most
}

// update measures an upgrade's writing: how much more is written than differs
// from what was there, how fast a slot is written that differs altogether,
// against dd of the same bytes with fsync, alone and with reading it back, and
// how much memory it takes; and
// how long a node takes from being armed to the commit.
func update(ctx context.Context, o options, figures map[string]float64) error {
	if _, _, err := command(ctx, ".", "go", "test", "-c", "-o", "build/updater.test", "./internal/device/updater"); err != nil {
		return err
	}
	if err := prepareBulk(ctx, o); err != nil {
		return err
	}
	dir := o.scratch
	if err := os.WriteFile(dir+"/files/opt/new", []byte(strings.Repeat("a new release\n", 5000)), 0o644); err != nil {
		return err
	}
	text := strings.Replace(fmt.Sprintf(bulkSpec, o.starter, o.bulk), `release: "1"`, `release: "2"`, 1)
	if err := os.WriteFile(dir+"/next.yaml", []byte(text), 0o644); err != nil {
		return err
	}
	if err := signedBuild(ctx, o, "next", "next.yaml"); err != nil {
		return err
	}
	server, err := filepath.Abs("build/tools/registry")
	if err != nil {
		return err
	}
	err = withRegistry(o, server, func(addr string) error {
		for _, from := range []string{"shipped", "next"} {
			if _, _, err := command(ctx, dir, publishArgs(o, addr+"/bench", from, "-q")...); err != nil {
				return err
			}
		}
		return updates(ctx, o, addr+"/bench", figures)
	})
	if err != nil {
		return err
	}
	return armToCommit(ctx, o, figures)
}

// upgradeOnce writes an image onto slot b of the card, in a process of its own:
// pikeletd's part of it is a program for nodes, so it is the test binary of
// that package which does it (internal/device/updater, BenchmarkSlotB).
func upgradeOnce(ctx context.Context, o options, ref string) (u updated, err error) {
	program, err := filepath.Abs("build/updater.test")
	if err != nil {
		return u, err
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", "^$", "-test.bench", "^BenchmarkSlotB$", "-test.benchtime", "1x",
		"-slot-card", "card", "-slot-ref", ref, "-slot-key", "ship.pub", "-slot-out", "slot.json")
	cmd.Dir = o.scratch
	cmd.Stderr = os.Stderr
	if out, err := cmd.Output(); err != nil {
		return u, fmt.Errorf("writing slot b: %w\n%s", err, out)
	}
	b, err := os.ReadFile(o.scratch + "/slot.json")
	if err != nil {
		return u, err
	}
	return u, json.Unmarshal(b, &u)
}

// updates measures what an upgrade writes, and how fast.
func updates(ctx context.Context, o options, ref string, figures map[string]float64) error {
	u, after, err := patchRelease(ctx, o, ref, figures)
	if err != nil {
		return err
	}
	return fullSlot(ctx, o, u.MiB, after, figures)
}

// patchRelease upgrades a card to release 1 and then to 2, in the same slot, and
// compares what the second wrote with what differs, byte by byte, on copies of
// the slot. It returns the second upgrade, and the slot after it.
func patchRelease(ctx context.Context, o options, ref string, figures map[string]float64) (u updated, after []byte, err error) {
	dir := o.scratch
	if err := vm.CopySparse(dir+"/shipped/disk.img", dir+"/card"); err != nil {
		return u, nil, err
	}
	if _, err := upgradeOnce(ctx, o, ref+":1"); err != nil {
		return u, nil, err
	}
	before, err := slotBytes(dir + "/card")
	if err != nil {
		return u, nil, err
	}
	u, err = upgradeOnce(ctx, o, ref+":2")
	if err != nil {
		return u, nil, err
	}
	after, err = slotBytes(dir + "/card")
	if err != nil {
		return u, nil, err
	}
	differ := 0
	for i := range before {
		if before[i] != after[i] {
			differ++
		}
	}
	figures["update_write_ratio"] = float64(u.Bytes) / float64(differ)
	o.log.Info("measured a patch release", "written_bytes", u.Bytes, "differing_bytes", differ, "peak_mib", u.MiB)
	return u, after, nil
}

// fullSlot measures an upgrade of a slot of noise, which differs altogether, and
// dd, which writes as many bytes over a file of noise.
func fullSlot(ctx context.Context, o options, peak float64, after []byte, figures map[string]float64) error {
	dir := o.scratch
	var u updated
	var slot, whole pair // written, as dd does; and read back too
	for i := range o.rounds {
		// Release 1 is there, and of its files no byte is left.
		other := func() error {
			if _, err := upgradeOnce(ctx, o, dir+"/shipped"); err != nil {
				return err
			}
			return noise(dir + "/card")
		}
		if err := other(); err != nil {
			return err
		}
		ours := func() error {
			w, err := upgradeOnce(ctx, o, dir+"/next")
			slot.ours, whole.ours = append(slot.ours, w.Seconds-w.Readback), append(whole.ours, w.Seconds)
			peak, u = max(peak, w.MiB), w
			return err
		}
		theirs := func() error {
			if err := fileOf(dir+"/slot", after[:min(int64(len(after)), u.Bytes)], i == 0); err != nil {
				return err
			}
			seconds, _, err := command(ctx, dir, "dd", "if=slot", "of=slot-copy", "bs=4M", "conv=fsync,notrunc", "status=none")
			slot.peers = append(slot.peers, seconds)
			return err
		}
		if i == 0 { // the first of ours tells dd how many bytes to write; the times of neither are kept
			if err := ours(); err != nil {
				return err
			}
			if err := theirs(); err != nil {
				return err
			}
			slot, whole = pair{}, pair{}
			if err := other(); err != nil {
				return err
			}
		}
		if err := ours(); err != nil {
			return err
		}
		if err := theirs(); err != nil {
			return err
		}
	}
	whole.peers = slot.peers
	o.log.Info("measured full slots", "bytes", u.Bytes, "written", slot, "written_and_read_back", whole)
	figures["update_throughput_ratio"], figures["update_peak_mib"] = 1/slot.ratio(), peak
	figures["update_verified_throughput_ratio"] = 1 / whole.ratio()
	return nil
}

// slotBytes returns what is on slot b.
func slotBytes(card string) ([]byte, error) {
	f, err := os.Open(card)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		return nil, err
	}
	p := table.Partitions[disk.SlotB-1]
	b := make([]byte, p.Size)
	_, err = f.ReadAt(b, p.Start)
	return b, err
}

// noise fills the files of slot b with bytes that no image has, and has them on
// the disk: an image of another stream would look like that.
func noise(card string) error {
	f, err := os.OpenFile(card, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	table, err := disk.ReadTable(f)
	if err != nil {
		return err
	}
	p := table.Partitions[disk.SlotB-1]
	v, err := fat.Open(io.NewSectionReader(f, p.Start, p.Size))
	if err != nil {
		return err
	}
	text, err := v.ReadFile(image.ManifestFile, image.MaxManifest)
	if err != nil {
		return err
	}
	m, err := image.DecodeManifest(text)
	if err != nil {
		return err
	}
	source := rand.NewChaCha8([32]byte{1})
	for _, file := range m.Files {
		_, runs, err := v.Extents(file.Name, file.Size)
		if err != nil {
			continue // the command lines of other slots
		}
		for _, r := range runs {
			if _, err := io.CopyN(io.NewOffsetWriter(f, p.Start+r.Offset), source, r.Size); err != nil {
				return err
			}
		}
	}
	return onDisk(f)
}

// onDisk has a file on the disk, and not in memory.
func onDisk(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// fileOf writes a file, and the first time another of the same size that is
// there to be written over, and has both on the disk and the second not in
// memory.
func fileOf(name string, b []byte, first bool) error {
	if err := os.WriteFile(name, b, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(name+"-copy", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if first {
		if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{2}), int64(len(b))); err != nil {
			return err
		}
	}
	unix.Sync()
	return onDisk(f)
}

// announced is what /init says it took, and preparing the node.
var announced = regexp.MustCompile(`\(trial\), root verified.*init took ([0-9.]+) s and preparing ([0-9.]+) s`)

// armToCommit measures a node from the moment it is armed and restarts to the
// commit, with a soak of 5 s, and what of that is ours: /init, preparing the
// node, and the time from then to the commit that is not the soak.
func armToCommit(ctx context.Context, o options, figures map[string]float64) error {
	spec, err := os.ReadFile("internal/testing/e2e/testdata/small.yaml")
	if err != nil {
		return err
	}
	build := func(name, text string) error {
		file := filepath.Join("internal/testing/e2e/testdata", "bench-"+name+".yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return err
		}
		defer os.Remove(file)
		_, _, err := command(ctx, ".", o.pikelet, "build", "-q", "--sign-key", o.scratch+"/ship.key", "-o", o.scratch+"/"+name, file)
		return err
	}
	soaked := strings.Replace(string(spec), `release: "1.2"`, "release: \"1.3\"\nhealth: {soak: 5s, deadline: 60s}", 1)
	if err := build("from", string(spec)); err != nil {
		return err
	}
	if err := build("to", soaked); err != nil {
		return err
	}
	var whole, ours []float64
	for range 3 {
		if err := vm.CopySparse(o.scratch+"/from/disk.img", o.scratch+"/card"); err != nil {
			return err
		}
		if err := armed(ctx, o); err != nil {
			return err
		}
		start := time.Now()
		m, err := vm.Start(ctx, vm.Options{Image: o.scratch + "/card", Machine: "virt", Request: vm.Request{Tryboot: true, Reset: true}})
		if err != nil {
			return err
		}
		err = m.Expect("release is committed: all checks held release=1.3")
		took := time.Since(start).Seconds()
		m.Close()
		if err != nil {
			return fmt.Errorf("%w\n%s", err, m.Output())
		}
		part := announced.FindStringSubmatch(m.Output())
		if part == nil {
			return fmt.Errorf("/init did not say what it took:\n%s", m.Output())
		}
		init, _ := strconv.ParseFloat(part[1], 64)
		prepare, _ := strconv.ParseFloat(part[2], 64)
		whole, ours = append(whole, took), append(ours, init+prepare+5)
	}
	o.log.Info("measured a tried release", "armed_to_committed_seconds", whole, "init_prepare_and_soak_seconds", ours)
	figures["arm_to_commit_seconds"], figures["arm_to_commit_ours_seconds"] = median(whole), median(ours)
	return nil
}

// armed leaves the card as an upgrade does that has just been armed.
func armed(ctx context.Context, o options) error {
	if _, err := upgradeOnce(ctx, o, o.scratch+"/to"); err != nil {
		return err
	}
	f, err := os.OpenFile(o.scratch+"/card", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	place, tag, err := registry.Locate(o.scratch+"/to", registry.Options{})
	if err != nil {
		return err
	}
	img, err := registry.Tagged(ctx, place, tag, "arm64")
	if err != nil {
		return err
	}
	return slots.ChangeCard(f, func(c *slots.Card) {
		c.Update = &slots.Update{Step: slots.Armed, Slot: slots.B, Digest: img.Digest, Release: "1.3"}
	})
}
