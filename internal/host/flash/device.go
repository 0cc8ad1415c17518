package flash

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Device is what an image can be written to: a whole disk, or a regular file.
type Device struct {
	Path      string   `json:"path"`
	File      bool     `json:"file,omitempty"` // a regular file, or a loop device, which is one
	Model     string   `json:"model,omitempty"`
	Serial    string   `json:"serial,omitempty"`
	Bus       string   `json:"bus"`              // usb, mmc, nvme, ata, virtio, loop, file
	Size      int64    `json:"size"`             // bytes; 0 for a reader without a card, and for a file that does not exist yet
	Sector    int64    `json:"sector,omitempty"` // bytes of a logical sector; 0 for a file, and where the kernel does not say
	Removable bool     `json:"removable"`
	ReadOnly  bool     `json:"readOnly,omitempty"`
	Mounts    []string `json:"mounts,omitempty"` // where the disk, or a part of it, is mounted
	Uses      []string `json:"uses,omitempty"`   // what else uses it: swap, LVM, RAID, encryption
	System    bool     `json:"system,omitempty"` // the running system is on it
}

// Describe returns a line about the device for people.
func (d Device) Describe() string {
	parts := []string{d.Path}
	for _, s := range []string{d.Model, d.Bus} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if d.Serial != "" {
		parts = append(parts, "serial "+d.Serial)
	}
	if d.Size > 0 {
		parts = append(parts, gigabytes(d.Size))
	}
	if d.Bus != busFile && d.Size == 0 {
		parts = append(parts, "no card in it")
	}
	if len(d.Mounts) > 0 {
		parts = append(parts, "mounted on "+strings.Join(d.Mounts, ", "))
	}
	return strings.Join(parts, ", ")
}

// gigabytes formats a size in decimal units, as it is printed on cards.
func gigabytes(n int64) string {
	if n < 1e9 {
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f GB", float64(n)/1e9)
}

const (
	busFile = "file"
	busLoop = "loop"
)

// Rules are what a person may allow.
type Rules struct {
	Need   int64  // bytes the image takes
	Serial string // the serial of a disk that is not removable, and is meant all the same
}

// ErrNotRemovable is returned for a disk that is not removable and whose serial
// was not named.
var ErrNotRemovable = errors.New("the disk is not removable")

// Refuse returns an error for a device that must not be written to. The error
// is ErrNotRemovable where naming the device's serial allows writing.
func (d Device) Refuse(r Rules) error {
	switch {
	case d.System:
		return fmt.Errorf("%s holds the running system", d.Path)
	case len(d.Mounts) > 0:
		err := fmt.Errorf("%s is mounted on %s", d.Path, strings.Join(d.Mounts, ", "))
		return hint.With(err, "unmount it first: umount "+strings.Join(d.Mounts, " "))
	case len(d.Uses) > 0:
		return fmt.Errorf("%s is in use: %s", d.Path, strings.Join(d.Uses, ", "))
	case d.ReadOnly:
		return hint.With(fmt.Errorf("%s is read-only", d.Path), "check the write-protection slide at the side of an SD card")
	case d.Bus != busFile && d.Size == 0:
		return fmt.Errorf("%s has no card in it", d.Path)
	case d.Sector > disk.SectorSize: // https://github.com/raspberrypi/firmware/issues/1840
		err := fmt.Errorf("%s has sectors of %d bytes, and no Pi boots from such a disk: its partition table counts in %d bytes",
			d.Path, d.Sector, disk.SectorSize)
		return hint.Withf(err, "take another disk or adapter, or format an NVMe disk with sectors of %d bytes "+
			"(nvme id-ns shows which it supports, nvme format --lbaf sets one and erases the disk)", disk.SectorSize)
	case d.Size > 0 && d.Size < r.Need:
		return fmt.Errorf("%s has %s, and the image needs %s", d.Path, gigabytes(d.Size), gigabytes(r.Need))
	case !d.Removable && !d.File && d.Serial == "":
		return fmt.Errorf("%s is not removable, and has no serial by which it could be named", d.Path)
	case !d.Removable && !d.File && r.Serial != d.Serial:
		return fmt.Errorf("%s: %w (%s)", d.Path, ErrNotRemovable, d.Describe())
	case r.Serial != "" && d.Serial != r.Serial:
		return fmt.Errorf("%s has serial %q, want %q", d.Path, d.Serial, r.Serial)
	}
	return nil
}

// Machine is where devices are looked up: a computer's sysfs and procfs below
// a root, "/" for this one.
type Machine struct{ Root string }

func (m Machine) path(name string) string { return filepath.Join(m.Root, name) }

func (m Machine) text(name string) string {
	b, err := os.ReadFile(m.path(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// Find returns what a path names: a disk, or a regular file, which may be one
// that is not there yet. A partition is no device to flash, nor is a directory.
func (m Machine) Find(name string) (Device, error) {
	if name == "" {
		return Device{}, hint.With(errors.New("the name of the device is empty"), "check that the variables of your script are set")
	}
	st, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !strings.HasPrefix(name, "/dev/"):
		return Device{Path: name, File: true, Bus: busFile}, nil
	case err != nil:
		return Device{}, err
	case st.Mode().IsRegular():
		return Device{Path: name, File: true, Bus: busFile, Size: st.Size(), ReadOnly: st.Mode().Perm()&0o222 == 0}, nil
	case st.Mode()&fs.ModeDevice == 0 || st.Mode()&fs.ModeCharDevice != 0:
		return Device{}, fmt.Errorf("%s is neither a disk nor a file", name)
	}
	real, err := filepath.EvalSymlinks(name) // /dev/disk/by-id and the like
	if err != nil {
		return Device{}, err
	}
	d, err := m.Disk(filepath.Base(real))
	d.Path = name
	return d, err
}

// List returns the disks and card readers of the machine.
func (m Machine) List() ([]Device, error) {
	entries, err := os.ReadDir(m.path("/sys/block"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint.With(errors.New("listing disks is supported on Linux only"),
			"write to a file, and the file to the card with Raspberry Pi Imager")
	}
	if err != nil {
		return nil, err
	}
	var list []Device
	for _, e := range entries {
		if name := e.Name(); !hasAnyPrefix(name, "ram", "zram", "dm-", "md", "sr", "fd", "nbd") {
			d, err := m.Disk(name)
			if err != nil {
				return nil, err
			}
			if d.Bus != busLoop || d.Size > 0 {
				list = append(list, d)
			}
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Path < list[j].Path })
	return list, nil
}

func hasAnyPrefix(s string, prefixes ...string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(s, p) })
}

// Disk reads what the kernel says of a disk, by its name: sda, mmcblk0.
func (m Machine) Disk(name string) (Device, error) {
	at := "/sys/class/block/" + name
	if _, err := os.Stat(m.path(at)); err != nil {
		return Device{}, fmt.Errorf("disk %q not found", name)
	}
	if m.text(at+"/partition") != "" {
		return Device{}, hint.With(fmt.Errorf("/dev/%s is a partition", name), "name the whole disk")
	}
	d := Device{Path: "/dev/" + name, ReadOnly: m.text(at+"/ro") == "1", Removable: m.text(at+"/removable") == "1"}
	if sectors, err := strconv.ParseInt(m.text(at+"/size"), 10, 64); err == nil {
		d.Size = sectors * 512 // sysfs counts in these, whatever the disk does
	}
	if n, err := strconv.ParseInt(m.text(at+"/queue/logical_block_size"), 10, 64); err == nil {
		d.Sector = n
	}
	real, err := filepath.EvalSymlinks(m.path(at))
	if err != nil {
		return Device{}, err
	}
	d.Bus = busOf(name, real)
	d.File = d.Bus == busLoop
	if d.Bus == "mmc" && m.text(at+"/device/type") == "SD" {
		d.Removable = true // the kernel calls no card removable, but readers by USB
	}
	d.Model = strings.Join(strings.Fields(first(m.text(at+"/device/vendor")+" "+m.text(at+"/device/model"), m.text(at+"/device/name"))), " ")
	if d.Bus == busLoop {
		d.Model = m.text(at + "/loop/backing_file")
	}
	d.Serial = first(m.text(at+"/device/serial"), m.text(at+"/serial"), m.usbSerial(real))
	return d, m.uses(&d, name)
}

func first(list ...string) string {
	for _, s := range list {
		if s = strings.TrimSpace(s); s != "" {
			return s
		}
	}
	return ""
}

func busOf(name, real string) string {
	if strings.HasPrefix(name, "loop") {
		return busLoop
	}
	buses := []struct{ part, bus string }{{"/usb", "usb"}, {"/mmc_host/", "mmc"}, {"/nvme", "nvme"}, {"/ata", "ata"}, {"/virtio", "virtio"}}
	for _, b := range buses {
		if strings.Contains(real, b.part) {
			return b.bus
		}
	}
	return ""
}

// usbSerial returns the serial of the USB device a disk is part of: a file of
// one of the directories above the disk's own.
func (m Machine) usbSerial(real string) string {
	for dir := filepath.Dir(real); len(dir) > len(m.Root) && strings.Contains(dir, "/usb"); dir = filepath.Dir(dir) {
		if b, err := os.ReadFile(filepath.Join(dir, "serial")); err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return ""
}

// uses finds where the disk and its partitions are mounted, and what else is
// on them.
func (m Machine) uses(d *Device, name string) error {
	numbers, names, err := m.family(name, 0)
	if err != nil {
		return err
	}
	f, err := os.Open(m.path("/proc/self/mountinfo"))
	if err != nil {
		return err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); { // proc_pid_mountinfo(5)
		left, right, _ := strings.Cut(s.Text(), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if len(l) < 5 || len(r) < 2 {
			continue
		}
		if !numbers[l[2]] && !names[r[1]] { // btrfs has numbers of its own
			continue
		}
		on := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(l[4])
		d.Mounts = append(d.Mounts, on)
		d.System = d.System || on == "/" || on == "/usr" || on == "/boot" || strings.HasPrefix(on, "/boot/")
	}
	for _, line := range strings.Split(m.text("/proc/swaps"), "\n") {
		if f := strings.Fields(line); len(f) > 0 && names[f[0]] {
			d.Uses = append(d.Uses, "swap on "+f[0])
		}
	}
	for n := range names {
		holders, _ := os.ReadDir(m.path("/sys/class/block/" + path.Base(n) + "/holders"))
		for _, h := range holders {
			what := first(m.text("/sys/class/block/"+h.Name()+"/dm/name"), h.Name())
			d.Uses = append(d.Uses, fmt.Sprintf("%s is part of %s", n, what))
		}
	}
	sort.Strings(d.Uses)
	return nil
}

// family returns the device numbers and names of a disk, its partitions, and
// all that is made of them.
func (m Machine) family(name string, depth int) (numbers, names map[string]bool, err error) {
	numbers, names = map[string]bool{}, map[string]bool{"/dev/" + name: true}
	numbers[m.text("/sys/class/block/"+name+"/dev")] = true
	if depth > 8 {
		return nil, nil, fmt.Errorf("block devices above %s are nested too deeply", name)
	}
	at := m.path("/sys/class/block/" + name)
	entries, err := os.ReadDir(at + "/")
	if err != nil {
		return nil, nil, err
	}
	var more []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), name) && m.text("/sys/class/block/"+name+"/"+e.Name()+"/partition") != "" {
			more = append(more, e.Name())
		}
	}
	holders, _ := os.ReadDir(at + "/holders")
	for _, h := range holders {
		more = append(more, h.Name())
		if n := m.text("/sys/class/block/" + h.Name() + "/dm/name"); n != "" {
			names["/dev/mapper/"+n] = true
		}
	}
	for _, n := range more {
		nums, nms, err := m.family(n, depth+1)
		if err != nil {
			return nil, nil, err
		}
		for k := range nums {
			numbers[k] = true
		}
		for k := range nms {
			names[k] = true
		}
	}
	return numbers, names, nil
}
