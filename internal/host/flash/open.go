package flash

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
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

// OpenDevice opens a device for writing. A file that is smaller than size bytes
// is extended; a disk is opened exclusively, so that it cannot be mounted
// meanwhile. The caller closes it.
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
		return nil, openingHint(fmt.Errorf("opening %s for writing: %w", d.Path, err))
	}
	if d.Bus == busFile && d.Size < size {
		if err := f.Truncate(size); err != nil {
			f.Close()
			return nil, err
		}
	}
	return &file{File: f}, nil
}

func openingHint(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return hint.With(err, "writing to a disk takes root: run the command with sudo")
	case isBusy(err):
		return hint.With(err, "close what uses the disk: a file manager, or a container that was started while the disk was mounted")
	}
	return err
}

// Flush implements Disk.
func (f *file) Flush() error { return f.Sync() }

// Forget implements Disk.
func (f *file) Forget() error { return forget(f.File) }
