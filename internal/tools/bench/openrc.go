package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pikelet-os/pikelet/internal/shared/depends"
	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// openrcSpec is a small image with an inittab of the bench's.
const openrcSpec = `name: openrc
release: "1"
boards: [rpi3, vm]
repositories: [{url: %[1]s, keys: [%[1]s/starter.rsa.pub]}]
packages: [alpine-base, raspberrypi-bootloader]
layers: [{folder: %[2]s, to: etc}]
console: root
slot-size: 40MiB
`

// openrcCommand prints the CPU time since init started, in 1/100 s: what was not
// idle (proc_stat(5)).
const openrcCommand = `awk '/^cpu /{t=$2+$3+$4+$7+$8; if (FILENAME=="/proc/stat") print "busy=" t-a; a=t}' /run/handover /proc/stat`

// openrc measures what OpenRC takes of a boot, in CPU seconds from the start of init
// to the prompt, with the dependencies that the build computed and without them.
func openrc(ctx context.Context, o options, figures map[string]float64) error {
	tab, err := os.ReadFile("overlays/base/files/etc/inittab")
	if err != nil {
		return err
	}
	kinds := []struct{ figure, removed string }{
		{"boot_openrc_seconds", "/run/pikelet/nothing"}, {"boot_openrc_uncomputed_seconds", depends.ScriptFile},
	}
	images := map[string]string{}
	for _, k := range kinds {
		dir := filepath.Join(o.scratch, k.figure)
		if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
			return err
		}
		first := fmt.Sprintf("::sysinit:/bin/rm -f %s\n::sysinit:/bin/cp /proc/stat /run/handover\n", k.removed)
		if err := os.WriteFile(filepath.Join(dir, "etc/inittab"), append([]byte(first), tab...), 0o644); err != nil {
			return err
		}
		spec := fmt.Sprintf(openrcSpec, o.starter, filepath.Join(dir, "etc"))
		if err := os.WriteFile(filepath.Join(dir, "image.yaml"), []byte(spec), 0o644); err != nil {
			return err
		}
		if _, err := build(ctx, o, dir, "--cache", filepath.Join(o.scratch, "cache"), "-o", "out", "image.yaml"); err != nil {
			return err
		}
		images[k.figure] = filepath.Join(dir, "out/disk.img")
	}
	took := map[string][]float64{}
	for round := range o.rounds {
		for i := range kinds {
			figure := kinds[(round+i)%len(kinds)].figure
			m, err := vm.Start(ctx, vm.Options{Image: images[figure], Snapshot: true})
			if err != nil {
				return err
			}
			busy, err := ask(m, openrcCommand, `busy=([0-9]+)\r`)
			m.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", figure, err)
			}
			took[figure] = append(took[figure], busy/100)
		}
	}
	for figure, list := range took {
		o.log.Info("measured OpenRC", "figure", figure, "cpu_seconds", list)
		figures[figure] = median(list)
	}
	return nil
}
