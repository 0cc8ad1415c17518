package vm

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/pikelet-os/pikelet/internal/shared/cmdline"
)

// machine is a machine of QEMU's that stands in for a Pi.
type machine struct {
	name     string
	cpu      string // "" for the machine's own
	firmware Firmware
	console  string // what the firmware makes of console=serial0
	accel    string
	ownDTB   bool   // the device tree is QEMU's, not the card's
	memory   int    // MiB; 0 where the machine fixes it
	cores    int    // 0 where the machine fixes it
	extra    string // what the machine needs on the kernel command line
}

// virt is the fast one; it has no Pi hardware. raspi3b has a Pi 3's card
// reader, UART and watchdog, and must run on one thread (docs/virtual-pi.md).
var (
	virt = machine{
		name: "virt", cpu: "cortex-a72", console: "ttyAMA0", accel: "tcg", ownDTB: true, memory: 512, cores: 1,
		firmware: Firmware{Walk: true, LineLimit: 98},
	}
	raspi3b = machine{
		name: "raspi3b", console: "ttyS1", accel: "tcg,thread=single",
		extra:    " " + cmdline.WatchdogOff, // QEMU resets the machine the moment this watchdog is armed
		firmware: Firmware{Filters: []string{"pi3"}, Bootcode: true, DTB: "bcm2710-rpi-3-b.dtb", LineLimit: 98},
	}
)

// virtNeeds are the kernel options without which -M virt shows nothing.
var virtNeeds = []string{"CONFIG_PCI_HOST_GENERIC", "CONFIG_VIRTIO_PCI", "CONFIG_VIRTIO_BLK", "CONFIG_SERIAL_AMBA_PL011_CONSOLE"}

// pick chooses the machine for an image: virt where the packed kernel can run
// on it, else raspi3b. It says why.
func pick(s *Handover) (machine, string) {
	if s.KernelConfig == nil {
		return raspi3b, "the slot does not say what its kernel can do"
	}
	gz, err := gzip.NewReader(bytes.NewReader(s.KernelConfig))
	if err != nil {
		return raspi3b, "the slot's kernel.config.gz can't be read"
	}
	config, err := io.ReadAll(io.LimitReader(gz, 16<<20))
	if err != nil {
		return raspi3b, "the slot's kernel.config.gz can't be read"
	}
	for _, option := range virtNeeds {
		switch {
		case bytes.Contains(config, []byte("\n"+option+"=y\n")):
		case bytes.Contains(config, []byte("\n"+option+"=m\n")):
			if !strings.Contains(string(s.Manifest), `"vm"`) {
				return raspi3b, "the image is not made for board vm, and its kernel has " + option + " as a module only"
			}
		default:
			return raspi3b, "its kernel lacks " + option
		}
	}
	return virt, "its kernel has what it needs"
}

func machineByName(name string) (machine, error) {
	switch name {
	case "virt":
		return virt, nil
	case "raspi3b":
		return raspi3b, nil
	}
	return machine{}, fmt.Errorf("unknown machine %q: want virt or raspi3b", name)
}

// commandLine returns the kernel command line as the firmware would pass it on.
func (m machine) commandLine(line string) string {
	return strings.ReplaceAll(line, "console=serial0,", "console="+m.console+",") + m.extra
}

// Boot modes of the firmware (docs/platform.md 2.3).
const (
	bootModeSD  = 1
	bootModeNet = 2
)

// describe adds what the firmware tells a kernel through its device tree.
func describe(dtb []byte, s *Handover, serial string, kaslr bool) ([]byte, error) {
	t, err := parseFDT(dtb)
	if err != nil {
		return nil, err
	}
	t.root.setString("serial-number", serial)
	chosen := t.root.child("chosen")
	// Seeds as the firmware gives them (docs/platform.md 9). With one for KASLR
	// the kernel isolates its page tables, which under emulation makes each
	// fork cost two thirds more: it is only there where it is asked for.
	seed := make([]byte, 64+8)
	rand.Read(seed)
	chosen.set("rng-seed", seed[:64])
	if kaslr {
		chosen.set("kaslr-seed", seed[64:])
	}
	b := chosen.child("bootloader")
	b.setUint32("partition", uint32(s.Partition))
	mode := uint32(bootModeSD)
	if s.Network {
		mode = bootModeNet
	}
	b.setUint32("boot-mode", mode)
	b.setUint32("tryboot", 0)
	if s.Tryboot {
		b.setUint32("tryboot", 1)
	}
	status := uint32(hadPowerOn)
	if s.Reset {
		status |= hadWatchdog // which is how a Pi's kernel restarts it too
	}
	b.setUint32("rsts", status)
	return t.encode(), nil
}

// Bits of the SoC's reset status, PM_RSTS, as the firmware passes it on
// (docs/platform.md 2.3; include/linux/mfd/bcm2835-pm.h).
const (
	hadPowerOn  = 0x1000
	hadWatchdog = 0x20
)
