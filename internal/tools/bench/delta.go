package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/delta"
	"github.com/pikelet-os/pikelet/internal/testing/registrytest"
)

// patched is what publishing said of a release's patches.
type patched struct {
	Result struct {
		Patches []struct {
			From         string
			Bytes, Whole int64
		}
	}
}

// deltas measures an upgrade by a patch: a patch release of a large Kubernetes
// program, and of a few of Debian's packages, in an image that weighs what a
// node's does. The peers are Debian's bsdiff for the program, and casync's
// chunks of 64 KiB for the image.
func deltas(ctx context.Context, o options, figures map[string]float64) error {
	if err := programAlone(ctx, o, figures); err != nil {
		return err
	}
	dir := o.scratch
	if err := makeKey(ctx, dir); err != nil {
		return err
	}
	for i, version := range [][2]string{{"old", o.large + "/" + largeOld}, {"new", o.large + "/" + largeNew}} {
		files := fmt.Sprintf("%s/large-%d", dir, i+1)
		if _, _, err := command(ctx, dir, "cp", "-a", filepath.Join(o.large, "debs", version[0]), files); err != nil {
			return err
		}
		if err := os.MkdirAll(files+"/usr/bin", 0o755); err != nil {
			return err
		}
		if _, _, err := command(ctx, dir, "cp", version[1], files+"/usr/bin/k3s"); err != nil {
			return err
		}
		text := strings.NewReplacer(`release: "1"`, fmt.Sprintf("release: \"%d\"", i+1),
			"{folder: files}", fmt.Sprintf("{folder: large-%d}", i+1), "512MiB", "1GiB").
			Replace(fmt.Sprintf(bulkSpec, o.starter, o.bulk))
		spec := fmt.Sprintf("large-%d.yaml", i+1)
		if err := os.WriteFile(filepath.Join(dir, spec), []byte(text), 0o644); err != nil {
			return err
		}
		if err := signedBuild(ctx, o, fmt.Sprintf("large%d", i+1), spec); err != nil {
			return err
		}
	}
	server, err := filepath.Abs("build/tools/registry")
	if err != nil {
		return err
	}
	data := dir + "/registry-of-patches"
	if err := os.Mkdir(data, 0o755); err != nil {
		return err
	}
	s, err := registrytest.Start(server, data, registrytest.Options{})
	if err != nil {
		return err
	}
	defer s.Stop()
	patch, err := publishBoth(ctx, o, s.Addr+"/bench", data, figures)
	if err != nil {
		return err
	}
	chunks, err := newChunks(ctx, o)
	if err != nil {
		return err
	}
	figures["delta_vs_chunks_ratio"] = float64(patch) / float64(chunks)
	o.log.Info("measured an upgrade by patch", "patch_bytes", patch, "peer_chunk_bytes", chunks)
	return applied(ctx, o, s.Addr+"/bench", figures)
}

// The versions of Kubernetes that the large program is built of.
const largeOld, largeNew = "1.34.3", "1.34.4"

// programAlone compares a patch of the program with bsdiff's.
func programAlone(ctx context.Context, o options, figures map[string]float64) error {
	old, err := os.ReadFile(o.large + "/" + largeOld)
	if err != nil {
		return err
	}
	new, err := os.ReadFile(o.large + "/" + largeNew)
	if err != nil {
		return err
	}
	ours, err := delta.Make(old, new)
	if err != nil {
		return err
	}
	seconds, _, err := command(ctx, o.scratch, "bsdiff", o.large+"/"+largeOld, o.large+"/"+largeNew, "program.bsdiff")
	if err != nil {
		return err
	}
	st, err := os.Stat(o.scratch + "/program.bsdiff")
	if err != nil {
		return err
	}
	figures["delta_vs_bsdiff_ratio"] = float64(len(ours)) / float64(st.Size())
	o.log.Info("measured a patch of one program", "program_bytes", len(new), "patch_bytes", len(ours),
		"bsdiff_bytes", st.Size(), "bsdiff_seconds", seconds)
	return nil
}

// publishBoth publishes both releases, the second with a patch for the first,
// and returns the bytes of all that the patch is in the registry.
func publishBoth(ctx context.Context, o options, repo, data string, figures map[string]float64) (int64, error) {
	publish := func(n string, more ...string) []string {
		return publishArgs(o, repo, n, append([]string{"--json", "--sign-key", "ship.key"}, more...)...)
	}
	// Without patches first: what making them takes is told from sending the
	// image.
	for _, n := range []string{"large1", "large2"} {
		if _, _, err := command(ctx, o.scratch, publish(n, "--from", "0")...); err != nil {
			return 0, err
		}
	}
	before, err := sizeOf(data)
	if err != nil {
		return 0, err
	}
	args := publish("large2")
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stderr = o.scratch, os.Stderr
	start := time.Now()
	out, err := cmd.Output()
	if err != nil {
		return 0, err
	}
	figures["delta_make_seconds"] = time.Since(start).Seconds()
	figures["delta_make_mib"] = float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024
	var said patched
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &said); err != nil || len(said.Result.Patches) != 1 {
		return 0, fmt.Errorf("publishing said %s: %w", out, err)
	}
	after, err := sizeOf(data)
	if err != nil {
		return 0, err
	}
	p := said.Result.Patches[0]
	all := after - before // the patch, its manifest, its signature and that's manifest, and the registry's own links
	figures["delta_image_ratio"] = float64(all) / float64(p.Whole)
	o.log.Info("published a patch", "bytes", p.Bytes, "bytes_in_registry", all, "image_bytes", p.Whole)
	return all, nil
}

// sizeOf returns the bytes of all files below a directory.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			n += i.Size()
		}
		return err
	})
	return n, err
}

// newChunks returns the bytes of the chunks, compressed, that the second root
// has and the first has not.
func newChunks(ctx context.Context, o options) (int64, error) {
	var sizes []int64
	for i := range 2 {
		root, err := largestOf(o.scratch + fmt.Sprintf("/large%d", i+1))
		if err != nil {
			return 0, err
		}
		chunks := []string{"casync", "make", "--chunk-size=16384:65536:262144", "--compression=zstd", "--store=chunks.castr"}
		if _, _, err := command(ctx, o.scratch, append(chunks, fmt.Sprintf("root%d.caibx", i+1), root)...); err != nil {
			return 0, err
		}
		n, err := sizeOf(o.scratch + "/chunks.castr")
		if err != nil {
			return 0, err
		}
		sizes = append(sizes, n)
	}
	return sizes[1] - sizes[0], nil
}

// largestOf returns the file of a build's root: its largest.
func largestOf(build string) (name string, err error) {
	var most int64
	err = filepath.WalkDir(build+"/artifact/blobs", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil && i.Size() > most {
			most, name = i.Size(), p
		}
		return err
	})
	return name, err
}

// applied measures what a node does: on a card that runs the first release, one
// core brings the second by its patch.
func applied(ctx context.Context, o options, repo string, figures map[string]float64) error {
	if _, _, err := command(ctx, ".", "go", "test", "-c", "-o", "build/updater.test", "./internal/device/updater"); err != nil {
		return err
	}
	program, err := filepath.Abs("build/updater.test")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "taskset", "-c", "0", program,
		"-test.run", "^$", "-test.bench", "^BenchmarkByPatch$", "-test.benchtime", "1x",
		"-slot-card", "large1/disk.img", "-slot-ref", repo+":2", "-slot-key", "ship.pub", "-slot-out", "patch.json")
	cmd.Dir = o.scratch
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("applying the patch: %w\n%s", err, out)
	}
	b, err := os.ReadFile(o.scratch + "/patch.json")
	if err != nil {
		return err
	}
	var u struct{ Seconds, Making, MiB float64 }
	if err := json.Unmarshal(b, &u); err != nil {
		return err
	}
	figures["delta_apply_seconds"], figures["delta_apply_mib"] = u.Making, u.MiB
	o.log.Info("upgraded a card by patch", "making_seconds", u.Making, "seconds", u.Seconds, "peak_mib", u.MiB)
	return nil
}
