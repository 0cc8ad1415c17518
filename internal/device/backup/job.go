package backup

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/backup/address"
	"github.com/pikelet-os/pikelet/internal/shared/backup/store"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// spool is where a backup waits for the store, encrypted: an upload that broke off
// goes on with the same bytes, after a restart too.
const (
	spool     = "pikelet/backup.spool"
	spooled   = "archive"
	spoolInfo = "archive.json" // is there once the archive is whole
)

// Job backs up a server to a store.
type Job struct {
	Server     Server
	Location   store.Location
	Recipients []age.Recipient
	Keep       store.Keep
	Lock       time.Duration // for which no one can delete a backup; 0 for none
	// Fresh is how old a backup may be that did not reach the store: an older one is
	// made anew.
	Fresh time.Duration
	// Exclusive is called before the server is read, and its function after: nothing
	// else may move or replace the server meanwhile. The store has no part in it. Nil
	// for a server that nothing else works on.
	Exclusive func() (release func(), err error)
}

// Made is a backup that is in the store, and was read back.
type Made struct {
	Name    string
	Size    int64 // bytes
	At      time.Time
	Deleted []string // the ones it took the place of
}

// waiting is a backup in the spool.
type waiting struct {
	Name     string         `json:"name"`
	Store    string         `json:"store"` // that Progress is of
	Size     int64          `json:"size"`  // bytes
	Digest   string         `json:"digest"`
	Made     time.Time      `json:"made"`
	Progress store.Progress `json:"progress"`
}

// Run makes a backup, or goes on with one that did not reach the store, reads it back,
// and deletes those that need not be kept. Whatever fails, what is in the store stays
// there. Errors are those of Write and of stores.
func (j Job) Run(ctx context.Context, now time.Time) (Made, error) {
	s, err := store.Open(ctx, j.Location)
	if err != nil {
		return Made{}, err
	}
	defer s.Close()
	dir := filepath.Join(j.Server.Dir, spool)
	w, err := j.spooled(dir, now)
	if errors.Is(err, fs.ErrNotExist) {
		w, err = j.fill(ctx, dir, now)
	}
	if err != nil {
		return Made{}, err
	}
	m := Made{Name: w.Name, Size: w.Size, At: w.Made}
	if err := j.deliver(ctx, s, dir, w); err != nil {
		return Made{}, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return m, err
	}
	m.Deleted, err = store.Prune(ctx, s, j.Keep, j.Server.Node, w.Name, j.Lock, now)
	return m, err
}

// spooled returns the backup that waits. The error is fs.ErrNotExist where there is
// none that can be used.
func (j Job) spooled(dir string, now time.Time) (w waiting, err error) {
	b, err := os.ReadFile(filepath.Join(dir, spoolInfo))
	if err != nil {
		return w, err
	}
	st, err := os.Stat(filepath.Join(dir, spooled))
	if err != nil {
		return w, err
	}
	if json.Unmarshal(b, &w) != nil {
		return w, fs.ErrNotExist
	}
	age := now.Sub(w.Made)
	if node, _, ok := address.ParseName(w.Name); !ok || node != j.Server.Node || st.Size() != w.Size || age < 0 || age > j.Fresh {
		return w, fs.ErrNotExist
	}
	if w.Store != j.Location.Address+j.Location.Endpoint {
		w.Store, w.Progress = j.Location.Address+j.Location.Endpoint, store.Progress{}
	}
	return w, nil
}

// fill makes a backup in the spool.
func (j Job) fill(ctx context.Context, dir string, now time.Time) (w waiting, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return w, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return w, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	size := databaseSize(filepath.Join(j.Server.Dir, database))
	if err := room(dir, 2*size); err != nil { // the copy, and the archive of it
		return w, err
	}
	f, err := os.OpenFile(filepath.Join(dir, spooled), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return w, err
	}
	defer f.Close()
	if j.Exclusive != nil {
		release, err := j.Exclusive()
		if err != nil {
			return w, err
		}
		defer release()
	}
	sum := sha256.New()
	if _, err := j.Server.Write(ctx, io.MultiWriter(f, sum), now, j.Recipients...); err != nil {
		return w, err
	}
	st, err := f.Stat()
	if err = errors.Join(err, f.Sync()); err != nil {
		return w, err
	}
	w = waiting{Name: address.NameOf(j.Server.Node, now), Store: j.Location.Address + j.Location.Endpoint, Size: st.Size(),
		Digest: image.DigestOfSum(sum.Sum(nil)), Made: now.UTC().Truncate(time.Second)}
	return w, w.save(dir)
}

func (w waiting) save(dir string) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, spoolInfo), b, 0o600)
}

// deliver has the store keep a backup, and reads it back. One that the store gives
// back as something else is deleted there.
func (j Job) deliver(ctx context.Context, s store.Store, dir string, w waiting) error {
	f, err := os.Open(filepath.Join(dir, spooled))
	if err != nil {
		return err
	}
	defer f.Close()
	o, err := s.Stat(ctx, w.Name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("looking for %s: %w", w.Name, err)
	}
	if err != nil || o.Size != w.Size { // else it was uploaded, and not read back
		u := store.Upload{Name: w.Name, From: f, Size: w.Size, Progress: w.Progress,
			Save: func(p store.Progress) error { w.Progress = p; return w.save(dir) }}
		if j.Lock > 0 {
			u.Until = w.Made.Add(j.Lock)
		}
		if err := s.Put(ctx, u); err != nil {
			return err
		}
	}
	err = store.Verify(ctx, s, w.Name, w.Size, w.Digest)
	if errors.Is(err, store.ErrDiffers) {
		return errors.Join(err, s.Delete(ctx, w.Name), os.RemoveAll(dir))
	}
	return err
}

func databaseSize(name string) (size int64) {
	for _, name := range []string{name, name + "-wal"} {
		if st, err := os.Stat(name); err == nil {
			size += st.Size()
		}
	}
	return size
}
