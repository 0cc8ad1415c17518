package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// workPrefix begins the names of folders builds work in, below the output
// folder: what is in them is moved to its place when all of it is whole.
const workPrefix = ".work-"

// lockFile keeps two builds from writing into one output folder.
const lockFile = ".lock"

// openOutput makes the output folder this build's own, clears what a build
// that was killed left, and makes a folder to work in. close undoes it.
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
		return "", nil, fmt.Errorf("another build is writing to %s; give this one another output folder", dir)
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

// same says whether the file that was locked still has its name: a build that
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
		to := filepath.Join(dir, e.Name())
		if e.IsDir() { // no folder may be in the way of another
			aside := filepath.Join(work, ".old-"+e.Name())
			if err := os.Rename(to, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		if err := os.Rename(filepath.Join(work, e.Name()), to); err != nil {
			return err
		}
	}
	return nil
}

// clearWork empties the folder a build works in.
func clearWork(work string) error {
	made, err := os.ReadDir(work)
	for _, e := range made {
		if err == nil {
			err = os.RemoveAll(filepath.Join(work, e.Name()))
		}
	}
	return err
}
