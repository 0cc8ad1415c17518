package upgrade

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/device/agent/mounts"
	"github.com/pikelet-os/pikelet/internal/device/updater"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// sourceOf returns the source of a published image, with a patch where one is
// signed for the image that runs.
func sourceOf(ctx context.Context, published *registry.Published, b updater.Boot, log *slog.Logger) updater.Source {
	src := updater.Source{Image: published.Image, Scratch: scratch, Part: func(ctx context.Context, at, n int64) (io.ReadCloser, error) {
		return published.OpenPart(ctx, image.RootFile, at, n)
	}}
	p, err := registry.FindPatch(ctx, published, b.Digest, b.Keys)
	if err != nil {
		log.Warn("looking for a patch", "err", err)
	}
	if p != nil {
		src.Patch, src.OpenPatch = &p.Patch, p.Open
	}
	return src
}

// scratch makes a file without a name where there is room for so many bytes: on
// state, on the volume, or else in memory where enough is available.
func scratch(size int64) (*os.File, error) {
	problem := errors.New("no local store is mounted")
	for _, dir := range []string{node.StateDir, node.VolumeDir} {
		var st unix.Statfs_t
		if !mounts.Mounted(dir) || unix.Statfs(dir, &st) != nil {
			continue
		}
		if free := int64(st.Bavail) * st.Bsize; free < size+spare {
			problem = fmt.Errorf("too little space on %s: got %s, want %s", dir, megabytes(free), megabytes(size+spare))
			continue
		}
		return patch.Scratch(dir)
	}
	if memory := available(); memory < memoryPer*size {
		return nil, fmt.Errorf("%w, and too little memory is available: got %s, want %s", problem, megabytes(memory), megabytes(memoryPer*size))
	}
	return patch.Scratch("/run")
}

// spare is what stays free of a store, bytes; memoryPer how many times as much
// memory must be available as is taken of it.
const (
	spare     = 1 << 20
	memoryPer = 4
)

// available returns how much memory programs can have before the kernel swaps
// or kills, bytes (proc_meminfo(5): MemAvailable).
func available() (n int64) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &n); err == nil {
			return n << 10
		}
	}
	return 0
}

// megabytes says how many bytes something has, for people.
func megabytes(n int64) string {
	if n < 1e6 {
		return fmt.Sprintf("%d kB", (n+999)/1000)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}

// sparing has the program spare memory until what it returns is called: half as
// much garbage as is in use, and less where it comes to buildMemory. A root is
// written on machines with 512 MiB.
func sparing() func() {
	percent, limit := debug.SetGCPercent(sparingPercent), debug.SetMemoryLimit(buildMemory)
	return func() {
		debug.SetGCPercent(percent)
		debug.SetMemoryLimit(limit)
	}
}

// buildMemory is what the program should stay below while it makes a root, bytes
// (docs/decisions/0011-delta.md: delta_apply_mib).
const (
	buildMemory    = 48 << 20
	sparingPercent = 50
)

// describe returns how a strategy obtains an image, and what that takes.
func describe(s updater.Strategy, img *registry.Published) string {
	all := int64(0)
	for _, f := range img.Files {
		all += f.Size
	}
	seconds := float64(s.Fetch) / patch.LinkRate
	if s.Work > 0 {
		seconds += float64(s.Work) / packRate()
	}
	return fmt.Sprintf("by %s: %s of %s, about %.0f s before it is written (at 100 Mbit/s)",
		s.Name, megabytes(s.Fetch), megabytes(all), seconds+0.5)
}

// packRate measures how many bytes a second this machine compresses as roots
// are.
func packRate() float64 {
	const blocks = 4
	c := squashfs.Fast()
	enc, err := c.NewEncoder()
	if err != nil {
		return patch.LinkRate
	}
	defer enc.Close()
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return patch.LinkRate
	}
	defer f.Close()
	b := make([]byte, blocks*c.BlockSize)
	if _, err := f.ReadAt(b, 0); err != nil {
		return patch.LinkRate
	}
	start := time.Now()
	for i := range blocks {
		if _, _, err := enc.Encode(i, b[i*c.BlockSize:(i+1)*c.BlockSize], nil); err != nil {
			return patch.LinkRate
		}
	}
	return float64(blocks*c.BlockSize) / max(time.Since(start).Seconds(), 1e-6)
}
