package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/pikelet-os/pikelet/layers/apk"
)

// largestFile is what is left of each file in the small repository: builds cost
// by the byte, and most tests look at none of these bytes.
const largestFile = 64 << 10

// small is a copy of the starter repository with the names, owners, modes and
// dependencies of its packages, but no more than the beginnings of large files.
// Builds of it take a fraction of the time. Its images do not boot.
var small struct {
	sync.Once
	dir string
}

// starterFolder returns the starter repository that make starter made.
func starterFolder(t *testing.T) string {
	t.Helper()
	needsStarter(t)
	dir, err := filepath.Abs("../../../build/starter")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/aarch64/APKINDEX.tar.gz"); err != nil {
		t.Fatalf("%v; make starter makes it", err)
	}
	return dir
}

// smallStarter returns the small repository, which the first caller makes.
func smallStarter(t *testing.T) string {
	t.Helper()
	from := starterFolder(t)
	small.Do(func() {
		dir, err := os.MkdirTemp("", "pikelet-starter-")
		if err != nil {
			t.Fatal(err)
		}
		shrinkRepository(t, from, dir)
		small.dir = dir
	})
	if small.dir == "" {
		t.Fatal("a test before this one failed to make the small repository")
	}
	return small.dir
}

// shrinkRepository writes the small repository into a directory, signed by the
// starter repository's key. Packages that few images have are links.
func shrinkRepository(t *testing.T, from, to string) {
	t.Helper()
	const keyName = "starter.rsa.pub"
	key, err := apk.OpenKey(from+"/starter.rsa", keyName)
	if err != nil {
		t.Fatal(err)
	}
	public := mustRead(t, from+"/"+keyName)
	write(t, to+"/"+keyName, public, 0o644)
	keys := apk.Keyring{}
	if err := keys.Add(keyName, []byte(public)); err != nil {
		t.Fatal(err)
	}
	index, err := apk.ReadIndex([]byte(mustRead(t, from+"/aarch64/APKINDEX.tar.gz")), keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(to+"/aarch64", 0o755); err != nil {
		t.Fatal(err)
	}
	cut := map[string]bool{}
	chosen, err := apk.Solve(deps(t, "alpine-base raspberrypi-bootloader dropbear chrony e2fsprogs"), []apk.Source{{Index: index}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range chosen {
		cut[p.String()] = p.Size > largestFile
	}
	for i, p := range index.Packages {
		name := "/aarch64/" + p.FileName()
		if !cut[p.String()] && p.Name != "linux-rpi" {
			if err := os.Symlink(from+name, to+name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		b := []byte(mustRead(t, from+name))
		a, err := apk.OpenArchive(bytes.NewReader(b), int64(len(b)), p, keys)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if index.Packages[i], err = apk.WritePackage(&out, *a.Info, shrunkFiles(t, a), key); err != nil {
			t.Fatal(err)
		}
		write(t, to+name, out.String(), 0o644)
	}
	b, err := apk.WriteIndex(index, key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to+"/aarch64/APKINDEX.tar.gz", string(b), 0o644)
}

// shrunkFiles returns the files of a package, large ones cut. What the builder
// reads stays whole: modules, unless no board's initramfs has them, and the text
// in /boot and /lib/modules.
func shrunkFiles(t *testing.T, a *apk.Archive) []apk.File {
	t.Helper()
	var files []apk.File
	err := a.Unpack(func(h *tar.Header, r io.Reader) error {
		isModule := strings.Contains(h.Name, "/kernel/") && strings.HasPrefix(h.Name, "lib/modules/")
		if isModule && h.Typeflag == tar.TypeReg && !neededModule(h.Name) {
			return nil
		}
		whole := strings.HasPrefix(h.Name, "lib/modules/") || strings.HasPrefix(h.Name, "boot/config")
		if !whole && h.Typeflag == tar.TypeReg {
			h.Size = min(h.Size, largestFile)
		}
		b := make([]byte, h.Size)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		delete(h.PAXRecords, apk.ChecksumRecord)
		files = append(files, apk.File{Header: h, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// neededModule reports whether the small repository has a module. Those of
// network filters, wireless and remote file systems are many; no initramfs has
// them, and no board of the tests wants them.
func neededModule(name string) bool {
	_, name, _ = strings.Cut(name, "/kernel/")
	if strings.HasPrefix(name, "net/core/") {
		return true
	}
	for _, prefix := range []string{"net/", "fs/xfs/", "fs/nfs", "fs/lockd/", "fs/netfs/", "drivers/net/wireless/", "drivers/net/vxlan/",
		"drivers/net/wireguard/"} {
		if strings.HasPrefix(name, prefix) {
			return false
		}
	}
	return true
}

// warm is a cache after a build of newSpec's spec.
var warm struct {
	sync.Once
	dir string
}

// warmCache gives builds in dir a copy of a cache that knows the packages of
// newSpec. Tests whose matter is not how an image comes about begin with it.
func warmCache(t *testing.T, dir string) {
	t.Helper()
	warm.Do(func() {
		made, err := os.MkdirTemp("", "pikelet-warm-")
		if err != nil {
			t.Fatal(err)
		}
		newSpec(t, made)
		ok(t, made, "build", "-o", "out", "image.yaml")
		must(t, made, "rm -rf out files image.yaml starter")
		warm.dir = made
	})
	if warm.dir == "" {
		t.Fatal("a test before this one failed to fill the cache")
	}
	must(t, dir, "mkdir -p cache && cp -a "+warm.dir+"/cache/pikelet cache/")
}

// newSpec writes a spec over the small repository, with a directory layer.
func newSpec(t *testing.T, dir string) {
	t.Helper()
	newSpecOver(t, dir, smallStarter(t))
}

// newSpecOver is newSpec over another repository, as the starter's own, whose
// images boot and need larger slots.
func newSpecOver(t *testing.T, dir, starter string) {
	t.Helper()
	write(t, dir+"/image.yaml", `name: twin
release: "1.0"
boards: [rpi3, rpi4, vm]
repositories:
  - url: starter
    keys: [starter/starter.rsa.pub]
packages: [alpine-base, raspberrypi-bootloader, dropbear]
layers:
  - folder: files
services:
  default: [dropbear]
config:
  all: {lines: [disable_splash=1]}
  rpi4: {lines: [over_voltage=2]}
slot-size: 34MiB
`, 0o644)
	write(t, dir+"/files/etc/hello", "hello\n", 0o644)
	write(t, dir+"/files/usr/bin/hi", "#!/bin/sh\necho hi\n", 0o755)
	if err := os.Symlink("hello", dir+"/files/etc/hallo"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(starter, dir+"/starter"); err != nil {
		t.Fatal(err)
	}
}
