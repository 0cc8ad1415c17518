package builder

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/initrd"
	"github.com/pikelet-os/pikelet/internal/shared/recompress"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/kmod"
)

// bootFiles is what lies in a slot beside the root.
type bootFiles struct {
	Files    map[string][]byte
	Modules  []string // of the initramfs, in the order they are loaded
	Warnings []Warning

	digests map[string]string // of Files
}

// makeBootFiles makes everything in a slot beside the root: kernel, device trees,
// firmware, initramfs, config.txt and the kernel command line of each slot.
func makeBootFiles(p *Plan, t *layers.Tree, k *kernel, c *contents) (*bootFiles, error) {
	b := &bootFiles{Files: map[string][]byte{}}
	list, err := boardList(p.Image)
	if err != nil {
		return nil, err
	}
	if b.Files[image.KernelFile], err = kernelImage(t, k, c); err != nil {
		return nil, err
	}
	if err := b.addKernelConfig(t, k, c); err != nil {
		return nil, err
	}
	for _, board := range list {
		if err := b.addBoard(t, k, board); err != nil {
			return nil, err
		}
	}
	for _, e := range t.Below("boot/overlays") {
		if e.Typeflag != tar.TypeReg {
			continue
		}
		if b.Files["overlays/"+path.Base(e.Name)], err = t.ReadFile(e.Name, maxBootFile); err != nil {
			return nil, err
		}
	}
	if b.Files[image.ConfigFile], err = configTxt(p.Image, list, b.Files); err != nil {
		return nil, err
	}
	for _, l := range []slots.Letter{slots.A, slots.B, slots.Net} {
		b.Files[l.CmdlineFile()] = cmdline.Encode(l, p.Words)
	}
	if b.Files[image.InitramfsFile], err = b.initramfs(p, t, k, list, c); err != nil {
		return nil, err
	}
	b.digests = map[string]string{}
	for name, file := range b.Files {
		b.digests[name] = image.DigestOf(file)
	}
	return b, nil
}

// maxBootFile bounds device trees and firmware; start_x.elf has 4 MB.
const maxBootFile = 32 << 20

func boardList(img *spec.Image) ([]boards.Board, error) {
	var list []boards.Board
	for _, name := range img.Boards {
		b, err := boards.Find(name)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	return list, nil
}

// kernelImage returns the kernel, gzipped: the firmware unpacks it
// (docs/platform.md 1.3), and a third of the bytes cross a network boot's TFTP.
func kernelImage(t *layers.Tree, k *kernel, c *contents) ([]byte, error) {
	return gzipped(t, k.Image, maxKernel, c)
}

// gzipForm is how what the firmware unpacks is gzipped: so that nodes can do it
// again, when a patch changes what is in it.
func gzipForm(c squashfs.Compression) recompress.Form {
	if c.Name == squashfs.Small().Name {
		return recompress.GzipSmall
	}
	return recompress.Gzip
}

// gzipped returns a file of the tree, gzipped by us, whoever did it before.
func gzipped(t *layers.Tree, name string, limit int64, c *contents) ([]byte, error) {
	e := t.Lookup(name)
	if e == nil || e.Content == nil {
		return nil, fmt.Errorf("the tree has no file %q", name)
	}
	return c.blob(c.key("gzip", recompress.Generation, e.Content.Sum), func() ([]byte, error) {
		b, err := t.ReadFile(name, limit)
		if err != nil {
			return nil, err
		}
		if bytes.HasPrefix(b, []byte{0x1f, 0x8b}) {
			r, err := recompress.NewReader(bytes.NewReader(b), recompress.Gzip, maxUngzipped)
			if err != nil {
				return nil, fmt.Errorf("unpacking %s: %w", name, err)
			}
			if b, err = io.ReadAll(r); err != nil {
				return nil, fmt.Errorf("unpacking %s: %w", name, err)
			}
		}
		return recompress.Compress(b, gzipForm(c.pool.Compression))
	})
}

// maxUngzipped bounds a kernel, bytes: Debian's for arm64 has 38 MB.
const maxUngzipped = 512 << 20

// addKernelConfig puts the kernel's options into the slot, where its package
// ships them: whoever holds a card can see what its kernel can do.
func (b *bootFiles) addKernelConfig(t *layers.Tree, k *kernel, c *contents) error {
	name := k.configFile()
	if t.Lookup(name) == nil {
		return nil
	}
	var err error
	b.Files[image.KernelConfigFile], err = gzipped(t, name, maxBootFile, c)
	return err
}

func (b *bootFiles) addBoard(t *layers.Tree, k *kernel, board boards.Board) error {
	take := func(name string) (found bool, err error) {
		data, err := t.ReadFile("boot/"+name, maxBootFile)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err == nil {
			b.Files[name] = data
		}
		return true, err
	}
	for i, name := range board.DTBs {
		switch found, err := take(name); {
		case err != nil:
			return err
		case !found && i == 0:
			return fmt.Errorf("board %s: package %s has no device tree %s", board.Name, k.Package, name)
		}
	}
	for _, name := range board.Firmware {
		switch found, err := take(name); {
		case err != nil:
			return err
		case !found:
			return hint.With(fmt.Errorf("board %s: no package has the firmware /boot/%s", board.Name, name),
				"add raspberrypi-bootloader to packages")
		}
	}
	if board.Bootcode {
		switch found, err := take(slots.BootcodeFile); {
		case err != nil:
			return err
		case !found:
			return hint.With(fmt.Errorf("board %s: no package has /boot/%s", board.Name, slots.BootcodeFile),
				"add raspberrypi-bootloader-common to packages")
		}
		if !bytes.Contains(b.Files[slots.BootcodeFile], []byte(boards.TrybootMark)) {
			err := fmt.Errorf("board %s: bootcode.bin does not support %s, so upgrades could not be tried", board.Name, boards.TrybootMark)
			return hint.With(err, "use raspberrypi-bootloader-common of Alpine 3.20 or newer")
		}
	}
	return nil
}

// configTxt writes config.txt, the same in both slots.
func configTxt(img *spec.Image, list []boards.Board, files map[string][]byte) ([]byte, error) {
	var w bytes.Buffer
	add := func(what string, cfg spec.Config) error {
		for _, l := range cfg.Lines {
			w.WriteString(l + "\n")
		}
		for _, o := range cfg.Overlays {
			name, _, _ := strings.Cut(o, ",")
			if files["overlays/"+name+".dtbo"] == nil {
				return fmt.Errorf("config.%s.overlays: no package has /boot/overlays/%s.dtbo", what, name)
			}
			w.WriteString("dtoverlay=" + o + "\n")
		}
		return nil
	}
	w.WriteString("# Written by pikelet build. Change the image spec instead of this file.\n[all]\n" +
		"arm_64bit=1\nenable_uart=1\nkernel=" + image.KernelFile + "\ninitramfs " + image.InitramfsFile + " followkernel\n")
	if watchdogSeconds(img) != 0 {
		fmt.Fprintf(&w, "kernel_watchdog_timeout=%d\n", kernelWatchdog)
	}
	if err := add("all", img.Config["all"]); err != nil {
		return nil, err
	}
	for _, b := range list {
		cfg := img.Config[b.Name]
		cfg.Lines = append(append([]string(nil), b.Config...), cfg.Lines...)
		if len(cfg.Lines)+len(cfg.Overlays) == 0 {
			continue
		}
		if b.Filter == "" {
			return nil, fmt.Errorf("config.%s: the firmware has no section for this board; use all", b.Name)
		}
		w.WriteString("[" + b.Filter + "]\n")
		if err := add(b.Name, cfg); err != nil {
			return nil, err
		}
		w.WriteString("[all]\n")
	}
	return w.Bytes(), nil
}

// kernelWatchdog is how long a kernel has until /init opens the watchdog, in
// seconds. Firmware that knows the word starts the hardware before the kernel,
// and the kernel feeds it until then (docs/platform.md 2.5). A slow card takes
// half a minute to check a large slot.
const kernelWatchdog = 120

// initramfs packs /init, what it is told, and exactly the modules it loads.
func (b *bootFiles) initramfs(p *Plan, t *layers.Tree, k *kernel, list []boards.Board, c *contents) ([]byte, error) {
	always, net, err := b.choose(k, list)
	if err != nil {
		return nil, err
	}
	info := cmdline.Info{Stream: p.Image.Stream, Release: p.Image.Release, BuildID: p.BuildID, Epoch: p.Epoch, Keys: p.Keys,
		Watchdog: watchdogSeconds(p.Image)}
	var modules []initrd.File
	for i, m := range slices.Concat(always, net) {
		data, err := keptModule(t, "lib/modules/"+k.Release+"/"+m.Path, c)
		if err != nil {
			return nil, err
		}
		name := fmt.Sprintf("modules/%02d-%s.ko", i, m.Name)
		info.Modules = append(info.Modules, cmdline.Module{Path: "/" + name, Digest: image.DigestOf(data), Net: i >= len(always)})
		modules = append(modules, initrd.File{Name: name, Mode: 0o644, Data: data})
		b.Modules = append(b.Modules, m.Name)
	}
	text, err := cmdline.EncodeInfo(info)
	if err != nil {
		return nil, err
	}
	files := append([]initrd.File{
		{Name: "init", Mode: 0o755, Data: p.Programs.Init},
		{Name: strings.TrimPrefix(cmdline.InfoFile, "/"), Mode: 0o644, Data: text},
	}, modules...)
	return initrd.Pack(files, time.Unix(p.Epoch, 0), p.Image.Compression == squashfs.Small().Name)
}

// watchdogSeconds returns the watchdog's timeout in the spec, in seconds; 0 where
// the watchdog is off, which the kernel command line says too.
func watchdogSeconds(img *spec.Image) int {
	d, err := time.ParseDuration(img.Watchdog)
	if err != nil {
		return 0
	}
	return int(d.Seconds())
}

// choose returns the modules of the boards in the order they load, and behind
// them those that only a boot without a card needs. A driver the kernel has
// under no name is an error where every board needs it, and a warning where
// one board will do less.
func (b *bootFiles) choose(k *kernel, list []boards.Board) (always, net []*kmod.Module, err error) {
	var names []string
	for _, w := range boards.Everywhere {
		name := firstOf(k, w)
		if name == "" {
			return nil, nil, fmt.Errorf("kernel %s of package %s has no driver %s, without which %s cannot work",
				k.Release, k.Package, strings.Join(w.Any, " or "), w.For)
		}
		names = append(names, name)
	}
	want := func(board string, wants []boards.Want) {
		for _, w := range wants {
			if name := firstOf(k, w); name != "" {
				names = append(names, name)
				continue
			}
			b.Warnings = append(b.Warnings, warning("kernel lacks a driver of a board",
				"board", board, "kernel", k.Release, "driver", strings.Join(w.Any, " or "), "for", w.For))
		}
	}
	for _, board := range list {
		want(board.Name, board.Modules)
	}
	if always, err = k.Modules.Order(names...); err != nil {
		return nil, nil, err
	}
	for _, board := range list {
		if len(board.Net) > 0 {
			want(board.Name, boards.EverywhereNet)
			want(board.Name, board.Net)
		}
	}
	all, err := k.Modules.Order(names...)
	for _, m := range all {
		if !slices.Contains(always, m) {
			net = append(net, m)
		}
	}
	return always, net, err
}

func firstOf(k *kernel, w boards.Want) string {
	for _, name := range w.Any {
		if k.Modules.Has(name) {
			return name
		}
	}
	return ""
}

// Names returns the names of the boot files, sorted.
func (b *bootFiles) Names() []string {
	names := make([]string, 0, len(b.Files))
	for n := range b.Files {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}
