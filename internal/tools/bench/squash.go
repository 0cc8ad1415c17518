package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// squashes compares the root's writer with mksquashfs on the files that
// peerBuild left unpacked.
func squashes(ctx context.Context, o options, figures map[string]float64) error {
	dir := filepath.Join(o.scratch, "peer")
	if err := os.RemoveAll(dir + "/root/boot"); err != nil {
		return err
	}
	size := int64(0)
	err := filepath.WalkDir(dir+"/root", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			size += st.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	if size < 400<<20 {
		return fmt.Errorf("the tree has %d MiB, and figures are of 400 or more", size>>20)
	}
	cold, peaks, err := squashRounds(ctx, o, dir, func() error { return nil })
	if err != nil {
		return err
	}
	warm, _, err := squashRounds(ctx, o, dir, warmUp)
	if err != nil {
		return err
	}
	a, err := os.Stat(dir + "/ours.squashfs")
	if err != nil {
		return err
	}
	b, err := os.Stat(dir + "/theirs.squashfs")
	if err != nil {
		return err
	}
	o.log.Info("measured squashfs writers", "tree_mib", size>>20, "times", cold, "memory_touched_before", warm,
		"bytes", a.Size(), "peer_bytes", b.Size())
	figures["squashfs_time_ratio"] = cold.ratio()
	figures["squashfs_time_ratio_warm"] = warm.ratio()
	figures["squashfs_size_ratio"] = float64(a.Size()) / float64(b.Size())
	figures["squashfs_peak_mib"] = median(peaks)
	figures["squashfs_tree_mib"] = float64(size) / (1 << 20)
	return nil
}

// squashRounds measures both in turns, ours first, each after before. It
// returns their times and the most memory that ours held, in MiB.
func squashRounds(ctx context.Context, o options, dir string, before func() error) (times pair, peaks []float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return times, nil, err
	}
	round := func(image string, args ...string) (seconds float64, said string, err error) {
		// ext4 writes out what replaces a file when it is closed.
		if err := os.Remove(filepath.Join(dir, image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, "", err
		}
		if err := before(); err != nil {
			return 0, "", err
		}
		return command(ctx, dir, args...)
	}
	for range o.rounds {
		ours, said, err := round("ours.squashfs", self, "-squash", "root", "-o", "ours.squashfs")
		if err != nil {
			return times, nil, err
		}
		kib, err := strconv.ParseFloat(strings.TrimSpace(said), 64)
		if err != nil {
			return times, nil, err
		}
		theirs, _, err := round("theirs.squashfs", mksquashfs("theirs.squashfs")...)
		if err != nil {
			return times, nil, err
		}
		times.ours, times.peers, peaks = append(times.ours, ours), append(times.peers, theirs), append(peaks, kib/1024)
	}
	return times, peaks, nil
}

// warmUp lets the machine's host back as much memory as either side takes,
// 1 GiB, and writes out what earlier runs left to be written. On a virtual
// machine that gives unused memory back, whoever takes it next waits for it;
// mksquashfs takes the more.
func warmUp() error {
	unix.Sync()
	b, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("touching memory: %w", err)
	}
	for i := 0; i < len(b); i += os.Getpagesize() {
		b[i] = 1
	}
	return unix.Munmap(b)
}

// squash packs a directory as the builder's writer does: what mksquashfs reads,
// it reads.
func squash(dir, image string) error {
	var entries []squashfs.Entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if st.Mode()&fs.ModeSymlink != 0 {
			if link, err = os.Readlink(p); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(st, link)
		if err != nil {
			return err
		}
		if h.Name, err = filepath.Rel(dir, p); err != nil {
			return err
		}
		entries = append(entries, squashfs.Entry{Header: h, Open: func() (io.ReadCloser, error) { return os.Open(p) }})
		return nil
	})
	if err != nil {
		return err
	}
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := squashfs.Write(f, entries, squashfs.Options{Time: time.Unix(1, 0), Workers: runtime.GOMAXPROCS(0)}); err != nil {
		return err
	}
	status, err := os.ReadFile("/proc/self/status")
	found := highWater.FindSubmatch(status)
	if err != nil || found == nil {
		return fmt.Errorf("reading how much memory it took: %w", errors.Join(err, errMissing))
	}
	fmt.Printf("%s\n", found[1])
	return nil
}

// highWater is the most memory a process held at once, in KiB. What wait4 says
// of a child will not do: it counts its parent's memory too, from before exec.
var highWater = regexp.MustCompile(`VmHWM:\s+([0-9]+) kB`)
