// Package whole writes files that are whole or not there, whenever the power
// goes: what a node keeps on state, and what a boot server remembers.
package whole

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces a file, in a folder that is there. It is on the disk when this
// returns; where it fails, the old one is.
func Write(name string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return Sync(filepath.Dir(name))
}

// Sync has what was renamed in a folder, or removed from it, stay so.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
