package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// withHints returns the text of an error with its hints, as it is printed.
func withHints(err error) string {
	return strings.Join(append([]string{err.Error()}, hint.Of(err)...), "\nhint: ")
}

func quietApp() *app { return newApp("dev", nil, io.Discard, io.Discard) }

// TestCompressedInputs: what is compressed with anything but zstd is told by its
// name, with the command that undoes it, wherever a disk image is taken.
func TestCompressedInputs(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ head, want string }{
		"a.img.xz":  {"\xfd7zXZ\x00\x00\x04", "compressed with xz\nhint: decompress it first: xz -dk "},
		"a.img.gz":  {"\x1f\x8b\x08\x00", "compressed with gzip"},
		"a.tar.gz":  {"\x1f\x8b\x08\x00", "compressed with gzip"},
		"a.zip":     {"PK\x03\x04\x14\x00", "compressed with zip\nhint: decompress it first: unzip "},
		"a.img.bz2": {"BZh91AY", "compressed with bzip2"},
		"a.img":     {"\xfd7zXZ\x00", "compressed with xz"}, // whatever it is called
		"a.tar":     {"\x1f\x8b", "compressed with gzip"},
		"b.img":     {"\x28\xb5\x2f\xfd\x04\x00\x51", "decompressing"}, // zstd, and cut off
	} {
		file := filepath.Join(dir, name)
		write(t, file, c.head, 0o644)
		var o imageOptions
		options, err := o.registry()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := o.locate(context.Background(), file, options); err == nil || !strings.Contains(withHints(err), c.want) {
			t.Errorf("flash %s: %v, want %q", name, err, c.want)
		}
		if _, err := o.local(context.Background(), file, t.TempDir()); err == nil || !strings.Contains(withHints(err), c.want) {
			t.Errorf("inspect %s: %v, want %q", name, err, c.want)
		}
	}
}

// TestFlashOntoItself: an image is not written onto the file or device it is read
// from, under whatever name, and an empty device is an error of its own.
func TestFlashOntoItself(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "disk.img"), filepath.Join(dir, "link")
	write(t, file, "image", 0o644)
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, device := range []string{file, link} {
		err := runFlash(context.Background(), file, device, flashOptions{Yes: true}, quietApp())
		if err == nil || !strings.Contains(err.Error(), "is both the image and the device") {
			t.Errorf("%s: %v", device, err)
		}
	}
	if err := runFlash(context.Background(), file, "", flashOptions{Yes: true}, quietApp()); err == nil ||
		!strings.Contains(err.Error(), "the name of the device is empty") {
		t.Errorf("no device: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "image" {
		t.Errorf("the image is %q (%v)", b, err)
	}
}

// TestWithoutHome: without a home directory errors name the flag that stands for
// what would be there, and a flag that is given needs none.
func TestWithoutHome(t *testing.T) {
	for _, name := range []string{"HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"} {
		t.Setenv(name, "")
	}
	if dir, err := cacheDir("named"); err != nil || dir != "named" {
		t.Errorf("a cache that is named: %q, %v", dir, err)
	}
	if _, err := cacheDir(""); err == nil || !strings.Contains(withHints(err), "set HOME, or name a directory with --cache DIR") {
		t.Errorf("the cache: %v", err)
	}
	if _, err := signingKey("", quietApp()); err == nil || !strings.Contains(withHints(err), "set HOME, or name a key with --sign-key FILE") {
		t.Errorf("the key: %v", err)
	}
}
