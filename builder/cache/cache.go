// Package cache keeps what builds downloaded and what they made of it in one
// directory of the user's: by what it is, whole or not at all, so that builds may
// share it; and no more of it than was told.
package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Cache is the directory. Now is the time of this use: it marks what was used, so
// that Prune knows what was not for long.
type Cache struct {
	Dir string
	Now time.Time
}

// Kinds of what is kept, each a directory.
const (
	Packages = "packages" // what was downloaded
	Made     = "made"     // what was made of it, and can be again
	Images   = "images"   // images from registries, each a directory
)

// draft begins the names of files that are not whole.
const draft = ".draft-"

// lockFile is held by all who use the cache, and by Prune alone.
const lockFile = ".lock"

// Path is where the cache keeps what key names.
func (c *Cache) Path(kind, key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(c.Dir, kind, hex.EncodeToString(sum[:]))
}

// Open opens what key names and marks it as used. It is fs.ErrNotExist where
// there is none.
func (c *Cache) Open(kind, key string) (*os.File, error) {
	name := c.Path(kind, key)
	f, err := os.Open(name)
	if err == nil {
		os.Chtimes(name, c.Now, c.Now) // no more than a hint to Prune
	}
	return f, err
}

// Draft is a file that is being written.
type Draft struct {
	*os.File
	cache *Cache
	kind  string
}

// Create begins a file of the cache.
func (c *Cache) Create(kind string) (*Draft, error) {
	dir := filepath.Join(c.Dir, kind)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, draft)
	if err != nil {
		return nil, err
	}
	return &Draft{f, c, kind}, nil
}

// Keep gives the file its name, over an older one that said the same. It stays
// open.
func (d *Draft) Keep(key string) error {
	name := d.cache.Path(d.kind, key)
	if err := os.Rename(d.Name(), name); err != nil {
		return err
	}
	os.Chtimes(name, d.cache.Now, d.cache.Now)
	return nil
}

// Drop closes the file, and removes it where it was not kept.
func (d *Draft) Drop() {
	d.Close()
	os.Remove(d.Name())
}

// Remove removes what key names, as one does with what has rotted.
func (c *Cache) Remove(kind, key string) { os.Remove(c.Path(kind, key)) }

// Hold keeps Prune away until release is called. A cache that can't be locked
// is used without.
func (c *Cache) Hold() (release func()) {
	f, err := c.lock()
	if err != nil {
		return func() {}
	}
	lockShared(f)
	return func() { f.Close() }
}

// Own keeps others from making what key names until release is called, after
// they were waited for. The cache must be held.
func (c *Cache) Own(kind, key string) (release func(), err error) {
	name := c.Path(kind, key)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(name), draft+filepath.Base(name)), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	lockWait(f)
	return func() { f.Close() }, nil
}

func (c *Cache) lock() (*os.File, error) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(filepath.Join(c.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o644)
}

// ErrBusy is what Prune gives while something uses the cache.
var ErrBusy = errors.New("something is using the cache: a build, a lock or a vendor")

// Pruned is what Prune did, in bytes.
type Pruned struct{ Freed, Left int64 }

type item struct {
	name string
	size int64
	used time.Time
}

// Prune removes what was not used for longest until at most limit bytes are
// left, and what was never finished.
func (c *Cache) Prune(limit int64) (Pruned, error) {
	var p Pruned
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	lock, err := c.lock()
	if err != nil {
		return p, err
	}
	defer lock.Close()
	if !lockAlone(lock) {
		return p, ErrBusy
	}
	var list []item
	for _, kind := range []string{Packages, Made, Images} {
		dir := filepath.Join(c.Dir, kind)
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return p, err
		}
		for _, e := range entries {
			it, err := measure(filepath.Join(dir, e.Name()))
			if err != nil {
				return p, err
			}
			list = append(list, it)
			p.Left += it.size
		}
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].before(list[j]) })
	for _, it := range list {
		if p.Left <= limit && !it.unfinished() {
			break
		}
		if err := os.RemoveAll(it.name); err != nil {
			return p, fmt.Errorf("pruning the cache: %w", err)
		}
		p.Freed, p.Left = p.Freed+it.size, p.Left-it.size
	}
	return p, nil
}

func (it item) unfinished() bool { return strings.HasPrefix(filepath.Base(it.name), ".") }

// before says which of two goes first: what is unfinished, then what is older.
func (it item) before(other item) bool {
	if it.unfinished() != other.unfinished() {
		return it.unfinished()
	}
	return it.used.Before(other.used)
}

// measure adds up a file, or a directory such as an OCI layout.
func measure(name string) (item, error) {
	st, err := os.Stat(name)
	if err != nil {
		return item{}, err
	}
	it := item{name: name, used: st.ModTime()}
	err = filepath.WalkDir(name, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			it.size += st.Size()
		}
		return err
	})
	return it, err
}
