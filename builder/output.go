package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// workPrefix begins the names of directories builds work in, below the output
// directory: what is in them is moved to its place when all of it is whole.
const workPrefix = ".work-"

// lockFile keeps two builds from writing into one output directory.
const lockFile = ".lock"

// checkOutput refuses an output directory inside a directory that is a layer: what
// the build writes would be a part of what it reads.
func checkOutput(img *spec.Image, dir string) error {
	out, err := real(dir)
	if err != nil {
		return err
	}
	for i, l := range img.Layers {
		if l.Folder == "" {
			continue
		}
		layer, err := real(img.Path(l.Folder))
		if err != nil {
			return err
		}
		if rel, err := filepath.Rel(layer, out); err == nil && filepath.IsLocal(rel) {
			err := fmt.Errorf("output directory %q lies in %q, which is layers[%d].folder: the image would contain itself", dir, l.Folder, i)
			return hint.With(err, "choose an output directory outside of it")
		}
	}
	return nil
}

// real returns an absolute path without symbolic links, as far as it exists.
func real(name string) (string, error) {
	name, err := filepath.Abs(name)
	if err != nil {
		return "", err
	}
	rest := ""
	for {
		if found, err := filepath.EvalSymlinks(name); err == nil {
			return filepath.Join(found, rest), nil
		}
		up := filepath.Dir(name)
		if up == name {
			return filepath.Join(name, rest), nil
		}
		name, rest = up, filepath.Join(filepath.Base(name), rest)
	}
}

// openOutput makes the output directory this build's own, clears what a build
// that was killed left, and makes a directory to work in. close undoes it.
func openOutput(dir string) (work string, done func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", nil, err
	}
	if !tryLock(lock) || !same(lock) {
		lock.Close()
		return "", nil, hint.With(fmt.Errorf("another build is writing to output directory %q", dir), "choose another output directory")
	}
	unlock := func() {
		os.Remove(lock.Name())
		lock.Close()
	}
	old, err := os.ReadDir(dir)
	if err != nil {
		unlock()
		return "", nil, err
	}
	for _, e := range old {
		if strings.HasPrefix(e.Name(), workPrefix) {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	if work, err = os.MkdirTemp(dir, workPrefix); err != nil {
		unlock()
		return "", nil, err
	}
	return work, func() {
		os.RemoveAll(work)
		unlock()
	}, nil
}

// same reports whether the file that was locked still has its name: a build that
// ended in between took it away.
func same(f *os.File) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(f.Name())
	return err == nil && os.SameFile(a, b)
}

// publish moves what a build made to where it belongs, over what was there.
func publish(work, dir string) error {
	made, err := os.ReadDir(work)
	if err != nil {
		return err
	}
	// An earlier build's compressed image is of another disk.img.
	if err := os.Remove(filepath.Join(dir, "disk.img.zst")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range made {
		if e.Name()[0] == '.' {
			continue
		}
		if err := replace(filepath.Join(work, e.Name()), filepath.Join(dir, e.Name()), e.IsDir()); err != nil {
			return err
		}
	}
	return nil
}

// replace moves a file or a directory to where an older one may be. Where it can,
// the two change places: there is always one of them, and ext4 does not
// write out gigabytes before it goes on, as it does when a file is renamed
// over another.
func replace(from, to string, directory bool) error {
	err := exchange(from, to)
	if err == nil {
		return nil
	}
	if directory && !errors.Is(err, fs.ErrNotExist) { // no directory may be in the way of another
		aside := filepath.Join(filepath.Dir(from), ".old-"+filepath.Base(from))
		if err := os.Rename(to, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(from, to)
}

// clearWork empties the directory a build works in.
func clearWork(work string) error {
	made, err := os.ReadDir(work)
	for _, e := range made {
		if err == nil {
			err = os.RemoveAll(filepath.Join(work, e.Name()))
		}
	}
	return err
}
