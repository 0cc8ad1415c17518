package vm

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
)

// memory is a card in memory; only what is written takes room.
type memory map[int64][]byte

func (m memory) WriteAt(p []byte, at int64) (int, error) {
	for i := 0; i < len(p); {
		page, off := (at+int64(i))/4096, (at+int64(i))%4096
		if m[page] == nil {
			m[page] = make([]byte, 4096)
		}
		i += copy(m[page][off:], p[i:])
	}
	return len(p), nil
}

func (m memory) ReadAt(p []byte, at int64) (int, error) {
	for i := 0; i < len(p); {
		page, off := (at+int64(i))/4096, (at+int64(i))%4096
		src := m[page]
		if src == nil {
			src = make([]byte, 4096)
		}
		i += copy(p[i:], src[off:])
	}
	return len(p), nil
}

// modelCard makes a card whose partitions hold the given files.
func modelCard(t *testing.T, parts map[int]map[string]string) memory {
	t.Helper()
	m := memory{}
	table, err := disk.Card(34*disk.MiB, disk.StateInImage, 1)
	if err != nil {
		t.Fatal(err)
	}
	m.WriteAt(table.Encode(), 0)
	for n, files := range parts {
		var list []fat.File
		for name, text := range files {
			list = append(list, fat.File{Name: name, Size: int64(len(text))})
		}
		p, err := table.Partition(n)
		if err != nil {
			t.Fatal(err)
		}
		l, err := fat.Plan(list, fat.Options{Size: p.Size, Time: time.Unix(0, 0)})
		if err != nil {
			t.Fatal(err)
		}
		open := func(name string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(files[name])), nil }
		if err := l.Write(io.NewOffsetWriter(m, p.Start), open); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func slotFiles(name string) map[string]string {
	return map[string]string{
		"config.txt": "[all]\narm_64bit=1\nkernel=vmlinuz\ninitramfs initramfs followkernel\n", "cmdline.txt": "slot=" + name + "\n",
		"vmlinuz": "kernel " + name, "initramfs": "rd " + name, "start.elf": "gpu", "board.dtb": "dtb " + name,
		"tryboot.txt": "arm_64bit=1\nkernel=vmlinuz\ncmdline=try.txt\n", "try.txt": "from=tryboot.txt\n",
	}
}

const (
	autobootAB  = "[all]\ntryboot_a_b=1\nboot_partition=2\n[tryboot]\nboot_partition=3\n"
	autobootOld = "boot_partition=2\n[tryboot]\nboot_partition=3\n"
)

func TestFirmwareChoosesPartition(t *testing.T) {
	b := slotFiles("b")
	full := map[int]map[string]string{1: {"autoboot.txt": autobootAB, "bootcode.bin": "x"}, 2: slotFiles("a"), 3: b}
	with := func(n int, files map[string]string) map[int]map[string]string {
		out := map[int]map[string]string{1: full[1], 2: full[2], 3: full[3]}
		out[n] = files
		return out
	}
	noKernel := slotFiles("a")
	delete(noKernel, "vmlinuz")
	arm32 := slotFiles("a")
	arm32["config.txt"] = strings.Replace(arm32["config.txt"], "arm_64bit=1\n", "", 1)
	noStart := slotFiles("a")
	delete(noStart, "start.elf")
	newEEPROM, pi3 := virt.firmware, raspi3b.firmware
	oldEEPROM := newEEPROM
	oldEEPROM.Walk = false
	pi3.DTB = "board.dtb"
	for what, c := range map[string]struct {
		f     Firmware
		parts map[int]map[string]string
		req   Request
		want  string // the kernel command line, or the error
	}{
		"default":                      {newEEPROM, full, Request{}, "slot=a"},
		"trial":                        {newEEPROM, full, Request{Tryboot: true}, "slot=b"},
		"reboot 3":                     {newEEPROM, full, Request{Partition: 3}, "slot=b"},
		"reboot 2 wins over the trial": {newEEPROM, full, Request{Partition: 2, Tryboot: true}, "slot=a"},
		"trial without tryboot_a_b": {newEEPROM, with(1, map[string]string{"autoboot.txt": autobootOld}),
			Request{Tryboot: true}, "from=tryboot.txt"},
		"no autoboot.txt, walk":         {newEEPROM, with(1, map[string]string{"x": "y"}), Request{}, "slot=a"},
		"no autoboot.txt, old":          {oldEEPROM, with(1, map[string]string{"x": "y"}), Request{}, "partition 1 is not bootable"},
		"no kernel in a, walk":          {newEEPROM, with(2, noKernel), Request{}, "slot=b"},
		"no kernel in a, old":           {oldEEPROM, with(2, noKernel), Request{}, "partition 2 is not bootable: vmlinuz not found"},
		"Pi 3":                          {pi3, full, Request{}, "slot=a"},
		"Pi 3 without bootcode.bin":     {pi3, with(1, map[string]string{"autoboot.txt": autobootAB}), Request{}, "bootcode.bin not found"},
		"Pi 3 without start.elf":        {pi3, with(2, noStart), Request{}, "start.elf not found"},
		"Pi 3 without arm_64bit":        {pi3, with(2, arm32), Request{}, "arm_64bit=1"},
		"nothing anywhere":              {newEEPROM, map[int]map[string]string{1: full[1]}, Request{}, "partition 2 is not bootable"},
		"reboot into what is not there": {oldEEPROM, full, Request{Partition: 4}, "partition 4 is not bootable"},
	} {
		h, err := c.f.Boot(modelCard(t, c.parts), c.req)
		switch {
		case err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: got the error %v, want %q", what, err, c.want)
		case err == nil && h.Cmdline != c.want:
			t.Errorf("%s: booted with %q, want %q", what, h.Cmdline, c.want)
		case err == nil && h.Tryboot != (c.req.Tryboot && c.req.Partition == 0):
			t.Errorf("%s: tells the kernel tryboot=%v", what, h.Tryboot)
		case err == nil && c.f.DTB != "" && !bytes.HasPrefix(h.DTB, []byte("dtb ")):
			t.Errorf("%s: hands over the device tree %q", what, h.DTB)
		}
	}
}
