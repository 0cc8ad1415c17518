package flash

import (
	"fmt"
	"os"
)

// file is an open device.
type file struct {
	*os.File
	behind writeBehind
}

// WriteAt implements io.WriterAt. What was written goes out to the medium
// while more is written, and never much of it is on its way: progress is the
// medium's, and the flush at the end is short.
func (f *file) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	if err == nil {
		err = f.behind.wrote(f.File, at, int64(n))
	}
	return n, err
}

// OpenDevice opens a device to be written. A file is made as large as size
// bytes where it is smaller; a disk is opened so that nobody can mount it
// meanwhile. Close closes it.
func OpenDevice(d Device, size int64) (interface {
	Disk
	Close() error
}, error) {
	flags := os.O_RDWR
	if d.Bus == busFile {
		flags |= os.O_CREATE
	} else {
		flags |= exclusive
	}
	f, err := os.OpenFile(d.Path, flags, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening %s to write: %w%s", d.Path, err, hint(err))
	}
	if d.Bus == busFile && d.Size < size {
		if err := f.Truncate(size); err != nil {
			f.Close()
			return nil, err
		}
	}
	return &file{File: f}, nil
}

func hint(err error) string {
	switch {
	case os.IsPermission(err):
		return "; writing to a disk takes root: sudo pikelet flash ..."
	case isBusy(err):
		return "; something uses it: close file managers, and unmount it"
	}
	return ""
}

// Flush implements Disk.
func (f *file) Flush() error { return f.Sync() }

// Forget implements Disk.
func (f *file) Forget() error { return forget(f.File) }
