package inspect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/squashfs"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
)

// root is an open squashfs.
type root struct {
	*squashfs.FileSystem
	storage backend.Storage
}

func openRoot(name string) (*root, error) {
	storage, err := file.OpenFromPath(name, true)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(name)
	if err != nil {
		storage.Close()
		return nil, err
	}
	f, err := squashfs.Read(storage, st.Size(), 0, 0)
	if err != nil {
		storage.Close()
		return nil, err
	}
	return &root{f, storage}, nil
}

// Close closes the root.
func (r *root) Close() { r.storage.Close() }

func (r *root) readFile(name string) ([]byte, error) {
	f, err := r.OpenFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Diff is what differs between two images.
type Diff struct {
	Words    []string `json:"cmdline"` // of the kernel command line: - gone, + new
	Packages []string `json:"packages"`
	Files    []string `json:"files"`
	Slot     []string `json:"slot"`     // files beside the root
	Bytes    [2]int64 `json:"bytes"`    // of the slots' files
	Download int64    `json:"download"` // bytes of the files of b that a does not have
}

// Compare says what differs from a to b.
func Compare(a, b *Slot) (*Diff, error) {
	if a.Manifest == nil || b.Manifest == nil || a.root == "" || b.root == "" {
		return nil, hint.With(errors.New("comparing slots: one of the two holds no complete image"), "inspect each of the two for the reason")
	}
	d := &Diff{Words: minusPlus(strings.Fields(a.Cmdline), strings.Fields(b.Cmdline))}
	d.Packages = versions(a.Packages, b.Packages)
	before, after := map[string]string{}, map[string]string{}
	for i, s := range []*Slot{a, b} {
		for _, f := range s.Manifest.Files {
			d.Bytes[i] += f.Size
			[]map[string]string{before, after}[i][f.Name] = fmt.Sprintf("%s, %d bytes", f.Digest[:19], f.Size)
		}
	}
	d.Slot = changes(before, after)
	come := map[string]bool{} // what two files share comes once
	for _, f := range b.Manifest.Lacking(a.Manifest) {
		if !come[f.Digest] {
			d.Download += f.Size
			come[f.Digest] = true
		}
	}
	x, err := listing(a.root)
	if err != nil {
		return nil, err
	}
	y, err := listing(b.root)
	if err != nil {
		return nil, err
	}
	d.Files = changes(x, y)
	return d, nil
}

// FetchByFiles returns how many bytes a node that runs a fetches for b when it
// fetches the files that changed: blocks of the root, and other files whole.
func FetchByFiles(ctx context.Context, a, b *Slot) (int64, error) {
	blocks, done, err := patch.PlanBlocks(ctx, a.Image, b.Manifest, func(ctx context.Context, at, n int64) (io.ReadCloser, error) {
		return b.OpenPart(ctx, image.RootFile, at, n)
	})
	if err != nil {
		return 0, err
	}
	done()
	n := blocks.Fetch
	for _, f := range b.Manifest.Lacking(a.Manifest) {
		if f.Name != image.RootFile {
			n += f.Size
		}
	}
	return n, nil
}

// minusPlus compares words without regard to their order.
func minusPlus(a, b []string) []string {
	count := map[string]int{}
	for _, w := range a {
		count[w]--
	}
	for _, w := range b {
		count[w]++
	}
	var list []string
	for w, n := range count {
		if n < 0 {
			list = append(list, "- "+w)
		} else if n > 0 {
			list = append(list, "+ "+w)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i][2:] < list[j][2:] })
	return list
}

// versions compares lists of "name version".
func versions(a, b []string) []string {
	x, y := map[string]string{}, map[string]string{}
	for i, list := range [][]string{a, b} {
		for _, p := range list {
			name, version, _ := strings.Cut(p, " ")
			[]map[string]string{x, y}[i][name] = version
		}
	}
	return changes(x, y)
}

func changes(a, b map[string]string) []string {
	all := map[string]bool{}
	for k := range a {
		all[k] = true
	}
	for k := range b {
		all[k] = true
	}
	keys := make([]string, 0, len(all))
	for k := range all {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var list []string
	for _, k := range keys {
		old, was := a[k]
		now, is := b[k]
		switch {
		case !is:
			list = append(list, fmt.Sprintf("- %s (%s)", k, old))
		case !was:
			list = append(list, fmt.Sprintf("+ %s (%s)", k, now))
		case old != now:
			list = append(list, fmt.Sprintf("~ %s (%s -> %s)", k, old, now))
		}
	}
	return list
}

// listing returns what every path of a root is. Times are left out: they are
// the build's.
func listing(name string) (map[string]string, error) {
	r, err := openRoot(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	all := map[string]string{}
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := r.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			full := path.Join(dir, e.Name())
			text, err := r.describe(full, e)
			if err != nil {
				return fmt.Errorf("%s: %w", full, err)
			}
			all["/"+full] = text
			if e.IsDir() {
				if err := walk(full); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return all, walk(".")
}

func (r *root) describe(name string, e fs.DirEntry) (string, error) {
	info, err := e.Info()
	if err != nil {
		return "", err
	}
	owner := ""
	if st, ok := info.Sys().(*squashfs.StatT); ok {
		owner = fmt.Sprintf(" %d:%d", st.UID, st.GID)
	}
	text := info.Mode().String() + owner
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if l, ok := e.(interface{ Readlink() (string, error) }); ok {
			to, err := l.Readlink()
			return text + " -> " + to, err
		}
	case info.Mode().IsRegular():
		f, err := r.OpenFile(name, os.O_RDONLY)
		if err != nil {
			return "", err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, io.LimitReader(f, info.Size())); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s, %d bytes, sha256:%x", text, info.Size(), sum.Sum(nil)[:6]), nil
	}
	return text, nil
}
