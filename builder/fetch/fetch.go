// Package fetch brings indexes, packages and layers from where a spec says
// they are: the cache, then a vendor directory or artifact, then the mirror. It
// checks nothing but sizes; whoever reads a package checks its signature and
// identity.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/cache"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// Cache brings what is not kept yet, and keeps what was brought.
type Cache struct {
	*cache.Cache
	Client  *http.Client
	Offline bool          // nothing may be asked of the network
	Vendor  Source        // asked before the mirror; may be nil
	Logins  Logins        // of servers that ask for one
	Backoff time.Duration // before the first of several new tries; each next one waits twice as long
}

// Source holds copies of a build's inputs by name, such as
// aarch64/busybox-1.37.0-r6.apk. A name it has not is fs.ErrNotExist.
type Source interface {
	Open(ctx context.Context, name string) (io.ReadCloser, error)
}

// Dir is a Source in a directory.
type Dir string

// Open opens a file of the directory.
func (f Dir) Open(_ context.Context, name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(f), filepath.FromSlash(name)))
}

// New returns a Cache that keeps what it brings in c.
func New(c *cache.Cache) *Cache {
	return &Cache{Cache: c, Client: newClient(time.Minute), Backoff: time.Second}
}

// newClient returns a client that gives up on a server that is silent for a time.
// A download may take as long as it takes while bytes come.
func newClient(silence time.Duration) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	return &http.Client{Transport: registry.Patient(t, silence), CheckRedirect: keepTLS}
}

// keepTLS refuses to be led from https to http.
func keepTLS(r *http.Request, via []*http.Request) error {
	if via[0].URL.Scheme == "https" && r.URL.Scheme != "https" {
		return permanent{fmt.Errorf("the server leads to %s, without TLS", r.URL.Host)}
	}
	if len(via) >= 10 {
		return permanent{errors.New("the server leads from one place to another, ten times")}
	}
	return nil
}

// IsRemote reports whether a repository is on a server and not in a directory.
func IsRemote(url string) bool {
	scheme, _, ok := strings.Cut(url, "://")
	return ok && (strings.EqualFold(scheme, "http") || strings.EqualFold(scheme, "https"))
}

// Missing is a file that is not where it should be: the mirror has dropped
// it, or there is no going there.
type Missing struct {
	What    string
	Offline bool
}

func (m *Missing) Error() string {
	if m.Offline {
		return m.What + " is not in the cache, and the build is offline"
	}
	return m.What + " is not there any more"
}

// Read returns a small file, such as an index, always afresh.
func (c *Cache) Read(ctx context.Context, url string, limit int64) ([]byte, error) {
	r, err := c.file(ctx, url)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading %s: larger than %d bytes", url, limit)
	}
	return b, nil
}

// File returns the path of a file of size bytes on this machine: from the
// cache, where it is kept under key, which must name its contents; from the
// vendor, where it is called name; or from url.
func (c *Cache) File(ctx context.Context, url, name, key string, size int64) (string, error) {
	kept := c.Path(key)
	if f, err := c.Open(cache.Packages, key); err == nil {
		st, err := f.Stat()
		f.Close()
		if err == nil && st.Size() == size {
			return kept, nil
		}
	}
	if c.Vendor != nil {
		r, err := c.Vendor.Open(ctx, name)
		if err == nil {
			defer r.Close()
			return kept, c.keep(key, "the vendor's "+name, r, size)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("opening the vendor's %s: %w", name, err)
		}
	}
	if !IsRemote(url) {
		st, err := os.Stat(url)
		if errors.Is(err, fs.ErrNotExist) {
			return "", &Missing{What: url}
		}
		if err == nil && st.Size() != size {
			err = fmt.Errorf("%s has %d bytes, and %d were announced", url, st.Size(), size)
		}
		return url, err
	}
	r, err := c.file(ctx, url)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return kept, c.keep(key, url, r, size)
}

// Pinned returns the path of a file whose SHA-256 is known, 64 hexadecimal
// digits: from the cache, from the vendor, where it is called name, or from
// url. It has the digest, and limit bytes at most.
func (c *Cache) Pinned(ctx context.Context, url, name, digest string, limit int64) (string, error) {
	key := "sha256 " + digest
	if f, err := c.Open(cache.Packages, key); err == nil {
		h := sha256.New()
		_, err := io.Copy(h, f)
		f.Close()
		if err == nil && hex.EncodeToString(h.Sum(nil)) == digest {
			return c.Path(key), nil
		}
		// What is kept was changed: it is fetched again.
	}
	if c.Vendor != nil {
		r, err := c.Vendor.Open(ctx, name)
		if err == nil {
			defer r.Close()
			return c.Path(key), c.keepPinned(key, "the vendor's "+name, r, digest, limit)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("opening the vendor's %s: %w", name, err)
		}
	}
	r, err := c.open(ctx, url)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return c.Path(key), c.keepPinned(key, url, r, digest, limit)
}

func (c *Cache) keepPinned(key, what string, r io.Reader, digest string, limit int64) error {
	draft, err := c.Create(cache.Packages)
	if err != nil {
		return err
	}
	defer draft.Drop()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(draft, h), io.LimitReader(r, limit+1))
	if cerr := draft.Close(); err == nil {
		err = cerr
	}
	if err == nil && n > limit {
		err = fmt.Errorf("larger than %d bytes", limit)
	}
	if got := hex.EncodeToString(h.Sum(nil)); err == nil && got != digest {
		err = fmt.Errorf("sha256 mismatch: got %s, want %s", got, digest)
	}
	if err != nil {
		return fmt.Errorf("fetching %s: %w", what, err)
	}
	return draft.Keep(key)
}

// Path is where the cache keeps what key names.
func (c *Cache) Path(key string) string { return c.Cache.Path(cache.Packages, key) }

func (c *Cache) keep(key, what string, r io.Reader, size int64) error {
	draft, err := c.Create(cache.Packages)
	if err != nil {
		return err
	}
	defer draft.Drop()
	n, err := io.Copy(draft, io.LimitReader(r, size+1))
	if cerr := draft.Close(); err == nil { // some systems rename no file that is open
		err = cerr
	}
	if err == nil && n > size {
		err = fmt.Errorf("more than the %d bytes that were announced came", size)
	} else if err == nil && n < size {
		err = fmt.Errorf("%d bytes were announced, %d came", size, n)
	}
	if err != nil {
		return fmt.Errorf("fetching %s: %w", what, err)
	}
	return draft.Keep(key)
}

// file opens an index or a package, which is not a web page.
func (c *Cache) file(ctx context.Context, url string) (io.ReadCloser, error) {
	r, err := c.open(ctx, url)
	if err != nil || !IsRemote(url) {
		return r, err
	}
	return notHTML(r, url)
}

func (c *Cache) open(ctx context.Context, url string) (io.ReadCloser, error) {
	if !IsRemote(url) {
		f, err := os.Open(url)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, &Missing{What: url}
		}
		return f, err
	}
	if c.Offline {
		return nil, &Missing{What: url, Offline: true}
	}
	return c.download(ctx, url)
}
