package builder

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/kmod"
)

// kernel is the kernel of a tree.
type kernel struct {
	Package string
	Image   string // path in the tree
	Release string
	Modules kmod.Set
}

// configFile is where the kernel's package says how it was built.
func (k *kernel) configFile() string { return strings.Replace(k.Image, "vmlinuz", "config", 1) }

// maxKernel bounds kernels and modules; Debian's arm64 kernel has 38 MB.
const maxKernel = 256 << 20

// findKernel finds the one kernel of the tree and reads all its modules, on so
// many cores.
func findKernel(ctx context.Context, t *layers.Tree, pkg string, workers int, c *contents) (*kernel, error) {
	k := &kernel{Package: pkg, Modules: kmod.Set{Modules: map[string]*kmod.Module{}}}
	var images []string
	for _, e := range t.Below("boot") {
		if strings.HasPrefix(path.Base(e.Name), "vmlinuz") && e.Typeflag == tar.TypeReg {
			images = append(images, e.Name)
		}
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("the packages hold %d kernels in /boot (%s), want one, of %s", len(images), strings.Join(images, " "), pkg)
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
	var modules []*layers.Entry
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
			modules = append(modules, e)
		}
	}
	list, err := readModules(ctx, t, at, modules, workers, c)
	for _, m := range list {
		k.Modules.Modules[m.Name] = m
	}
	return k, err
}

// readModules reads what the modules in the directory at say of themselves. Most
// of the work is to decompress them, and it is done once for each set of them.
func readModules(ctx context.Context, t *layers.Tree, at string, modules []*layers.Entry, workers int,
	c *contents) ([]*kmod.Module, error) {
	all := sha256.New()
	for _, e := range modules {
		fmt.Fprintf(all, "%q %x\n", strings.TrimPrefix(e.Name, at+"/"), e.Content.Sum)
	}
	b, err := c.blob(c.key("modules", all.Sum(nil)), func() ([]byte, error) {
		list := make([]*kmod.Module, len(modules))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(max(1, workers))
		for i, e := range modules {
			group.Go(func() error {
				if err := ctx.Err(); err != nil {
					return err
				}
				b, err := readModule(t, e.Name)
				if err != nil {
					return err
				}
				list[i], err = kmod.Read(strings.TrimPrefix(e.Name, at+"/"), b)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		var b bytes.Buffer
		err := gob.NewEncoder(&b).Encode(list)
		return b.Bytes(), err
	})
	if err != nil {
		return nil, err
	}
	var list []*kmod.Module
	err = gob.NewDecoder(bytes.NewReader(b)).Decode(&list)
	return list, err
}

func readModule(t *layers.Tree, name string) ([]byte, error) {
	b, err := t.ReadFile(name, maxKernel)
	if err != nil {
		return nil, err
	}
	return kmod.Decompress(name, b)
}

// keptModule is readModule for those that are packed: they are kept.
func keptModule(t *layers.Tree, name string, c *contents) ([]byte, error) {
	e := t.Lookup(name)
	if e == nil || e.Content == nil {
		return nil, fmt.Errorf("the tree has no file %q", name)
	}
	return c.blob(c.key("module", e.Content.Sum), func() ([]byte, error) { return readModule(t, name) })
}

// depmod writes the files modprobe reads, busybox' and kmod's. A package's own
// are replaced: ours are known to be of these very modules.
func (k *kernel) depmod(t *layers.Tree, epoch time.Time) error {
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
