package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

func TestSettings(t *testing.T) {
	text := "a=1\n# a=2\n[pi4]\na=3\ninitramfs rd followkernel\n[tryboot]\na=4\n[all]\nlong=" + strings.Repeat("x", 100) + "\n[none]\na=5\n"
	for filter, want := range map[string]string{"pi3": "1", "pi4": "3", "tryboot": "4"} {
		if got := settings(text, []string{"all", filter}, 98)["a"]; got != want {
			t.Errorf("[%s]: a=%s, want %s", filter, got, want)
		}
	}
	set := settings(text, []string{"all", "pi4"}, 78)
	if set["initramfs"] != "rd followkernel" || len(set["long"]) != 78-len("long=") {
		t.Errorf("initramfs %q, a long line of %d characters", set["initramfs"], len(set["long"]))
	}
}

func TestParseRestart(t *testing.T) {
	for console, want := range map[string]Request{
		"reboot: Restarting system\n":                                                                    {},
		"[ 1.2] reboot: Restarting system with command '0 tryboot'\n":                                    {Tryboot: true},
		"reboot: Restarting system with command '3'":                                                     {Partition: 3},
		"reboot: Restarting system with command '2'\nreboot: Restarting system with command '0 tryboot'": {Tryboot: true},
		"": {},
	} {
		if got := parseRestart(console); got != want {
			t.Errorf("%q: %+v, want %+v", console, got, want)
		}
	}
}

func gz(t *testing.T, s string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(s))
	w.Close()
	return b.Bytes()
}

func TestPickMachine(t *testing.T) {
	all := "\n" + strings.Join(virtNeeds, "=y\n") + "=y\n"
	modular := strings.Replace(all, "CONFIG_VIRTIO_BLK=y", "CONFIG_VIRTIO_BLK=m", 1)
	for what, c := range map[string]struct {
		h         *Handover
		name, why string
	}{
		"all built in":     {&Handover{KernelConfig: gz(t, all)}, "virt", "has what it needs"},
		"module, board vm": {&Handover{KernelConfig: gz(t, modular), Manifest: []byte(`["vm"]`)}, "virt", "has what it needs"},
		"module, no board": {&Handover{KernelConfig: gz(t, modular), Manifest: []byte(`["rpi3"]`)}, "raspi3b", "not made for board vm"},
		"option missing":   {&Handover{KernelConfig: gz(t, strings.Replace(all, "VIRTIO_PCI", "X", 1))}, "raspi3b", "lacks CONFIG_VIRTIO_PCI"},
		"no config":        {&Handover{}, "raspi3b", "does not say"},
		"damaged":          {&Handover{KernelConfig: []byte("x")}, "raspi3b", "can't be read"},
	} {
		if m, why := pick(c.h); m.name != c.name || !strings.Contains(why, c.why) {
			t.Errorf("%s: %s, because %s", what, m.name, why)
		}
	}
}

// TestDescribeIsReadableByDtc gives edited trees to the device-tree compiler.
func TestDescribeIsReadableByDtc(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs dtc")
	}
	src := `/dts-v1/; /memreserve/ 0x1000 0x2000; / { compatible = "a", "b"; chosen { bootargs = "x"; }; cpus { cpu@0 { reg = <0>; }; }; };`
	dir := t.TempDir()
	dts, dtb := filepath.Join(dir, "in.dts"), filepath.Join(dir, "in.dtb")
	if err := os.WriteFile(dts, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("dtc", "-q", "-O", "dtb", "-o", dtb, dts).CombinedOutput(); err != nil {
		t.Fatalf("dtc: %v\n%s", err, out)
	}
	b, err := os.ReadFile(dtb)
	if err != nil {
		t.Fatal(err)
	}
	edited, err := describe(b, &Handover{Partition: 3, Tryboot: true}, "10000000abcdef01", true)
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out.dtb")
	os.WriteFile(out, edited, 0o600)
	text, err := exec.Command("dtc", "-q", "-I", "dtb", "-O", "dts", out).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`/memreserve/	0x0000000000001000 0x0000000000002000;`, `compatible = "a`, `bootargs = "x"`,
		`serial-number = "10000000abcdef01"`,
		"partition = <0x03>", "tryboot = <0x01>", "boot-mode = <0x01>", "reg = <0x00>"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("dtc does not show %s in\n%s", want, text)
		}
	}
}

func FuzzParseFDT(f *testing.F) {
	t := &fdt{reserved: make([]byte, 16), root: &fdtNode{}}
	t.root.child("chosen").setString("bootargs", "x")
	f.Add(t.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := parseFDT(b)
		if err != nil {
			return
		}
		again, err := parseFDT(tree.encode())
		if err != nil || !bytes.Equal(again.encode(), tree.encode()) {
			t.Fatalf("a tree does not survive being written (%v)", err)
		}
	})
}

func TestCopySparseKeepsHoles(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	f.Truncate(64 << 20)
	f.WriteAt([]byte("middle"), 32<<20)
	f.Close()
	if err := CopySparse(from, to); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(from)
	b, err := os.ReadFile(to)
	if err != nil || !bytes.Equal(a, b) {
		t.Fatalf("the copy differs (%v)", err)
	}
	out, err := exec.Command("du", "-k", to).Output()
	if err != nil || len(strings.Fields(string(out))[0]) > 3 {
		t.Errorf("64 MiB of holes take %s KiB", strings.Fields(string(out))[0])
	}
}
