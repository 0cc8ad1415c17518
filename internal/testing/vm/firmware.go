package vm

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Firmware is a model of what a Pi's boot ROM, EEPROM and GPU firmware do
// between power-on and the kernel, as far as an image can tell
// (docs/platform.md 1 and 2). It reads the card as the firmware would: the
// partition table, then the FATs. What no model can show is in
// docs/hardware.md.
type Firmware struct {
	// Filters are the sections of config.txt that are this board, such as
	// pi3. All boards read [all].
	Filters []string
	// Bootcode means that the boot ROM wants bootcode.bin on the first FAT
	// and start.elf in the slot, as on BCM2837.
	Bootcode bool
	// DTB is the device tree the board asks for by default; "" for none.
	DTB string
	// Walk is PARTITION_WALK: try the partitions behind one that is not
	// bootable. On by default in EEPROMs since 2025-08-13
	// (docs/platform.md 2.4).
	Walk bool
	// Backup means that a copy of a slot's boot sector is taken where the first
	// sector is invalid. No Pi is known to look; a node must survive one that does.
	Backup bool
	// LineLimit is how much of a line of config.txt is read: 98 characters,
	// 78 in old firmware.
	LineLimit int
}

// Request is what the reset before this boot left for the firmware.
type Request struct {
	Partition int  // of "reboot N"; 0 for none
	Tryboot   bool // the one-shot flag
	Reset     bool // there was power before: a reset, not a start
}

// Handover is what the firmware hands to the kernel.
type Handover struct {
	Partition int
	Tryboot   bool
	Reset     bool // this is no start after power came
	Network   bool // it came over Ethernet

	// SlowestFile is how long the file took that took longest over the network.
	// A Pi's firmware gives one 30 s.
	SlowestFile time.Duration

	Kernel    []byte
	Initramfs []byte
	DTB       []byte // nil where the board has none on the card
	Cmdline   string
	// Watchdog is how many seconds a kernel has until something opens the
	// watchdog; 0 for ever (docs/platform.md 2.5).
	Watchdog int

	// What the slot says of itself, for whoever picks the machine.
	KernelConfig []byte // gzipped; nil where there is none
	Manifest     []byte
}

// maxFile bounds what is read of a slot into memory.
const maxFile = 256 << 20

// Boot walks the card as the firmware would.
func (f Firmware) Boot(card io.ReaderAt, req Request) (*Handover, error) {
	var s *Handover
	part, err := f.walk(card, req, func(v *romVolume, config string) (err error) {
		if f.Bootcode {
			if _, _, err := v.find("start.elf"); err != nil {
				return err
			}
		}
		s, err = f.slot(v, config)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Partition, s.Tryboot, s.Reset = part, req.Tryboot && req.Partition == 0, req.Reset
	return s, nil
}

// Starts returns the partition that Boot would start, and reads no more of it
// than the firmware must to choose it.
func (f Firmware) Starts(card io.ReaderAt, req Request) (int, error) {
	return f.walk(card, req, func(v *romVolume, config string) error {
		need := []string{config}
		if f.Bootcode {
			need = append(need, "start.elf")
		}
		for _, name := range need {
			if _, _, err := v.find(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// walk asks try for one partition after the other that the firmware would try.
func (f Firmware) walk(card io.ReaderAt, req Request, try func(v *romVolume, config string) error) (int, error) {
	part, config := req.Partition, "config.txt"
	if part == 0 {
		var err error
		if part, config, err = f.autoboot(card, req.Tryboot); err != nil {
			return 0, err
		}
	}
	tries := 1
	if f.Walk {
		tries = 8
	}
	var first error
	for range tries {
		v, err := romOpen(card, part, f.Backup)
		if err == nil {
			err = try(v, config)
		}
		if err == nil {
			return part, nil
		}
		if first == nil {
			first = fmt.Errorf("partition %d is not bootable: %w", part, err)
		}
		part = part%4 + 1 // walking goes on at the front behind the last
	}
	return 0, first
}

// autoboot reads autoboot.txt of the first FAT (docs/platform.md 2.1).
func (f Firmware) autoboot(card io.ReaderAt, tryboot bool) (int, string, error) {
	v, err := romOpen(card, 1, f.Backup)
	if err != nil {
		return 0, "", fmt.Errorf("reading the first partition: %w", err)
	}
	if f.Bootcode {
		if _, _, err := v.find("bootcode.bin"); err != nil {
			return 0, "", fmt.Errorf("reading the first partition: %w", err)
		}
	}
	b, err := v.read("autoboot.txt", romSector)
	if err != nil {
		return 1, "config.txt", nil
	}
	text := string(b)
	active := []string{"all"}
	ab := settings(text, active, 512)["tryboot_a_b"] == "1"
	if tryboot && ab {
		active = append(active, "tryboot")
	}
	part := 1
	if value := settings(text, active, 512)["boot_partition"]; value != "" {
		fmt.Sscan(value, &part)
	}
	if tryboot && !ab {
		return part, "tryboot.txt", nil
	}
	return part, "config.txt", nil
}

// settings returns the last value of each key in sections that apply. A line
// without = is a key with what follows its first blank as value.
func settings(text string, active []string, limit int) map[string]string {
	values := map[string]string{}
	on := true
	for _, line := range strings.Split(text, "\n") {
		if len(line) > limit {
			line = line[:limit] // the firmware drops the rest without a word
		}
		line = strings.TrimSpace(strings.Trim(line, "\x00\r"))
		if line == "" || line[0] == '#' {
			continue
		}
		if strings.HasPrefix(line, "[") {
			on = false
			for _, a := range active {
				on = on || line == "["+a+"]"
			}
			continue
		}
		if !on {
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && !strings.Contains(key, " ") {
			values[key] = value
		} else if key, value, ok := strings.Cut(line, " "); ok {
			values[key] = value
		}
	}
	return values
}

// source is where the firmware reads files: a volume, or a server.
type source interface {
	read(name string, limit int64) ([]byte, error)
}

// slot reads config.txt and the files it names.
func (f Firmware) slot(v source, config string) (*Handover, error) {
	text, err := v.read(config, 64<<10)
	if err != nil {
		return nil, err
	}
	set := settings(string(text), append([]string{"all"}, f.Filters...), f.LineLimit)
	name := func(key, otherwise string) string {
		if set[key] != "" {
			return set[key]
		}
		return otherwise
	}
	if f.Bootcode && set["arm_64bit"] != "1" {
		return nil, errors.New("config.txt lacks arm_64bit=1, which a 64-bit kernel needs")
	}
	s := &Handover{}
	if s.Kernel, err = v.read(name("kernel", "kernel8.img"), maxFile); err != nil {
		return nil, err
	}
	if file, _, _ := strings.Cut(set["initramfs"], " "); file != "" {
		if s.Initramfs, err = v.read(file, maxFile); err != nil {
			return nil, err
		}
	}
	words, err := v.read(name("cmdline", "cmdline.txt"), 4096)
	if err != nil {
		return nil, err
	}
	line, _, _ := strings.Cut(string(words), "\n")
	s.Cmdline = strings.TrimSpace(line)
	if fmt.Sscan(set["kernel_watchdog_timeout"], &s.Watchdog); s.Watchdog > 0 {
		s.Cmdline += fmt.Sprintf(" watchdog.open_timeout=%d", s.Watchdog)
	}
	if dtb := name("device_tree", f.DTB); dtb != "" {
		if s.DTB, err = v.read(dtb, 4<<20); err != nil {
			return nil, err
		}
	}
	s.KernelConfig, _ = v.read(image.KernelConfigFile, 4<<20)
	s.Manifest, _ = v.read(image.ManifestFile, image.MaxManifest)
	return s, nil
}
