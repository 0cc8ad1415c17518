package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// ship measures publishing and pulling against crane, which moves the same
// blobs to and from the same registry on loopback, and flashing against dd of
// the blocks a card uses, with fsync.
func ship(ctx context.Context, o options, figures map[string]float64) error {
	if err := prepareBulk(ctx, o); err != nil {
		return err
	}
	var push, pull, card pair
	var verify []float64
	peak := 0.0
	for i := range o.rounds {
		seconds, err := shipOnce(ctx, o, i, &push, &pull)
		if err != nil {
			return err
		}
		peak = max(peak, seconds)
		compared, err := flashOnce(ctx, o, i, &card)
		if err != nil {
			return err
		}
		verify = append(verify, compared)
	}
	o.log.Info("measured shipping", "publish", push, "pull", pull, "flash_without_readback", card, "readback_seconds", verify)
	figures["publish_throughput_ratio"], figures["pull_throughput_ratio"] = 1/push.ratio(), 1/pull.ratio()
	figures["publish_peak_mib"] = peak
	figures["flash_throughput_ratio"], figures["flash_compare_seconds"] = 1/card.ratio(), median(verify)
	return nil
}

// prepareBulk builds the image of the build group, unless it is there.
func prepareBulk(ctx context.Context, o options) error {
	dir := o.scratch
	if err := os.MkdirAll(dir+"/files/opt", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/image.yaml", []byte(fmt.Sprintf(bulkSpec, o.starter, o.bulk)), 0o644); err != nil {
		return err
	}
	if err := makeKey(ctx, dir); err != nil {
		return err
	}
	if err := signedBuild(ctx, o, "shipped", "image.yaml"); err != nil {
		return err
	}
	return usedBlocks(dir)
}

// makeKey makes a key that signs images, ship.key and ship.pub.
func makeKey(ctx context.Context, dir string) error {
	generate := []string{"openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ship.key"}
	if _, _, err := command(ctx, dir, generate...); err != nil {
		return err
	}
	_, _, err := command(ctx, dir, "openssl", "pkey", "-in", "ship.key", "-pubout", "-out", "ship.pub")
	return err
}

// usedBlocks writes what a card uses one block behind the other: what dd
// copies.
func usedBlocks(dir string) error {
	b, err := os.ReadFile(dir + "/shipped/disk.img.bmap")
	if err != nil {
		return err
	}
	in, err := os.Open(dir + "/shipped/disk.img")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(dir + "/used")
	if err != nil {
		return err
	}
	defer out.Close()
	for _, line := range strings.Split(string(b), "\n") {
		_, rest, ok := strings.Cut(line, "<Range")
		if !ok {
			continue
		}
		_, rest, _ = strings.Cut(rest, ">")
		var first, last int64
		if n, _ := fmt.Sscanf(strings.TrimSpace(rest), "%d-%d", &first, &last); n == 1 {
			last = first
		}
		if _, err := in.Seek(first*4096, 0); err != nil {
			return err
		}
		buf := make([]byte, 1<<20)
		for left := (last - first + 1) * 4096; left > 0; {
			n, err := in.Read(buf[:min(left, int64(len(buf)))])
			if err != nil {
				return err
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
			left -= int64(n)
		}
	}
	return out.Close()
}

// measured is command that also returns how much memory the program held at
// most, in MiB.
func measured(ctx context.Context, dir string, args ...string) (seconds, mib float64, err error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return time.Since(start).Seconds(), float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024, nil
}

// shipOnce publishes and pulls once with each program, to and from registries
// of their own that are empty before. It returns the peak of publishing.
func shipOnce(ctx context.Context, o options, round int, push, pull *pair) (peak float64, err error) {
	crane, err := filepath.Abs("build/tools/crane")
	if err != nil {
		return 0, err
	}
	server, err := filepath.Abs("build/tools/registry")
	if err != nil {
		return 0, err
	}
	ours := func() error {
		return withRegistry(o, server, func(addr string) error {
			seconds, mib, err := measured(ctx, o.scratch, publishArgs(o, addr+"/bench", "shipped", "-q")...)
			if err != nil {
				return err
			}
			push.ours, peak = append(push.ours, seconds), mib
			seconds, _, err = measured(ctx, o.scratch, o.pikelet, "pull", "-q", addr+"/bench:1", "--plain-http", "--key", "ship.pub",
				"--as", "layout", "-o", "pulled")
			pull.ours = append(pull.ours, seconds)
			return errors.Join(err, remove(o.scratch+"/pulled"))
		})
	}
	theirs := func() error {
		return withRegistry(o, server, func(addr string) error {
			seconds, _, err := measured(ctx, o.scratch, crane, "push", "--insecure", "--index", "shipped/artifact", addr+"/bench:1")
			if err != nil {
				return err
			}
			push.peers = append(push.peers, seconds)
			seconds, _, err = measured(ctx, o.scratch, crane, "pull", "--insecure", "--format", "oci", addr+"/bench:1", "pulled")
			pull.peers = append(pull.peers, seconds)
			return errors.Join(err, remove(o.scratch+"/pulled"))
		})
	}
	if round%2 == 1 {
		ours, theirs = theirs, ours
	}
	return peak, errors.Join(ours(), theirs())
}

func remove(name string) error {
	if err := os.RemoveAll(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func withRegistry(o options, server string, use func(addr string) error) error {
	dir, err := os.MkdirTemp(o.scratch, "registry-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := registrytest.Start(server, dir, registrytest.Options{})
	if err != nil {
		return err
	}
	defer s.Stop()
	return use(s.Addr)
}

// flashOnce flashes onto a file, and has dd write the same blocks onto
// another; every second time the other way round. Both files are there and
// were written before, as the blocks of a card are: what a filesystem and the
// disk below it take for new blocks is counted for neither. It returns how long
// reading back took.
func flashOnce(ctx context.Context, o options, round int, card *pair) (compared float64, err error) {
	copyBlocks := []string{"dd", "if=used", "of=copy", "bs=4M", "conv=fsync,notrunc", "status=none"}
	if round == 0 {
		for _, args := range [][]string{{o.pikelet, "flash", "--quiet", "--yes", "shipped", "card"}, copyBlocks} {
			if _, _, err := command(ctx, o.scratch, args...); err != nil {
				return 0, err
			}
		}
	}
	// What was written before is not counted either; and no block of a card
	// that is put in is in memory: pikelet drops them to read back, dd would
	// find its own.
	fresh := func() error {
		if _, _, err := command(ctx, o.scratch, "sync"); err != nil {
			return err
		}
		_, _, err := command(ctx, o.scratch, "dd", "if=copy", "iflag=nocache", "count=0", "status=none")
		return err
	}
	ours := func() error {
		if err := fresh(); err != nil {
			return err
		}
		_, said, err := command(ctx, o.scratch, o.pikelet, "flash", "--json", "--yes", "shipped", "card")
		if err != nil {
			return err
		}
		var last struct {
			Result struct{ WriteSeconds, CompareSeconds float64 }
		}
		lines := strings.Split(strings.TrimSpace(said), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
			return err
		}
		card.ours, compared = append(card.ours, last.Result.WriteSeconds), last.Result.CompareSeconds
		return nil
	}
	theirs := func() error {
		if err := fresh(); err != nil {
			return err
		}
		seconds, _, err := command(ctx, o.scratch, copyBlocks...)
		card.peers = append(card.peers, seconds)
		return err
	}
	if round%2 == 1 {
		err = errors.Join(theirs(), ours())
		return compared, err
	}
	err = errors.Join(ours(), theirs())
	return compared, err
}
