package builder

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/layers/kmod"
)

var update = flag.Bool("update", false, "write the golden files")

func boardsNamed(t *testing.T, names ...string) []boards.Board {
	t.Helper()
	list, err := boardList(&spec.Image{Boards: names})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestConfigTxtGolden(t *testing.T) {
	img := &spec.Image{Watchdog: "15s", Config: map[string]spec.Config{
		"all":  {Lines: []string{"disable_splash=1"}},
		"rpi3": {Lines: []string{"force_turbo=1"}},
		"rpi4": {Overlays: []string{"rpi-poe,poe_fan_temp0=50000"}},
	}}
	got, err := configTxt(img, boardsNamed(t, "rpi3", "rpi4", "rpi5", "vm"), map[string][]byte{"overlays/rpi-poe.dtbo": {1}})
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("testdata/config.txt", got, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatal("written; run again without -update")
	}
	want, err := os.ReadFile("testdata/config.txt")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("testdata/config.txt differs (%v); got\n%s", err, got)
	}
	img.Watchdog = "off"
	if off, err := configTxt(img, boardsNamed(t, "vm"), map[string][]byte{"overlays/rpi-poe.dtbo": {1}}); err != nil ||
		strings.Contains(string(off), "watchdog") {
		t.Errorf("without a watchdog (%v):\n%s", err, off)
	}
	for _, line := range strings.Split(string(got), "\n") {
		if len(line) > 78 {
			t.Errorf("%d characters: %s", len(line), line)
		}
	}
	if _, err := configTxt(img, boardsNamed(t, "rpi4"), nil); err == nil ||
		!strings.Contains(err.Error(), "no package has /boot/overlays/rpi-poe.dtbo") {
		t.Errorf("an overlay that no package has: %v", err)
	}
}

// TestChoosePacksExactlyWhatIsNeeded over two kernels: one with all built in,
// one with all as modules, and one that lacks a driver.
func TestChoosePacksExactlyWhatIsNeeded(t *testing.T) {
	list := boardsNamed(t, "rpi4", "vm")
	var all []string
	for _, w := range append(append(append([]boards.Want(nil), boards.Everywhere...), list[0].Modules...), list[1].Modules...) {
		all = append(all, w.Any[0])
	}
	modular, builtin := &kernel{}, &kernel{}
	modular.Modules = kmod.Set{Modules: map[string]*kmod.Module{"unneeded": {Name: "unneeded"}, "helper": {Name: "helper"}}}
	builtin.Modules = kmod.Set{Builtin: map[string]bool{}}
	for _, name := range all {
		modular.Modules.Modules[name] = &kmod.Module{Name: name, Depends: []string{"helper"}}
		builtin.Modules.Builtin[name] = true
	}
	var nets []string
	for _, w := range append(append(append([]boards.Want(nil), boards.EverywhereNet...), list[0].Net...), list[1].Net...) {
		nets = append(nets, w.Any[0])
		modular.Modules.Modules[w.Any[0]] = &kmod.Module{Name: w.Any[0], Depends: []string{"helper", "netcore"}}
		builtin.Modules.Builtin[w.Any[0]] = true
	}
	modular.Modules.Modules["netcore"] = &kmod.Module{Name: "netcore"}
	b := &bootFiles{}
	got, net, err := b.choose(modular, list)
	if len(net) != len(nets)+1 || net[0].Name != "netcore" {
		t.Errorf("for the network %d are packed, want %d and what they need", len(net), len(nets))
	}
	if err != nil || len(got) != len(all)+1 || got[0].Name != "helper" || len(b.Warnings) != 0 {
		t.Errorf("all modules: %d packed, want %d and the one they need (%v, %v)", len(got), len(all), err, b.Warnings)
	}
	if got, net, err := b.choose(builtin, list); err != nil || len(got)+len(net) != 0 {
		t.Errorf("all built in: %d packed (%v)", len(got), err)
	}
	delete(modular.Modules.Modules, "sdhci_iproc")
	if _, _, err := b.choose(modular, list); err != nil || len(b.Warnings) != 1 ||
		!strings.Contains(b.Warnings[0].String(), `board="rpi4" kernel="" driver="sdhci_iproc" for="the SD card"`) {
		t.Errorf("a board's driver is missing: %v, %v", err, b.Warnings)
	}
	delete(modular.Modules.Modules, "dm_verity")
	if _, _, err := b.choose(modular, list); err == nil ||
		!strings.Contains(err.Error(), "no driver dm_verity, without which the verified root cannot work") {
		t.Errorf("dm_verity is missing: %v", err)
	}
}

func TestSparseWriterLeavesZerosOut(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data := make([]byte, 100_000)
	copy(data[5000:], "five thousand")
	copy(data[99_990:], "end")
	f.Truncate(1 << 20)
	p := newPartition(t.Context(), f, 700, (&Inputs{}).step("test", 1))
	if n, err := p.WriteAt(data, 77); n != len(data) || err != nil {
		t.Fatal(n, err)
	}
	got, _ := os.ReadFile(name)
	if !bytes.Equal(got[777:777+len(data)], data) {
		t.Error("what was written is not what is there")
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if used := st.Sys().(*syscall.Stat_t).Blocks * 512; used > 16<<10 {
		t.Errorf("two short texts among zeros take %d bytes of the disk", used)
	}
}
