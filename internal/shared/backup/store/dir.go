package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// dir is a directory, such as the mount of a NAS.
type dir struct{ name string }

// openDir opens a directory that is there: one that is made where nothing is mounted
// would fill the disk below it.
func openDir(name string) (Store, error) {
	st, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
		return nil, hint.With(fmt.Errorf("opening the store: directory %s: %w", name, ErrNotFound), "mount it, or make it once")
	}
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return dir{name}, nil
}

// Put implements Store.
func (d dir) Put(ctx context.Context, u Upload) error {
	if err := checkName(u.Name); err != nil {
		return err
	}
	if !u.Until.IsZero() {
		return hint.With(ErrLock, "leave lock out for a directory")
	}
	to := filepath.Join(d.name, u.Name)
	part := filepath.Join(d.name, "."+u.Name+unfinished)
	if err := writePart(ctx, part, u); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", to, full(err)), os.Remove(part))
	}
	if err := os.Rename(part, to); err != nil {
		return err
	}
	return atomicfile.Sync(d.name)
}

func writePart(ctx context.Context, name string, u Upload) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, ending{ctx.Err, io.NewSectionReader(u.From, 0, u.Size)}); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// full marks errors of a filesystem without room.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return hint.With(fmt.Errorf("%w: %w", ErrFull, err), "make room there, or keep fewer backups (keep)")
	}
	return err
}

// ending is a reader that ends when its caller does.
type ending struct {
	ended func() error
	io.Reader
}

// Read implements io.Reader.
func (r ending) Read(b []byte) (int, error) {
	if err := r.ended(); err != nil {
		return 0, err
	}
	return r.Reader.Read(b)
}

// Open implements Store.
func (d dir) Open(_ context.Context, name string, offset int64) (io.ReadCloser, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(d.name, name))
	if err != nil {
		return nil, missing(err)
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// missing marks errors of files that are not there.
func missing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// Stat implements Store.
func (d dir) Stat(_ context.Context, name string) (Object, error) {
	if err := checkName(name); err != nil {
		return Object{}, err
	}
	st, err := os.Stat(filepath.Join(d.name, name))
	if err != nil {
		return Object{}, missing(err)
	}
	o, _ := object(name, st.Size())
	return o, nil
}

// List implements Store.
func (d dir) List(context.Context) ([]Object, error) {
	entries, err := os.ReadDir(d.name)
	if err != nil {
		return nil, err
	}
	return listed(entries)
}

func listed(entries []fs.DirEntry) (list []Object, err error) {
	for _, e := range entries {
		if _, _, ok := address.ParseName(e.Name()); !ok || !e.Type().IsRegular() {
			continue
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		o, _ := object(e.Name(), st.Size())
		list = append(list, o)
	}
	return sorted(list), nil
}

// Delete implements Store.
func (d dir) Delete(_ context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return missing(os.Remove(filepath.Join(d.name, name)))
}

// Tidy implements Store.
func (d dir) Tidy(_ context.Context, node string) error {
	entries, err := os.ReadDir(d.name)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if of, ok := partOf(e.Name()); ok && of == node {
			if err := os.Remove(filepath.Join(d.name, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close implements Store.
func (dir) Close() error { return nil }
