package builder

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers"
)

// newContents keeps what the files of a test hold.
func newContents(t *testing.T) *contents {
	t.Helper()
	c, err := openContents(Inputs{Workers: 2}, squashfs.Fast(), 1<<30, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// withHints returns an error's text and, on lines of their own, its hints.
func withHints(err error) string {
	return strings.Join(append([]string{err.Error()}, hint.Of(err)...), "\n")
}

func treeOf(t *testing.T, files map[string]string) *layers.Tree {
	t.Helper()
	tree := layers.NewTree(newContents(t).spool)
	for name, text := range files {
		if err := tree.AddFile(tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(1, 0)}, "test", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestMissingBoardFiles(t *testing.T) {
	k := &kernel{Package: "linux-rpi", Image: "boot/vmlinuz-rpi"}
	all := map[string]string{"boot/bcm2710-rpi-3-b.dtb": "dtb", "boot/start.elf": "gpu", "boot/fixup.dat": "fix",
		"boot/bootcode.bin": "…tryboot_a_b…"}
	for drop, want := range map[string]string{
		"":                         "",
		"boot/bcm2710-rpi-3-b.dtb": "package linux-rpi has no device tree bcm2710-rpi-3-b.dtb",
		"boot/fixup.dat":           "/boot/fixup.dat\nadd raspberrypi-bootloader to packages",
		"boot/bootcode.bin":        "add raspberrypi-bootloader-common to packages",
	} {
		files := map[string]string{}
		for name, text := range all {
			if name != drop {
				files[name] = text
			}
		}
		b := &bootFiles{Files: map[string][]byte{}}
		err := b.addBoard(treeOf(t, files), k, boardsNamed(t, "rpi3")[0])
		if want == "" && (err != nil || len(b.Files) != 4) {
			t.Errorf("a whole board: %d files, %v", len(b.Files), err)
		}
		if want != "" && (err == nil || !strings.Contains(withHints(err), want)) {
			t.Errorf("without %s: %v, want %q", drop, err, want)
		}
	}
	all["boot/bootcode.bin"] = "of 2022"
	b := &bootFiles{Files: map[string][]byte{}}
	if err := b.addBoard(treeOf(t, all), k, boardsNamed(t, "rpi3")[0]); err == nil ||
		!strings.Contains(err.Error(), "does not support tryboot_a_b") {
		t.Errorf("an old bootcode.bin: %v", err)
	}
}

func TestKernelIsGzippedByUs(t *testing.T) {
	raw := strings.Repeat("kernel ", 1000)
	k := &kernel{Image: "boot/vmlinuz-rpi"}
	packed, err := kernelImage(treeOf(t, map[string]string{"boot/vmlinuz-rpi": raw}), k, newContents(t))
	if err != nil || len(packed) >= len(raw) {
		t.Fatalf("%d bytes of %d, %v", len(packed), len(raw), err)
	}
	if _, err := gzip.NewReader(bytes.NewReader(packed)); err != nil {
		t.Error(err)
	}
	// Whoever gzipped it before: nodes can only do again what we did.
	var others bytes.Buffer
	w, err := gzip.NewWriterLevel(&others, gzip.HuffmanOnly)
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte(raw))
	w.Close()
	again, err := kernelImage(treeOf(t, map[string]string{"boot/vmlinuz-rpi": others.String()}), k, newContents(t))
	if err != nil || !bytes.Equal(again, packed) {
		t.Errorf("a kernel that was gzipped by others is another one (%v)", err)
	}
}

func TestFindKernelWantsOne(t *testing.T) {
	for what, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"none": {map[string]string{"boot/x": ""}, "hold 0 kernels"},
		"two": {map[string]string{"boot/vmlinuz-rpi": "", "boot/vmlinuz-lts": ""},
			"hold 2 kernels in /boot (boot/vmlinuz-lts boot/vmlinuz-rpi)"},
		"no release": {map[string]string{"boot/vmlinuz-rpi": ""}, "does not say its kernel's release"},
	} {
		if _, err := findKernel(t.Context(), treeOf(t, c.files), "linux-rpi", 2, newContents(t)); err == nil ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}
