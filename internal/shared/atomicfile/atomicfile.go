// Package atomicfile writes files that are whole or not there, whenever the power
// goes: what a node keeps on state, and what a boot server remembers.
package atomicfile

import (
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces a file, in a directory that is there. It is on the disk when this
// returns; where it fails, the old one is.
func Write(name string, b []byte, mode fs.FileMode) error {
	return write(disk{create: create, rename: os.Rename, sync: Sync}, name, b, mode)
}

// disk is what a file is written with. Tests see in which order.
type disk struct {
	create func(name string, mode fs.FileMode) (file, error)
	rename func(from, to string) error
	sync   func(dir string) error
}

// file is a file that is being written.
type file interface {
	Write(b []byte) (int, error)
	Sync() error
	Close() error
}

func create(name string, mode fs.FileMode) (file, error) {
	return os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
}

// write has a file's contents on the disk before it gets its name, and the name
// there before it returns.
func write(d disk, name string, b []byte, mode fs.FileMode) error {
	f, err := d.create(name+".new", mode)
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
	if err := d.rename(name+".new", name); err != nil {
		return err
	}
	return d.sync(filepath.Dir(name))
}

// Sync has what was renamed in a directory, or removed from it, stay so.
func Sync(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
