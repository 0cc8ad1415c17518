package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInspectAndDiff builds two images and looks into them, whole and broken,
// as directory, disk image, and card that bmaptool wrote.
func TestInspectAndDiff(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	ok(t, dir, "build", "--zst", "-o", "a", "image.yaml")
	edit(t, dir+"/image.yaml", "dropbear]", "dropbear, chrony]")
	edit(t, dir+"/image.yaml", "name: twin", "name: twin\nkernel: {words: [fan=1]}")
	write(t, dir+"/files/etc/hello", "hello again\n", 0o644)
	ok(t, dir, "build", "-o", "b", "image.yaml")

	// A card with an earlier life: what the map leaves out keeps its bytes.
	must(t, dir, "head -c 348127232 /dev/zero | tr '\\0' 'x' | head -c $(stat -c %s a/disk.img) > card")
	must(t, dir, "bmaptool -q copy --bmap a/disk.img.bmap a/disk.img.zst card")
	must(t, dir, "zstd -dq a/disk.img.zst -o whole && cmp whole a/disk.img")
	for _, path := range []string{"a", "a/artifact", "a/disk.img", "a/disk.img.zst", "card"} {
		out := ok(t, dir, "inspect", path)
		for _, want := range []string{"image    twin 1.0, for rpi3 rpi4 vm", "chain    verified: signed by a key of its own initramfs",
			"verity root "} {
			if !strings.Contains(out, want) {
				t.Errorf("inspect %s: no %q in\n%s", path, want, out)
			}
		}
		if strings.Contains(path, "disk") && strings.Count(out, "chain    verified") != 2 {
			t.Errorf("inspect %s does not find both slots whole:\n%s", path, out)
		}
	}
	if out := ok(t, dir, "inspect", "--packages", "a"); !strings.Contains(out, "\n    dropbear 20") {
		t.Errorf("inspect --packages:\n%s", out)
	}
	var result struct {
		Result struct {
			Slots []struct{ Digest, Signed string }
		} `json:"result"`
	}
	if err := json.Unmarshal([]byte(ok(t, dir, "inspect", "--json", "a/disk.img")), &result); err != nil || len(result.Result.Slots) != 2 ||
		result.Result.Slots[0].Digest == "" {
		t.Errorf("inspect --json: %+v, %v", result, err)
	}
	diff := ok(t, dir, "diff", "a/disk.img.zst", "b/disk.img")
	for _, want := range []string{"  + chrony (", "  + fan=1\n", "  ~ /etc/hello (-rw-r--r-- 0:0, 6 bytes", "-> -rw-r--r-- 0:0, 12 bytes",
		"  ~ root.squashfs (", "size: "} {
		if !strings.Contains(diff, want) {
			t.Errorf("diff: no %q in\n%s", want, diff)
		}
	}
	if out := ok(t, dir, "diff", "a", "card"); !strings.Contains(out, "packages: 0 differ\nkernel command line: 0 differ\nfiles of the "+
		"root: 0 differ\nfiles outside the root: 0 differ") {
		t.Errorf("diff of an image with a card of it:\n%s", out)
	}
	inspectBroken(t, dir)
}

// inspectBroken changes one thing at a time.
func inspectBroken(t *testing.T, dir string) {
	t.Helper()
	key := filepath.Join(t.TempDir(), "other.key")
	if err := makeKey(key); err != nil {
		t.Fatal(err)
	}
	must(t, dir, "openssl pkey -in "+key+" -pubout -out other.pub && openssl pkey -in "+dir+
		"/.config/pikelet/development.key -pubout -out own.pub")
	if out := ok(t, dir, "inspect", "--key", "own.pub", "a"); !strings.Contains(out, "signed by a key you gave") {
		t.Errorf("with the right key:\n%s", out)
	}
	fails(t, dir, []string{"inspect", "--key", "other.pub", "a"}, "BROKEN", "not signed by a key you gave")
	fails(t, dir, []string{"inspect", "image.yaml"}, "partition table")
	fails(t, dir, []string{"inspect", "files"}, "no OCI layout")
	fails(t, dir, []string{"inspect", "none"}, "no such file")
	fails(t, dir, []string{"diff", "a"}, "want two images")
	out, err := exec.Command("sh", "-c", "ls -S "+dir+"/a/artifact/blobs/sha256 | head -2").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, blob := range strings.Fields(string(out)) { // the root and the kernel
		name := dir + "/a/artifact/blobs/sha256/" + blob
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(b)
		bad[len(bad)/2] ^= 1
		write(t, name, string(bad), 0o644)
		fails(t, dir, []string{"inspect", "a"}, "BROKEN", "was changed: its digest is", "verification failed for 1 of 1 images")
		write(t, name, string(b), 0o644)
	}
	must(t, dir, "truncate -s 100M card")
	fails(t, dir, []string{"inspect", "card"}, "BROKEN")
}

// TestInitWritesASpec: what init writes is a spec, but for what it says to
// change.
func TestInitWritesASpec(t *testing.T) {
	dir := t.TempDir() + "/My Lab!"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if out := ok(t, dir, "init"); !strings.Contains(out, "pikelet build image.yaml") {
		t.Errorf("init says\n%s", out)
	}
	b, err := os.ReadFile(dir + "/image.yaml")
	if err != nil || !strings.Contains(string(b), "\nname: my-lab\n") {
		t.Errorf("%v\n%s", err, b)
	}
	if _, err := os.Stat(dir + "/image.schema.json"); err != nil {
		t.Error(err)
	}
	out, code := pikelet(t, dir, nil, "build", "image.yaml")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != exitUsage || len(lines) != 4 || !strings.Contains(out, "no file keys/alpine-devel") ||
		!strings.Contains(out, "mirror: MIRROR stands for") || !strings.Contains(out, "overlays[0].with.keys: this is the example key") {
		t.Errorf("its spec has other mistakes than what is to be changed: exit %d\n%s", code, out)
	}
	fails(t, dir, []string{"init"}, "image.yaml was left as it is: file already exists")
	ok(t, dir, "node", "init")
	fails(t, dir, []string{"node", "init"}, "nodes.yaml was left as it is: file already exists")
	fails(t, dir, []string{"init", "a", "b"}, "want one file")
}
