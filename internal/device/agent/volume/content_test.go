package volume

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// size of the disks of these tests, bytes.
const size = 64 << 20

// textAt writes a text to a place of a disk.
func textAt(offset int64, text string) func(string) error {
	return func(name string) error {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte(text), offset)
		return err
	}
}

// tool runs a program on a disk.
func tool(t *testing.T, args ...string) func(string) error {
	return func(name string) error {
		cmd := exec.Command(args[0], append(args[1:], name)...)
		cmd.Stdin = strings.NewReader("label: gpt\n")
		if args[0] == "sfdisk-dos" {
			cmd = exec.Command("sfdisk", name)
			cmd.Stdin = strings.NewReader("label: dos\n1M,2M\n")
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		return err
	}
}

// TestIdentifyWhatToolsMake lets the tools make what must never be formatted.
func TestIdentifyWhatToolsMake(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs the tools that make filesystems")
	}
	for _, c := range []struct {
		name, want string
		make       func(string) error
	}{
		{"nothing", "nothing", func(string) error { return nil }},
		{"ext4 of ours", `an ext filesystem labelled "attic"`, tool(t, "mkfs.ext4", "-q", "-F", "-L", "attic")},
		{"ext4 of others", `an ext filesystem labelled "cellar"`, tool(t, "mkfs.ext4", "-q", "-F", "-L", "cellar")},
		{"ext4 without a label", "an ext filesystem without a label", tool(t, "mkfs.ext4", "-q", "-F")},
		{"FAT", "a FAT filesystem", tool(t, "mkfs.vfat", "-F", "32")},
		{"swap", "swap space", tool(t, "mkswap", "-q")},
		{"GPT", "a GPT partition table", tool(t, "sfdisk", "-q")},
		{"MBR", "a partition table", tool(t, "sfdisk-dos")},
		{"squashfs", "a squashfs filesystem", textAt(0, "hsqs")},
		{"LUKS", "an encrypted disk (LUKS)", textAt(0, "LUKS\xba\xbe")},
		{"LVM", "a volume of LVM", textAt(512, "LABELONE")},
		{"XFS", "an XFS filesystem", textAt(0, "XFSB")},
		{"btrfs", "a btrfs filesystem", textAt(0x10040, "_BHRfS_M")},
		{"one byte at the beginning", "data of an unknown kind at its beginning", textAt(5<<20, "x")},
		{"one byte at the end", "data of an unknown kind at its end", textAt(size-1, "x")},
	} {
		name := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, size); err != nil {
			t.Fatal(err)
		}
		if err := c.make(name); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := identify(f, size)
		f.Close()
		if err != nil || got.What != c.want {
			t.Errorf("%s: %q (%v), want %q", c.name, got.What, err, c.want)
		}
		format, err := got.mayUse("/dev/x", "attic", true, false)
		if format != (c.name == "nothing") {
			t.Errorf("%s may be formatted: %v", c.name, format)
		}
		if (err == nil) != (c.name == "nothing" || c.name == "ext4 of ours") {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := got.mayUse("/dev/x", "attic", false, false); (err == nil) != (c.name == "ext4 of ours") {
			t.Errorf("%s without format: blank: %v", c.name, err)
		}
	}
}
