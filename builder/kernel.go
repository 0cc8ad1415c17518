package builder

import (
	"archive/tar"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/kmod"
)

// Kernel is the kernel of a tree.
type Kernel struct {
	Package string
	Image   string // path in the tree
	Release string
	Modules kmod.Set
}

// configFile is where the kernel's package says how it was built.
func (k *Kernel) configFile() string { return strings.Replace(k.Image, "vmlinuz", "config", 1) }

// maxKernel bounds kernels and modules; Debian's arm64 kernel has 38 MB.
const maxKernel = 256 << 20

// findKernel finds the one kernel of the tree and reads all its modules.
func findKernel(t *layers.Tree, pkg string) (*Kernel, error) {
	k := &Kernel{Package: pkg, Modules: kmod.Set{Modules: map[string]*kmod.Module{}}}
	var images []string
	for _, e := range t.Below("boot") {
		if strings.HasPrefix(path.Base(e.Name), "vmlinuz") && e.Typeflag == tar.TypeReg {
			images = append(images, e.Name)
		}
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("the packages hold %d kernels in /boot (%s); want one, of %s", len(images), strings.Join(images, " "), pkg)
	}
	k.Image = images[0]
	flavor := strings.TrimPrefix(path.Base(k.Image), "vmlinuz-")
	b, err := t.ReadFile("usr/share/kernel/"+flavor+"/kernel.release", 1<<10)
	if err != nil {
		return nil, fmt.Errorf("package %s does not say its kernel's release: %w", pkg, err)
	}
	k.Release = strings.TrimSpace(string(b))
	dir := "lib/modules/" + k.Release
	at, err := t.Resolve(dir, true)
	if err != nil {
		return nil, err
	}
	for _, e := range t.Below(dir) {
		rel := strings.TrimPrefix(e.Name, at+"/")
		switch {
		case rel == "modules.builtin":
			b, err := t.ReadFile(e.Name, maxKernel)
			if err != nil {
				return nil, err
			}
			k.Modules.Builtin = kmod.ParseBuiltin(b)
		case kmod.NameOf(rel) != "" && e.Typeflag == tar.TypeReg:
			b, err := readModule(t, e.Name)
			if err != nil {
				return nil, err
			}
			m, err := kmod.Read(rel, b)
			if err != nil {
				return nil, err
			}
			k.Modules.Modules[m.Name] = m
		}
	}
	return k, nil
}

func readModule(t *layers.Tree, name string) ([]byte, error) {
	b, err := t.ReadFile(name, maxKernel)
	if err != nil {
		return nil, err
	}
	return kmod.Decompress(name, b)
}

// depmod writes the files modprobe reads, busybox' and kmod's. A package's own
// are replaced: ours are known to be of these very modules.
func (k *Kernel) depmod(t *layers.Tree, epoch time.Time) error {
	dep, err := k.Modules.Dep()
	if err != nil {
		return err
	}
	files, err := k.Modules.Indexes()
	if err != nil {
		return err
	}
	files["modules.dep"], files["modules.alias"], files["modules.softdep"] = dep, k.Modules.Alias(), k.Modules.SoftDep()
	for name, b := range files {
		h := tar.Header{Name: "lib/modules/" + k.Release + "/" + name, Mode: 0o644, ModTime: epoch}
		if err := t.AddFile(h, builderSource, b); err != nil {
			return err
		}
	}
	return nil
}
