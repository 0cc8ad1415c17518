package prepare

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pikelet-os/pikelet/internal/device/etc"
)

// put writes one file, its directories belonging to root where they are missing.
// One that is so already is not touched: what is newer than OpenRC's cache of
// dependencies has OpenRC make that again.
func put(f etc.File) error {
	if f.Mode == 0 {
		f.Mode = 0o644
	}
	if same(f) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return err
	}
	if f.Link != "" {
		os.Remove(f.Path)
		return os.Symlink(f.Link, f.Path)
	}
	if f.Mode.IsDir() {
		if err := os.MkdirAll(f.Path, f.Mode.Perm()); err != nil {
			return err
		}
	} else {
		// Not through a link of the image's, which may lead to /run; and with
		// its mode from the first byte on.
		os.Remove(f.Path)
		if err := os.WriteFile(f.Path, []byte(f.Content), f.Mode.Perm()); err != nil {
			return err
		}
	}
	if err := os.Chmod(f.Path, f.Mode.Perm()); err != nil {
		return err
	}
	return os.Lchown(f.Path, f.UID, f.UID)
}

// same reports whether a file is there already, with contents, mode and owner.
func same(f etc.File) bool {
	i, err := os.Lstat(f.Path)
	if err != nil {
		return false
	}
	if f.Link != "" {
		to, err := os.Readlink(f.Path)
		return err == nil && to == f.Link
	}
	st, ok := i.Sys().(*syscall.Stat_t)
	if !ok || int(st.Uid) != f.UID || int(st.Gid) != f.UID || i.Mode() != f.Mode&(fs.ModeDir|fs.ModePerm) {
		return false
	}
	if f.Mode.IsDir() {
		return true
	}
	b, err := os.ReadFile(f.Path)
	return err == nil && string(b) == f.Content
}
