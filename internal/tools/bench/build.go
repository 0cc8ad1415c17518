package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// bulkSpec is an image that weighs what a node of k3s does.
const bulkSpec = `name: bench
release: "1"
boards: [rpi4, vm]
repositories:
  - {url: %[1]s, keys: [%[1]s/starter.rsa.pub]}
  - {url: %[2]s, keys: [%[2]s/starter.rsa.pub]}
packages: [alpine-base, raspberrypi-bootloader, e2fsprogs, containerd, docker, prometheus, podman, git,
  vim-runtime, perl-modules, python3, airgap-images]
layers: [{folder: files}]
slot-size: 512MiB
`

// builds measures whole builds against the tools they stand for, the root's
// writer against mksquashfs on the files of that very image, and a rebuild
// after one change against the build before it.
func builds(ctx context.Context, o options, figures map[string]float64) error {
	dir := o.scratch
	if err := os.MkdirAll(dir+"/files/opt", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(dir+"/image.yaml", []byte(fmt.Sprintf(bulkSpec, o.starter, o.bulk)), 0o644); err != nil {
		return err
	}
	change := func(n int) error {
		return os.WriteFile(dir+"/files/opt/app", []byte(strings.Repeat(fmt.Sprintln("version", n), 100+n)), 0o755)
	}
	var whole, full pair // full.ours: without the compressed disk image
	var again []float64
	for i := range o.rounds {
		if err := change(2 * i); err != nil {
			return err
		}
		ours, err := ourBuild(ctx, o, "cache", "--zst")
		if err != nil {
			return err
		}
		theirs, err := peerBuild(ctx, o)
		if err != nil {
			return err
		}
		whole.ours, whole.peers = append(whole.ours, ours), append(whole.peers, theirs)
		plain, err := ourBuild(ctx, o, "cache")
		if err != nil {
			return err
		}
		full.ours = append(full.ours, plain)
		if err := change(2*i + 1); err != nil {
			return err
		}
		rebuilt, err := build(ctx, o, dir, "--cache", "cache", "-o", "out", "image.yaml")
		if err != nil {
			return err
		}
		again = append(again, rebuilt)
	}
	o.log.Info("measured builds", "build", whole, "full_seconds", full.ours, "rebuild_seconds", again)
	figures["build_time_ratio"] = whole.ratio()
	figures["rebuild_ratio"] = median(again) / median(full.ours)
	figures["build_seconds"], figures["rebuild_seconds"] = median(full.ours), median(again)
	return squashes(ctx, o, figures)
}

// ourBuild builds with nothing derived: the packages are in a directory, checked
// while they are read.
func ourBuild(ctx context.Context, o options, cache string, flags ...string) (float64, error) {
	for _, name := range []string{cache, "out"} {
		if err := os.RemoveAll(filepath.Join(o.scratch, name)); err != nil {
			return 0, err
		}
	}
	return build(ctx, o, o.scratch, append(flags, "--cache", cache, "-o", "out", "image.yaml")...)
}

// peerBuild does with other people's tools what a build does, as far as there
// are tools: unpack, pack, hash, lay out a card with two slots, compress. It
// neither solves nor checks, and makes no initramfs.
func peerBuild(ctx context.Context, o options) (float64, error) {
	dir := filepath.Join(o.scratch, "peer")
	if err := os.RemoveAll(dir); err != nil {
		return 0, err
	}
	if err := os.MkdirAll(dir+"/root", 0o755); err != nil {
		return 0, err
	}
	files, err := packageFiles(o)
	if err != nil {
		return 0, err
	}
	const slot, first, second = 512 << 10, 139264, 139264 + 1<<20 // KiB, sectors, sectors
	steps := [][]string{}
	for _, f := range files {
		steps = append(steps, []string{"tar", "-xzf", f, "-C", "root", "--warning=none", "--exclude=.PKGINFO", "--exclude=.SIGN*"})
	}
	partitions := fmt.Sprintf("label: dos\nstart=2048,size=131072,type=c\nstart=%d,size=1048576,type=c\nstart=%d,size=1048576,type=c\n",
		first, second)
	steps = append(steps,
		mksquashfs("root.squashfs", "-e", "boot"),
		[]string{"sh", "-c", "veritysetup format --no-superblock --salt=00 root.squashfs root.hash >root.txt && cat root.hash >>root.squashfs"},
		[]string{"truncate", "-s", "1200M", "disk.img"},
		[]string{"sh", "-c", "printf '" + partitions + "' | sfdisk -q disk.img"})
	for _, start := range []int{first, second} {
		steps = append(steps,
			[]string{"mkfs.vfat", "-F", "32", fmt.Sprintf("--offset=%d", start), "disk.img", fmt.Sprint(slot)},
			[]string{"sh", "-c", fmt.Sprintf("mcopy -s -i disk.img@@%d root/boot/* root.squashfs ::", start*512)})
	}
	steps = append(steps, []string{"zstd", "-q", "-3", "-T0", "disk.img", "-o", "disk.img.zst"})
	total := 0.0
	for _, step := range steps {
		seconds, _, err := command(ctx, dir, step...)
		if err != nil {
			return 0, err
		}
		total += seconds
	}
	return total, nil
}

// mksquashfs returns the command that packs the directory root as our writer
// does: with zstd, in blocks of 256 KiB, on all cores.
func mksquashfs(file string, more ...string) []string {
	return append([]string{"mksquashfs", "root", file, "-comp", "zstd", "-Xcompression-level", "3", "-b", "256K",
		"-noappend", "-quiet", "-no-progress", "-processors", fmt.Sprint(runtime.GOMAXPROCS(0))}, more...)
}

// packageFiles finds the files of the packages that our build of the same
// image chose, as its plan lists them.
func packageFiles(o options) ([]string, error) {
	plan, err := os.ReadFile(filepath.Join(o.scratch, "out", "plan.txt"))
	if err != nil {
		return nil, err
	}
	_, list, found := strings.Cut(string(plan), "\npackages\n")
	if !found {
		return nil, fmt.Errorf("the plan lists no packages: %w", errMissing)
	}
	var files []string
	for _, line := range strings.Split(strings.TrimSpace(list), "\n") {
		f := strings.Fields(line)
		name := ""
		for _, repository := range []string{o.starter, o.bulk} {
			try := filepath.Join(repository, "aarch64", f[0]+"-"+f[1]+".apk")
			if _, err := os.Stat(try); err == nil {
				name = try
			}
		}
		if name == "" {
			return nil, fmt.Errorf("no repository has %s %s: %w", f[0], f[1], errMissing)
		}
		files = append(files, name)
	}
	return files, nil
}
