package initrd

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// TestCpioReadsIt lets the real tools list the archive.
func TestCpioReadsIt(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs cpio")
	}
	files := []File{{"init", 0o755, []byte("program")}, {"etc/pikelet/boot.json", 0o644, []byte("{}")},
		{"modules/00-a.ko", 0o644, bytes.Repeat([]byte("x"), 5000)}}
	packed, err := Pack(files, time.Unix(1_700_000_000, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Pack(files, time.Unix(1_700_000_000, 0), false)
	if err != nil || !bytes.Equal(packed, again) {
		t.Errorf("packing twice gives other bytes (%v)", err)
	}
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cpio", "-itvn", "--quiet")
	cmd.Env = []string{"TZ=UTC", "LC_ALL=C"}
	cmd.Stdin = bytes.NewReader(raw)
	out, err := cmd.CombinedOutput()
	want := `-rwxr-xr-x   1 0        0               7 Nov 14  2023 init
drwxr-xr-x   2 0        0               0 Nov 14  2023 etc
drwxr-xr-x   2 0        0               0 Nov 14  2023 etc/pikelet
-rw-r--r--   1 0        0               2 Nov 14  2023 etc/pikelet/boot.json
drwxr-xr-x   2 0        0               0 Nov 14  2023 modules
-rw-r--r--   1 0        0            5000 Nov 14  2023 modules/00-a.ko
`
	if err != nil || string(out) != want {
		t.Errorf("cpio: %v\n%s\nwant\n%s", err, out, want)
	}
}

// TestReadFile: a file of an initramfs is found by its name, and bounded.
func TestReadFile(t *testing.T) {
	packed, err := Pack([]File{{"init", 0o755, bytes.Repeat([]byte("program"), 1000)}, {"etc/pikelet/boot.json", 0o644, []byte("{}")},
		{"modules/a.ko", 0o644, nil}}, time.Unix(1_700_000_000, 0), false)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		packed []byte
		file   string
		limit  int64
		want   string // of the error; "" is read
	}{
		"there":     {packed, "etc/pikelet/boot.json", 2, ""},
		"too large": {packed, "etc/pikelet/boot.json", 1, "has 2 bytes, want at most 1"},
		"not there": {packed, "boot.json", 100, `file "boot.json" not found`},
		"cut off":   {packed[:len(packed)-20], "modules/b.ko", 100, "reading the initramfs"},
		"no zstd":   {[]byte("the initramfs\n"), "init", 100, "reading the initramfs"},
		"empty":     {nil, "init", 100, "not found"},
	} {
		b, err := ReadFile(bytes.NewReader(c.packed), c.file, c.limit)
		if (err == nil) != (c.want == "") || err == nil && string(b) != "{}" || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q, %v; want %q", name, b, err, c.want)
		}
	}
}
