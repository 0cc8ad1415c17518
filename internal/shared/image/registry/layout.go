package registry

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Names in an OCI layout (docs/platform.md 10.2).
const (
	layoutFile = "oci-layout"
	indexFile  = "index.json"
)

// Layout is an OCI layout: a directory, or an archive of one, that holds one
// image and what belongs to it.
type Layout struct {
	name string
	open func(name string) (section, error)
	mu   sync.Mutex
	tags map[string]image.Descriptor // of a layout that is being written
	rest []image.Descriptor          // without a tag
	dir  string                      // "" for an archive
}

// section is an open file of a layout.
type section interface {
	io.ReadSeeker
	image.ReaderAt
}

// OpenLayout opens a layout in a directory.
func OpenLayout(dir string) *Layout {
	open := func(name string) (section, error) { return os.Open(filepath.Join(dir, filepath.FromSlash(name))) }
	return &Layout{name: dir, dir: dir, open: open}
}

// OpenArchive opens an archive of a layout, a tar that is not compressed.
func OpenArchive(file string) (*Layout, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at := map[string][2]int64{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s as an archive of an OCI layout: %w", file, err)
		}
		// The tar reader leaves the file where the contents begin.
		pos, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeReg && len(at) < 1<<16 {
			at[path.Clean(h.Name)] = [2]int64{pos, h.Size}
		}
	}
	if _, ok := at[layoutFile]; !ok {
		return nil, fmt.Errorf("reading %s as an archive of an OCI layout: %s: %w", file, layoutFile, fs.ErrNotExist)
	}
	return &Layout{name: file, open: func(name string) (section, error) {
		place, ok := at[name]
		if !ok {
			return nil, fmt.Errorf("reading %s of %s: %w", name, file, fs.ErrNotExist)
		}
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		return struct {
			*io.SectionReader
			io.Closer
		}{io.NewSectionReader(f, place[0], place[1]), f}, nil
	}}, nil
}

// String implements Place.
func (l *Layout) String() string { return l.name }

// blobName returns the name of a blob's file. An invalid digest gives the name of
// no file.
func blobName(digest string) string {
	return "blobs/sha256/" + path.Base(strings.TrimPrefix(digest, "sha256:"))
}

func (l *Layout) read(name string, limit int64) ([]byte, error) {
	f, err := l.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("reading %s of %s: more than %d bytes", name, l, limit)
	}
	return b, err
}

// index reads index.json, or lists what a layout that is being written has.
func (l *Layout) index() ([]image.Descriptor, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tags != nil {
		list := append([]image.Descriptor(nil), l.rest...)
		for _, d := range l.tags {
			list = append(list, d)
		}
		return list, nil
	}
	b, err := l.read(indexFile, image.MaxOCI)
	if err != nil {
		return nil, err
	}
	i, err := image.DecodeIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	return i.Manifests, nil
}

// Manifest implements Place.
func (l *Layout) Manifest(_ context.Context, ref string) (image.Descriptor, []byte, error) {
	digest := ref
	if !strings.HasPrefix(ref, "sha256:") {
		list, err := l.index()
		if err != nil {
			return image.Descriptor{}, nil, err
		}
		if digest, err = find(list, ref); err != nil {
			return image.Descriptor{}, nil, fmt.Errorf("%s: %w", l, err)
		}
	}
	b, err := l.read(blobName(digest), image.MaxOCI)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	d := image.Describe(b)
	if d.Digest != digest {
		return d, nil, fmt.Errorf("reading the blob %s of %s: digest mismatch: got %s", digest, l, d.Digest)
	}
	return d, b, nil
}

// find returns what a tag names, or the one image.
func find(list []image.Descriptor, tag string) (string, error) {
	var found []string
	for _, d := range list {
		name := d.Annotations[image.AnnotationRefName]
		img := d.ArtifactType == image.ArtifactType || d.ArtifactType == "" && !isCosignTag(name)
		if (tag != "" && name == tag || tag == "" && img) && !slices.Contains(found, d.Digest) {
			found = append(found, d.Digest)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("got %d images, want one", len(found))
	case tag == "":
		return "", errors.New("no image in the index")
	}
	return "", fmt.Errorf("tag %q: %w", tag, fs.ErrNotExist)
}

func isCosignTag(name string) bool {
	return strings.HasPrefix(name, "sha256-")
}

// Remote implements Place.
func (l *Layout) Remote() bool { return false }

// Backoff implements Place.
func (l *Layout) Backoff() time.Duration { return 0 }

// Reference implements Place.
func (l *Layout) Reference(string) string { return l.name }

// Blob implements Place.
func (l *Layout) Blob(_ context.Context, digest string, _, from int64) (io.ReadCloser, error) {
	f, err := l.open(blobName(digest))
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Part implements Place.
func (l *Layout) Part(_ context.Context, digest string, at, n int64) (io.ReadCloser, error) {
	f, err := l.open(blobName(digest))
	if err != nil {
		return nil, err
	}
	return image.Section(f, at, n), nil
}

// OpenAt implements Place. A blob of another size is an error.
func (l *Layout) OpenAt(digest string, size int64) (image.ReaderAt, error) {
	f, err := l.open(blobName(digest))
	if err != nil {
		return nil, err
	}
	n, err := f.Seek(0, io.SeekEnd)
	if err == nil && n != size {
		err = fmt.Errorf("opening %s in %s: size mismatch: got %d bytes, want %d", digest, l, n, size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Size returns how many bytes a blob has in the layout, whatever others say.
func (l *Layout) Size(digest string) (int64, error) {
	f, err := l.open(blobName(digest))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return f.Seek(0, io.SeekEnd)
}

// Referrers implements Place.
func (l *Layout) Referrers(ctx context.Context, digest string) ([]image.Descriptor, error) {
	all, err := l.index()
	if err != nil {
		return nil, err
	}
	var list []image.Descriptor
	for _, d := range all {
		if d.MediaType != image.MediaOCIManifest || isCosignTag(d.Annotations[image.AnnotationRefName]) {
			continue
		}
		_, b, err := l.Manifest(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		if m, err := image.DecodeOCI(b); err == nil && m.Subject != nil && m.Subject.Digest == digest {
			list = append(list, image.Describe(b))
		}
	}
	return list, nil
}
