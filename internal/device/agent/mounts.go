package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// memorySizes caps what is in memory, as tmpfs takes it. /etc and /var are
// /init's.
var memorySizes = map[string]string{"/var/log": "64m", "/root": "16m", "/home": "16m"}

// bindWritable makes every path of the table writable that lives in a place.
// Each is tried even when one before it failed.
func bindWritable(place node.Place) error {
	var errs []error
	for _, w := range node.WritablePaths() {
		if w.Place == place {
			if err := bindOne(w); err != nil {
				errs = append(errs, fmt.Errorf("making %s writable: %w", w.Path, err))
			}
		}
	}
	return errors.Join(errs...)
}

func bindOne(w node.Writable) error {
	if mounted(w.Path) {
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

// layMemory lays memory over a folder of the image, as /init does for /etc
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
	return unix.Mount("overlay", w.Path, "overlay", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("lowerdir=%[1]s,upperdir=%[2]s/upper,workdir=%[2]s/work", w.Path, mem))
}

// mount is one mount this process sees.
type mount struct {
	path   string
	shared bool // others see what is mounted below it
}

// mounts returns all mounts in their order (proc_pid_mountinfo(5)).
func mounts() ([]mount, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var list []mount
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 4 {
			list = append(list, mount{unescape(f[4]), strings.Contains(line, " shared:")})
		}
	}
	return list, nil
}

// unescape undoes what the kernel does to blanks in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// mounted says whether something is mounted on a folder.
func mounted(path string) bool {
	list, err := mounts()
	return err == nil && slices.ContainsFunc(list, func(m mount) bool { return m.path == path })
}
