package flash

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// fakeDisk is what a test says of a disk; it becomes files as sysfs has them.
type fakeDisk struct {
	name  string
	at    string            // directory below /sys/devices
	files map[string]string // below that directory, or of the disk's own
	parts int               // how many partitions
}

// machine makes a tree of sysfs and procfs.
func machine(t *testing.T, mountinfo, swaps string, disks ...fakeDisk) Machine {
	t.Helper()
	root := t.TempDir()
	put := func(name, text string) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to, name string) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, to), name); err != nil {
			t.Fatal(err)
		}
	}
	put("/proc/self/mountinfo", mountinfo)
	put("/proc/swaps", "Filename Type Size Used Priority\n"+swaps)
	for i, d := range disks {
		device := "/sys/devices/" + d.at
		block := device + "/block/" + d.name
		defaults := map[string]string{"size": "62333952", "ro": "0", "removable": "0", "dev": "8:" + string(rune('0'+16*i/10)) +
			string(rune('0'+16*i%10))}
		for k, v := range defaults {
			put(block+"/"+k, v)
		}
		for k, v := range d.files {
			if rest, ok := strings.CutPrefix(k, "device/"); ok {
				put(device+"/"+rest, v)
			} else if rest, ok := strings.CutPrefix(k, "usb/"); ok {
				put(filepath.Dir(filepath.Dir(device))+"/"+rest, v)
			} else {
				put(block+"/"+k, v)
			}
		}
		link(device, block+"/device")
		link(block, "/sys/class/block/"+d.name)
		link(block, "/sys/block/"+d.name)
		for n := 1; n <= d.parts; n++ {
			p := partName(d.name, n)
			put(block+"/"+p+"/partition", string(rune('0'+n)))
			put(block+"/"+p+"/dev", d.name+":"+string(rune('0'+n)))
			link(block+"/"+p, "/sys/class/block/"+p)
		}
	}
	return Machine{Root: root}
}

func partName(disk string, n int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return disk + "p" + string(rune('0'+n))
	}
	return disk + string(rune('0'+n))
}

// dm makes a disk of the device mapper out of a partition.
func (m Machine) dm(t *testing.T, on, name, label, number string) {
	t.Helper()
	for file, text := range map[string]string{"dev": number, "dm/name": label} {
		p := m.path("/sys/devices/virtual/block/" + name + "/" + file)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(m.path("/sys/devices/virtual/block/"+name), m.path("/sys/class/block/"+name)); err != nil {
		t.Fatal(err)
	}
	holders := m.path("/sys/class/block/" + on + "/holders/" + name)
	if err := os.MkdirAll(holders, 0o755); err != nil {
		t.Fatal(err)
	}
}

var (
	usbReader = fakeDisk{name: "sdb", at: "pci0000:00/usb1/1-2/1-2:1.0/host4/target/4:0:0:0", parts: 4,
		files: map[string]string{"removable": "1", "device/vendor": "Generic ", "device/model": "STORAGE DEVICE",
			"usb/../serial": "000000001532"}}
	laptopSD = fakeDisk{name: "mmcblk0", at: "pci0000:00/0000:00:1d.0/mmc_host/mmc0/mmc0:aaaa", parts: 2,
		files: map[string]string{"device/type": "SD", "device/name": "SR32G", "device/serial": "0x3b2a1c4d"}}
	eMMC = fakeDisk{name: "mmcblk1", at: "pci0000:00/0000:00:1d.1/mmc_host/mmc1/mmc1:0001", parts: 2,
		files: map[string]string{"device/type": "MMC", "device/name": "BJTD4R", "device/serial": "0x11112222"}}
	backupHD = fakeDisk{name: "sdc", at: "pci0000:00/usb2/2-1/2-1:1.0/host5/target/5:0:0:0", parts: 1,
		files: map[string]string{"device/vendor": "WD", "device/model": "Elements 25A2", "size": "3906963456", "usb/../serial": "575834314"}}
	nvme = fakeDisk{name: "nvme0n1", at: "pci0000:00/0000:01:00.0/nvme/nvme0", parts: 3,
		files: map[string]string{"device/model": "Samsung SSD 980", "device/serial": "S64DNX0R"}}
	sata = fakeDisk{name: "sda", at: "pci0000:00/ata1/host0/target0:0:0/0:0:0:0", parts: 2,
		files: map[string]string{"device/vendor": "ATA", "device/model": "CT500MX500SSD1"}}
)

// mount is a line of /proc/self/mountinfo.
func mount(number, on, source string) string {
	return "36 35 " + number + " / " + on + " rw,noatime shared:1 - ext4 " + source + " rw\n"
}

// with returns a disk with other files in sysfs.
func with(d fakeDisk, more map[string]string) fakeDisk {
	d.files = maps.Clone(d.files)
	if d.files == nil {
		d.files = map[string]string{}
	}
	maps.Copy(d.files, more)
	return d
}

// deviceTest is a disk, what uses it, and whether it may be flashed.
type deviceTest struct {
	disk   fakeDisk
	mounts string
	swaps  string
	serial string // as the user names it
	more   func(Machine)
	want   string // the error of Refuse, with its hints; "" for none
	says   string // the description; "" for any
}

// imageSize is the size of the image that is flashed, in bytes.
const imageSize = 2200 << 20

func (c deviceTest) run(t *testing.T) {
	t.Helper()
	m := machine(t, c.mounts, c.swaps, c.disk)
	if c.more != nil {
		c.more(m)
	}
	d, err := m.Disk(c.disk.name)
	if err != nil {
		t.Fatal(err)
	}
	if c.says != "" && d.Describe() != c.says {
		t.Errorf("it is described as %q, want %q", d.Describe(), c.says)
	}
	err = d.Refuse(Rules{Need: imageSize, Serial: c.serial})
	if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(withHints(err), c.want)) {
		t.Errorf("%v; want %q", err, c.want)
	}
}

// TestRefuseDevices: cards are accepted, disks that are too small, read-only or not
// removable are refused.
func TestRefuseDevices(t *testing.T) {
	for name, c := range map[string]deviceTest{
		"a card in a reader":    {disk: usbReader, says: "/dev/sdb, Generic STORAGE DEVICE, usb, serial 000000001532, 31.9 GB"},
		"a card in a laptop":    {disk: laptopSD, says: "/dev/mmcblk0, SR32G, mmc, serial 0x3b2a1c4d, 31.9 GB"},
		"the right serial":      {disk: usbReader, serial: "000000001532"},
		"another serial":        {disk: usbReader, serial: "7", want: `has serial "000000001532", want "7"`},
		"a reader without card": {disk: with(usbReader, map[string]string{"size": "0"}), want: "has no card in it"},
		"a card that is locked": {disk: with(usbReader, map[string]string{"ro": "1"}),
			want: "is read-only\nhint: check the write-protection slide"},
		"a card too small":     {disk: with(usbReader, map[string]string{"size": "1048576"}), want: "has 537 MB, and the image needs 2.3 GB"},
		"a disk inside":        {disk: sata, want: "is not removable, and has no serial by which it could be named"},
		"an NVMe":              {disk: nvme, want: "the disk is not removable (/dev/nvme0n1, Samsung SSD 980, nvme, serial S64DNX0R, 31.9 GB)"},
		"an NVMe by serial":    {disk: nvme, serial: "S64DNX0R"},
		"a wrong serial":       {disk: nvme, serial: "S64", want: "is not removable"},
		"a laptop's eMMC":      {disk: eMMC, want: "is not removable"},
		"a backup on USB":      {disk: backupHD, want: "is not removable (/dev/sdc, WD Elements 25A2, usb, serial 575834314, 2000.4 GB)"},
		"it, when it is named": {disk: backupHD, serial: "575834314"},
		"sectors of 512 bytes": {disk: with(usbReader, map[string]string{"queue/logical_block_size": "512"})},
		"sectors of 4096 bytes": {disk: with(usbReader, map[string]string{"queue/logical_block_size": "4096"}),
			want: "has sectors of 4096 bytes"},
		"a loop device with sectors of 4096 bytes": {disk: fakeDisk{name: "loop4", at: "virtual/block",
			files: map[string]string{"queue/logical_block_size": "4096"}}, want: "has sectors of 4096 bytes"},
		"a loop device": {disk: fakeDisk{name: "loop3", at: "virtual/block",
			files: map[string]string{"loop/backing_file": "/home/anna/card.img"}}, says: "/dev/loop3, /home/anna/card.img, loop, 31.9 GB"},
	} {
		t.Run(name, c.run)
	}
}

// TestRefuseDevicesInUse: disks that are mounted, hold swap or are part of another
// device are refused.
func TestRefuseDevicesInUse(t *testing.T) {
	for name, c := range map[string]deviceTest{
		"a mounted partition": {disk: usbReader, mounts: mount("sdb:2", "/media/anna/SLOT-A", "/dev/sdb2"),
			want: "is mounted on /media/anna/SLOT-A\nhint: unmount it first: umount /media/anna/SLOT-A"},
		"a name with a blank": {disk: usbReader, mounts: mount("sdb:1", `/media/my\040card`, "/dev/sdb1"),
			want: "is mounted on /media/my card"},
		"two that are mounted": {disk: usbReader, mounts: mount("sdb:1", "/a", "/dev/sdb1") + mount("sdb:4", "/b", "/dev/sdb4"),
			want: "umount /a /b"},
		"a mounted disk":        {disk: usbReader, mounts: mount("8:00", "/mnt", "/dev/sdb"), want: "is mounted on /mnt"},
		"btrfs has own numbers": {disk: usbReader, mounts: mount("0:45", "/mnt", "/dev/sdb1"), want: "is mounted on /mnt"},
		"others are mounted":    {disk: usbReader, mounts: mount("259:1", "/", "/dev/nvme0n1p1") + mount("0:22", "/proc", "proc")},
		"the running system":    {disk: nvme, mounts: mount("nvme0n1:2", "/", "/dev/nvme0n1p2"), want: "holds the running system"},
		"its boot partition":    {disk: nvme, mounts: mount("nvme0n1:1", "/boot/efi", "/dev/nvme0n1p1"), want: "holds the running system"},
		"it, though it is named": {disk: nvme, serial: "S64DNX0R", mounts: mount("nvme0n1:2", "/", "/dev/nvme0n1p2"),
			want: "holds the running system"},
		"it, on a USB stick": {disk: usbReader, mounts: mount("sdb:2", "/", "/dev/sdb2"), want: "holds the running system"},
		"it, encrypted in LVM": {disk: nvme, mounts: mount("254:1", "/", "/dev/mapper/vg-root"), more: func(m Machine) {
			m.dm(t, "nvme0n1p3", "dm-0", "crypt", "254:0")
			m.dm(t, "dm-0", "dm-1", "vg-root", "254:1")
		}, want: "holds the running system"},
		"swap": {disk: usbReader, swaps: "/dev/sdb4 partition 1000 0 -2", want: "is in use: swap on /dev/sdb4"},
		"part of LVM": {disk: usbReader, more: func(m Machine) { m.dm(t, "sdb1", "dm-0", "vg-data", "254:0") },
			want: "is in use: /dev/sdb1 is part of vg-data"},
	} {
		t.Run(name, c.run)
	}
}

// withHints returns the text of an error with its hints, as it is printed.
func withHints(err error) string {
	return strings.Join(append([]string{err.Error()}, hint.Of(err)...), "\nhint: ")
}

// TestListAndFind: all disks are shown, partitions and directories are refused.
func TestListAndFind(t *testing.T) {
	m := machine(t, "", "", usbReader, laptopSD, sata, nvme)
	list, err := m.List()
	if err != nil || len(list) != 4 || list[0].Path != "/dev/mmcblk0" {
		t.Errorf("%+v %v", list, err)
	}
	if _, err := m.Disk("sdb2"); err == nil || !strings.Contains(err.Error(), "is a partition") {
		t.Errorf("a partition: %v", err)
	}
	if _, err := m.Disk("sdz"); err == nil {
		t.Error("a disk that is not there")
	}
	if _, err := m.Find(t.TempDir()); err == nil || !strings.Contains(err.Error(), "neither a disk nor a file") {
		t.Errorf("a folder: %v", err)
	}
	if _, err := m.Find("/dev/nothing"); err == nil {
		t.Error("a device that is not there would become a file in /dev")
	}
	if _, err := m.Find(""); err == nil || !strings.Contains(err.Error(), "the name of the device is empty") {
		t.Errorf("an empty name: %v", err)
	}
	file := filepath.Join(t.TempDir(), "card.img")
	if d, err := m.Find(file); err != nil || d.Refuse(Rules{Need: 1 << 40}) != nil {
		t.Errorf("a file that is to be made: %v", err)
	}
	if err := os.WriteFile(file, make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	if d, err := m.Find(file); err != nil || d.Size != 1000 || d.Refuse(Rules{Need: 2000}) == nil {
		t.Errorf("a file that is too small: %+v %v", d, err)
	}
}
