// Package fetch brings indexes and packages from where a spec says they are:
// a folder, or an http(s) server with a cache in between. It checks nothing;
// whoever reads a package checks its signature and identity.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Cache keeps downloaded packages in a folder, by what they are.
type Cache struct {
	Dir    string
	Client *http.Client
}

// New returns a cache in dir, which is made when the first download needs it.
func New(dir string) *Cache {
	return &Cache{Dir: dir, Client: &http.Client{Timeout: 30 * time.Minute}}
}

// IsRemote says whether a repository is on a server and not in a folder.
func IsRemote(url string) bool {
	return strings.HasPrefix(url, "http://") || strings.HasPrefix(url, "https://")
}

// Read returns a small file, such as an index, always afresh.
func (c *Cache) Read(ctx context.Context, url string, limit int64) ([]byte, error) {
	r, err := c.open(ctx, url)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", url, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes", url, limit)
	}
	return b, nil
}

// File returns the path of a file on this machine. One from a server is kept
// under key, which must name its contents.
func (c *Cache) File(ctx context.Context, url, key string, size int64) (string, error) {
	if !IsRemote(url) {
		_, err := os.Stat(url)
		return url, err
	}
	sum := sha256.Sum256([]byte(key))
	name := filepath.Join(c.Dir, hex.EncodeToString(sum[:]))
	if st, err := os.Stat(name); err == nil && st.Size() == size {
		return name, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return "", err
	}
	r, err := c.open(ctx, url)
	if err != nil {
		return "", err
	}
	defer r.Close()
	tmp, err := os.CreateTemp(c.Dir, ".download-")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	n, err := io.Copy(tmp, io.LimitReader(r, size+1))
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil && n != size {
		err = fmt.Errorf("the index announces %d bytes, the server sent another number", size)
	}
	if err != nil {
		return "", fmt.Errorf("downloading %s: %w", url, err)
	}
	return name, os.Rename(tmp.Name(), name)
}

func (c *Cache) open(ctx context.Context, url string) (io.ReadCloser, error) {
	if !IsRemote(url) {
		return os.Open(url)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("downloading %s: the server answered %s", url, resp.Status)
	}
	return resp.Body, nil
}
