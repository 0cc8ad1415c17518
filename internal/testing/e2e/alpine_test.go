//go:build oracle

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/vm"
)

// alpineDir holds Alpine's aarch64 minirootfs and repack-minirootfs.py, which
// makes a signed repository of its packages: make oracle ALPINE=DIR.
var alpineDir = flag.String("alpine", "", "directory with Alpine's minirootfs archives")

// TestAlpinePackagesBoot boots a root of Alpine's own packages, with kernel and
// services of the starter, and asks Alpine's own apk what it thinks of it.
func TestAlpinePackagesBoot(t *testing.T) {
	dir := t.TempDir()
	archive, _ := filepath.Glob(*alpineDir + "/alpine-minirootfs-*-aarch64.tar.gz")
	if len(archive) == 0 {
		t.Fatalf("no aarch64 minirootfs in -alpine %q", *alpineDir)
	}
	if out, err := exec.Command("python3", *alpineDir+"/repack-minirootfs.py", archive[0], dir+"/repacked").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	starter, err := filepath.Abs("../../../build/starter")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf(`name: alpine
release: "1"
boards: [vm]
repositories:
  - {url: repacked, keys: [repacked/repack.rsa.pub]}
  - {url: %s, keys: [%[1]s/starter.rsa.pub]}
packages: [alpine-base, raspberrypi-bootloader, "busybox<1.37", busybox-binsh, apk-tools]
console: root
strict: true
slot-size: 64MiB
`, starter)
	if err := os.WriteFile(dir+"/image.yaml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := buildImage(t, dir+"/image.yaml", dir)
	if err != nil {
		t.Fatal(err)
	}
	p := boot(t, r.Disk, func(o *vm.Options) { o.Snapshot = true })
	p.prompt()
	p.works(`[ -z "$(apk audit | tee /dev/console)" ]`)
	// --system looks at everything, what the node writes on each boot included.
	p.works(`[ -z "$(apk audit --system | grep -vE '^U etc/(hostname|hosts|inittab|motd)$' | tee /dev/console)" ]`)
	p.works("apk info -v | grep busybox-1.36.1-r29")
	p.works(fmt.Sprintf("[ $(apk info -v 2>/dev/null | wc -l) = %d ]", len(r.Plan.Packages)+1))
	p.works(`[ -z "$(apk info -v 2>&1 >/dev/null | tee /dev/console)" ]`)
	p.run("apk info -W /bin/busybox", "/bin/busybox is owned by busybox-1.36.1-r29")
	p.run("apk info -W /etc/os-release", "/etc/os-release is owned by pikelet-image-1")
	p.works("apk info -e alpine-base openrc musl")
	p.works("grep ^klogd: /etc/passwd /etc/shadow /etc/group")
	p.off()
}
