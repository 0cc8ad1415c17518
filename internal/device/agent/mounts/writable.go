package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// memorySizes caps what is in memory, as tmpfs takes it. /etc and /var are
// /init's.
var memorySizes = map[string]string{"/var/log": "64m", "/root": "16m", "/home": "16m"}

// BindWritable makes every path of the table writable that lives in a place.
// Each is tried even when one before it failed.
func BindWritable(place node.Place) error {
	var errs []error
	for _, w := range node.WritablePaths() {
		if w.Place == place {
			if err := Bind(w); err != nil {
				errs = append(errs, fmt.Errorf("making %s writable: %w", w.Path, err))
			}
		}
	}
	return errors.Join(errs...)
}

// Bind makes one path writable, where it is not yet.
func Bind(w node.Writable) error {
	if Mounted(w.Path) {
		return nil
	}
	if w.Place == node.Memory {
		return layMemory(w)
	}
	base := node.StateDir + "/paths"
	if w.Place == node.Volume {
		base = node.VolumeDir
	}
	from := filepath.Join(base, w.Path)
	if err := os.MkdirAll(filepath.Dir(from), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(from, os.FileMode(w.Mode)); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := os.MkdirAll(w.Path, os.FileMode(w.Mode)); err != nil {
		return err
	}
	return unix.Mount(from, w.Path, "", unix.MS_BIND, "")
}

// layMemory lays memory over a directory of the image, as /init does for /etc
// and /var.
func layMemory(w node.Writable) error {
	name := strings.ReplaceAll(strings.Trim(w.Path, "/"), "/", "-")
	mem := "/run/pikelet/" + name
	if err := os.MkdirAll(mem, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(w.Path, os.FileMode(w.Mode)); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", mem, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755,size="+memorySizes[w.Path]); err != nil {
		return err
	}
	for _, d := range []string{"/upper", "/work"} {
		if err := os.Mkdir(mem+d, os.FileMode(w.Mode)); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s,upperdir=%[2]s/upper,workdir=%[2]s/work", w.Path, mem)
	return unix.Mount("overlay", w.Path, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options)
}
