package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	form "github.com/pikelet-os/pikelet/internal/shared/backup"
	"github.com/pikelet-os/pikelet/internal/shared/backup/store"
)

// Fetch restores a backup of a store, which a key of form.KeyOf opens. It comes to a
// file beside the server's directory first, whole, and what was there of it already
// is not fetched again. Errors are those of Restore, of stores, and form.ErrKey.
func (t Target) Fetch(ctx context.Context, l store.Location, name, key string) (form.Info, error) {
	s, err := store.Open(ctx, l)
	if err != nil {
		return form.Info{}, err
	}
	defer s.Close()
	o, err := s.Stat(ctx, name)
	if err != nil {
		return form.Info{}, fmt.Errorf("looking for %s: %w", name, err)
	}
	file := t.Dir + ".fetched-" + name
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return form.Info{}, err
	}
	defer f.Close()
	if err := complete(ctx, s, o, f); err != nil {
		return form.Info{}, err
	}
	plain, err := form.DecryptWith(f, strings.TrimSpace(key))
	if err != nil {
		return form.Info{}, errors.Join(err, os.Remove(file))
	}
	info, err := t.Restore(ctx, plain)
	if err == nil || errors.Is(err, form.ErrDamaged) {
		err = errors.Join(err, os.Remove(file)) // the next try fetches it anew
	}
	return info, err
}

// complete fetches what a file lacks of a backup, and leaves the file at its beginning.
func complete(ctx context.Context, s store.Store, o store.Object, f *os.File) error {
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if have > o.Size {
		if err := f.Truncate(0); err != nil {
			return err
		}
		if have, err = f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	if err := room(filepath.Dir(f.Name()), o.Size-have); err != nil {
		return err
	}
	r := store.NewReader(ctx, s, o, have)
	defer r.Close()
	if _, err := io.Copy(f, r); err != nil {
		return errors.Join(err, f.Sync())
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
