// Package boards holds the families of Raspberry Pi that images are made
// for, as data: what the firmware needs beside a kernel, which device trees
// there are, and which drivers must be there before the root is.
package boards

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Board is a family the same files boot.
type Board struct {
	Name  string // as a spec says it
	Title string

	// Filter is the section of config.txt that means this family
	// (docs/platform.md 1.4). Its members with a section of their own, such as
	// [cm4] or [pi3+], see the family's too by Raspberry Pi's documentation,
	// which docs/hardware.md asks to be confirmed. Empty: the firmware has no
	// name for it.
	Filter string

	// DTBs are device trees by the name the firmware looks for first
	// (docs/platform.md 1.2). The first must be in the kernel package; the
	// others are taken where they are.
	DTBs []string

	// Firmware are files the GPU or boot ROM reads from the slot.
	Firmware []string

	// Bootcode says that the boot ROM reads bootcode.bin from the control
	// partition, which no A/B switch covers.
	Bootcode bool

	// MinEEPROM is the oldest bootloader that starts trials reliably, GoodEEPROM
	// the first that walks on by itself from an unbootable slot; Unix times of
	// when they were made, 0 for boards without an EEPROM.
	MinEEPROM, GoodEEPROM int64

	// Modules are the drivers without which /init finds no root. Each is a
	// list of names of which the kernel must know one.
	Modules []Want

	// Net are the drivers without which a boot without a card reaches no
	// network. They are loaded on such boots only.
	Net []Want

	// Config are lines for the board's section of config.txt.
	Config []string

	// Compatible is what device trees of the family say they are
	// (docs/platform.md 4).
	Compatible []string

	// Imager is how Raspberry Pi Imager's lists call the family (the tags of
	// its own list, os_list_imagingutility_v4.json; not tried here).
	Imager string

	// Model is how bootloaders in an EEPROM name the family in DHCP option 97
	// (docs/platform.md 3.2); "" where they do not.
	Model string

	// Virtual marks boards that are no Pi. They are made for only when a
	// spec names them.
	Virtual bool
}

// Want is a driver under the names different kernels give it.
type Want struct {
	Any []string
	For string // what does not work without it
}

// Everywhere are the drivers all boards need: the chain from a partition to
// the root.
var Everywhere = []Want{
	{Any: []string{"dm_mod"}, For: "the verified root"},
	{Any: []string{"dm_verity"}, For: "the verified root"},
	{Any: []string{"squashfs"}, For: "the root"},
	{Any: []string{"overlay"}, For: "/etc and /var"},
}

// EverywhereNet are the drivers every boot without a card needs.
var EverywhereNet = []Want{
	{Any: []string{"loop"}, For: "a root in memory"},
}

// gpu4 and gpu3 are the firmware of the families with a GPU that boots
// (docs/platform.md 1.1).
var (
	gpu3 = []string{"start.elf", "fixup.dat"}
	gpu4 = []string{"start4.elf", "fixup4.dat"}

	// bcm2837 reads its card through sdhost, which the downstream kernel
	// calls bcm2835-sdhost and mainline bcm2835; the watchdog resets it.
	bcm2837 = []Want{
		{Any: []string{"bcm2835_sdhost", "bcm2835"}, For: "the SD card"},
		{Any: []string{"bcm2835_wdt"}, For: "reboots and the watchdog"},
	}
	// Ethernet of the 3B hangs on USB, that of the 3B+ too; the 4 and the 5
	// have it in the SoC and in RP1.
	ethernet3 = []Want{
		{Any: []string{"smsc95xx"}, For: "booting a 3B without a card"},
		{Any: []string{"lan78xx"}, For: "booting a 3B+ without a card"},
	}
	ethernet4 = []Want{{Any: []string{"genet"}, For: "booting without a card"}, {Any: []string{"broadcom"}, For: "booting without a card"}}
	ethernet5 = []Want{{Any: []string{"macb"}, For: "booting without a card"}, {Any: []string{"broadcom"}, For: "booting without a card"}}

	bcm2711 = []Want{
		{Any: []string{"sdhci_iproc"}, For: "the SD card"},
		{Any: []string{"bcm2835_wdt"}, For: "reboots and the watchdog"},
	}
	bcm2712 = []Want{
		{Any: []string{"sdhci_brcmstb"}, For: "the SD card"},
		{Any: []string{"nvme"}, For: "NVMe drives"},
		{Any: []string{"bcm2835_wdt"}, For: "reboots and the watchdog"},
	}
)

var list = []Board{
	{
		Name: "rpi3", Title: "Raspberry Pi 3B, 3B+, 3A+, CM3", Filter: "pi3", Imager: "pi3-64bit",
		Compatible: []string{"raspberrypi,3-model-b", "raspberrypi,3-model-b-plus", "raspberrypi,3-model-a-plus", "raspberrypi,3-compute-module"},
		DTBs:       []string{"bcm2710-rpi-3-b.dtb", "bcm2710-rpi-3-b-plus.dtb", "bcm2710-rpi-cm3.dtb"},
		Firmware:   gpu3, Bootcode: true, Modules: bcm2837, Net: ethernet3,
	},
	{
		Name: "zero2w", Title: "Raspberry Pi Zero 2 W", Filter: "pi02", Imager: "pi3-64bit",
		Compatible: []string{"raspberrypi,model-zero-2-w"},
		DTBs:       []string{"bcm2710-rpi-zero-2-w.dtb", "bcm2710-rpi-zero-2.dtb"},
		Firmware:   gpu3, Bootcode: true, Modules: bcm2837,
	},
	{
		Name: "rpi4", Title: "Raspberry Pi 4B, 400, CM4", Filter: "pi4", Imager: "pi4-64bit", Model: "RPi4",
		Compatible: []string{"raspberrypi,4-model-b", "raspberrypi,400", "raspberrypi,4-compute-module", "raspberrypi,4s-compute-module"},
		DTBs:       []string{"bcm2711-rpi-4-b.dtb", "bcm2711-rpi-400.dtb", "bcm2711-rpi-cm4.dtb", "bcm2711-rpi-cm4s.dtb"},
		// Tryboot of A/B partitions works from here on (docs/platform.md 2.1);
		// walking is on by default since August 2025 (docs/platform.md 2.4).
		MinEEPROM: date(2023, 5, 11), GoodEEPROM: date(2025, 8, 13),
		Firmware: gpu4, Modules: bcm2711, Net: ethernet4,
	},
	{
		Name: "rpi5", Title: "Raspberry Pi 5, 500, CM5", Filter: "pi5", Imager: "pi5-64bit", Model: "RPi5",
		Compatible: []string{"raspberrypi,5-model-b", "raspberrypi,5-compute-module", "raspberrypi,500"},
		DTBs: []string{"bcm2712-rpi-5-b.dtb", "bcm2712d0-rpi-5-b.dtb", "bcm2712-rpi-500.dtb",
			"bcm2712-rpi-cm5-cm5io.dtb", "bcm2712-rpi-cm5-cm4io.dtb", "bcm2712-rpi-cm5l-cm5io.dtb", "bcm2712-rpi-cm5l-cm4io.dtb"},
		// Earlier ones do not say which partition they started
		// (docs/platform.md 2.3).
		MinEEPROM: date(2024, 5, 13), GoodEEPROM: date(2025, 8, 13),
		Modules: bcm2712, Net: ethernet5,
	},
	{
		// What QEMU's machine "virt" needs beside what is there for a Pi.
		Name: "vm", Title: "Virtual Pi", Virtual: true,
		Compatible: []string{"linux,dummy-virt"},
		Modules: []Want{
			{Any: []string{"virtio_pci"}, For: "the virtual machine's devices"},
			{Any: []string{"virtio_blk"}, For: "a virtual disk"},
			{Any: []string{"sdhci_pci"}, For: "a virtual SD card"},
			{Any: []string{"i6300esb"}, For: "the virtual watchdog"},
		},
		Net: []Want{{Any: []string{"virtio_net"}, For: "booting without a card"}},
	},
}

// Find returns the board of a name.
func Find(name string) (Board, error) {
	for _, b := range list {
		if b.Name == name {
			return b, nil
		}
	}
	return Board{}, fmt.Errorf("there is no board %q; there are %s", name, strings.Join(Names(), ", "))
}

// HasFirmware reports whether a name is that of firmware, of some board.
func HasFirmware(name string) bool {
	return name == "bootcode.bin" || slices.ContainsFunc(list, func(b Board) bool { return slices.Contains(b.Firmware, name) })
}

// Pis returns the names of the boards one can hold, sorted.
func Pis() []string {
	var names []string
	for _, b := range list {
		if !b.Virtual {
			names = append(names, b.Name)
		}
	}
	sort.Strings(names)
	return names
}

// Names returns the names of all boards, sorted.
func Names() []string {
	var names []string
	for _, b := range list {
		names = append(names, b.Name)
	}
	sort.Strings(names)
	return names
}

// OfModel returns the name of the board that bootloaders call by a model; "" for
// none.
func OfModel(model string) string {
	for _, b := range list {
		if model != "" && b.Model == model {
			return b.Name
		}
	}
	return ""
}

// OfCompatible returns the name of the board whose device tree has one of the
// compatible strings; "" for none.
func OfCompatible(strings []string) string {
	for _, b := range list {
		for _, own := range b.Compatible {
			for _, s := range strings {
				if s == own {
					return b.Name
				}
			}
		}
	}
	return ""
}
