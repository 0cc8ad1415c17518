package adopt

import (
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Files are files of a machine by their paths, without the slash they begin with, as a
// file system.
type Files map[string][]byte

// Open implements fs.FS.
func (f Files) Open(name string) (fs.File, error) {
	if b, ok := f[name]; ok {
		return &file{Reader: bytes.NewReader(b), name: path.Base(name), size: int64(len(b))}, nil
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// Below returns the paths of files in a directory, in order.
func (f Files) Below(dir string) (names []string) {
	for name := range f {
		if strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// file is an open file, and what is known of it.
type file struct {
	*bytes.Reader
	name string
	size int64
}

// Stat implements fs.File.
func (f *file) Stat() (fs.FileInfo, error) { return f, nil }

// Close implements fs.File.
func (*file) Close() error { return nil }

// Name implements fs.FileInfo.
func (f *file) Name() string { return f.name }

// Size implements fs.FileInfo.
func (f *file) Size() int64 { return f.size }

// Mode implements fs.FileInfo.
func (*file) Mode() fs.FileMode { return 0o600 }

// ModTime implements fs.FileInfo.
func (*file) ModTime() time.Time { return time.Time{} }

// IsDir implements fs.FileInfo.
func (*file) IsDir() bool { return false }

// Sys implements fs.FileInfo.
func (*file) Sys() any { return nil }
