package registry

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
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

	"github.com/pikelet-os/pikelet/internal/artifact"
)

// Names in an OCI layout (FACTS 10.2).
const (
	layoutFile = "oci-layout"
	indexFile  = "index.json"
)

// Layout is an OCI layout: a folder, or an archive of one, that holds one
// image and what belongs to it.
type Layout struct {
	name string
	open func(name string) (section, error)
	mu   sync.Mutex
	tags map[string]artifact.Descriptor // of a layout that is being written
	rest []artifact.Descriptor          // without a tag
	dir  string                         // "" for an archive
}

// section is an open file of a layout.
type section interface {
	io.ReadSeeker
	io.Closer
}

// OpenLayout opens a layout in a folder.
func OpenLayout(dir string) *Layout {
	return &Layout{name: dir, dir: dir, open: func(name string) (section, error) { return os.Open(filepath.Join(dir, filepath.FromSlash(name))) }}
}

// CreateLayout begins a layout in a folder, or goes on with one that was not
// finished. Finish makes it one.
func CreateLayout(dir string) (*Layout, error) {
	l := OpenLayout(dir)
	l.tags = map[string]artifact.Descriptor{}
	return l, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755)
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
		return nil, fmt.Errorf("%s is no archive of an OCI layout: it holds no %s", file, layoutFile)
	}
	return &Layout{name: file, open: func(name string) (section, error) {
		place, ok := at[name]
		if !ok {
			return nil, fmt.Errorf("%s holds no %s: %w", file, name, fs.ErrNotExist)
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

// blobName returns the name of a blob's file. A digest that is none leads to
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
		err = fmt.Errorf("%s: %s is larger than %d bytes", l, name, limit)
	}
	return b, err
}

// index reads index.json, or lists what a layout that is being written has.
func (l *Layout) index() ([]artifact.Descriptor, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tags != nil {
		list := append([]artifact.Descriptor(nil), l.rest...)
		for _, d := range l.tags {
			list = append(list, d)
		}
		return list, nil
	}
	b, err := l.read(indexFile, artifact.MaxOCI)
	if err != nil {
		return nil, err
	}
	i, err := artifact.DecodeIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l, err)
	}
	return i.Manifests, nil
}

// Manifest implements Place.
func (l *Layout) Manifest(_ context.Context, ref string) (artifact.Descriptor, []byte, error) {
	digest := ref
	if !strings.HasPrefix(ref, "sha256:") {
		list, err := l.index()
		if err != nil {
			return artifact.Descriptor{}, nil, err
		}
		if digest, err = find(list, ref); err != nil {
			return artifact.Descriptor{}, nil, fmt.Errorf("%s: %w", l, err)
		}
	}
	b, err := l.read(blobName(digest), artifact.MaxOCI)
	if err != nil {
		return artifact.Descriptor{}, nil, err
	}
	d := artifact.Describe(b)
	if d.Digest != digest {
		return d, nil, fmt.Errorf("%s: the blob %s holds %s: it was changed", l, digest, d.Digest)
	}
	return d, b, nil
}

// find returns what a tag names, or the one image.
func find(list []artifact.Descriptor, tag string) (string, error) {
	var found []string
	for _, d := range list {
		name := d.Annotations[artifact.AnnotationRefName]
		image := d.ArtifactType == artifact.ArtifactType || d.ArtifactType == "" && !isCosignTag(name)
		if (tag != "" && name == tag || tag == "" && image) && !slices.Contains(found, d.Digest) {
			found = append(found, d.Digest)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("it holds %d images; want one", len(found))
	case tag == "":
		return "", errors.New("its index names no image")
	}
	return "", fmt.Errorf("it has nothing called %s: %w", tag, fs.ErrNotExist)
}

func isCosignTag(name string) bool {
	return strings.HasPrefix(name, "sha256-")
}

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

// Referrers implements Place.
func (l *Layout) Referrers(ctx context.Context, digest string) ([]artifact.Descriptor, error) {
	all, err := l.index()
	if err != nil {
		return nil, err
	}
	var list []artifact.Descriptor
	for _, d := range all {
		if d.MediaType != artifact.MediaOCIManifest || isCosignTag(d.Annotations[artifact.AnnotationRefName]) {
			continue
		}
		_, b, err := l.Manifest(ctx, d.Digest)
		if err != nil {
			return nil, err
		}
		if m, err := artifact.DecodeOCI(b); err == nil && m.Subject != nil && m.Subject.Digest == digest {
			list = append(list, artifact.Describe(b))
		}
	}
	return list, nil
}

// PutBlob implements Target. What an attempt that was interrupted left is gone
// on with.
func (l *Layout) PutBlob(_ context.Context, d artifact.Descriptor, open func() (io.ReadCloser, error)) error {
	name := filepath.Join(l.dir, filepath.FromSlash(blobName(d.Digest)))
	if st, err := os.Stat(name); err == nil && st.Size() == d.Size {
		return nil // it got its name when it was whole
	}
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := save(r, name+partSuffix); err != nil {
		return err
	}
	return os.Rename(name+partSuffix, name)
}

// partSuffix ends the names of files that are not whole.
const partSuffix = ".part"

// save writes what a reader holds into a file. Where some of it is there
// already from an attempt that was interrupted, the rest is asked for alone.
func save(r io.Reader, name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	if some, ok := r.(interface{ resume(io.Reader) error }); ok {
		if err := some.resume(f); err != nil {
			return err
		}
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if err := f.Truncate(at); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, r, make([]byte, copySize)); err != nil {
		if errors.Is(err, errDigest) { // what is there is of no use to a later attempt
			os.Remove(name)
		}
		return err
	}
	return f.Close()
}

// copySize is what is read and written at once, in bytes.
const copySize = 1 << 20

// resume takes what a file already holds for the blob's first bytes. Whether
// they are is found out at its end, with the rest.
func (r *reader) resume(f io.Reader) error {
	sum := sha256.New()
	n, err := io.CopyBuffer(sum, io.LimitReader(f, r.size), make([]byte, copySize))
	r.at, r.sum = n, sum
	return err
}

// PutManifest implements Target.
func (l *Layout) PutManifest(_ context.Context, tag string, d artifact.Descriptor, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := filepath.Join(l.dir, filepath.FromSlash(blobName(d.Digest)))
	if tag != "" {
		d.Annotations = map[string]string{artifact.AnnotationRefName: tag}
		l.tags[tag] = d
	} else {
		l.rest = append(l.rest, d)
	}
	return os.WriteFile(name, b, 0o644)
}

// Edit has a layout that is there be written to. Finish makes it so.
func (l *Layout) Edit() error {
	if l.dir == "" {
		return fmt.Errorf("%s is an archive, and cannot be written to; pull it into a layout: pikelet pull --as layout", l)
	}
	list, err := l.index()
	if err != nil {
		return err
	}
	l.tags = map[string]artifact.Descriptor{}
	for _, d := range list {
		if tag := d.Annotations[artifact.AnnotationRefName]; tag != "" {
			l.tags[tag] = d
		} else {
			l.rest = append(l.rest, d)
		}
	}
	return nil
}

// Finish writes the index: the image first, then what belongs to it.
func (l *Layout) Finish() error {
	list := make([]artifact.Descriptor, 0, len(l.tags)+len(l.rest))
	var names []string
	children := map[string]bool{}
	for name, d := range l.tags {
		names = append(names, name)
		children[d.Digest] = true
		if d.MediaType != artifact.MediaOCIIndex {
			continue
		}
		_, b, err := l.Manifest(context.Background(), d.Digest)
		if err != nil {
			return err
		}
		i, err := artifact.DecodeIndex(b)
		if err != nil {
			return err
		}
		for _, c := range i.Manifests {
			children[c.Digest] = true
		}
	}
	slices.Sort(names)
	add := func(cosign bool) {
		for _, n := range names {
			if isCosignTag(n) == cosign {
				list = append(list, l.tags[n])
			}
		}
	}
	add(false)
	for _, d := range l.rest {
		if !children[d.Digest] {
			children[d.Digest] = true
			list = append(list, d)
		}
	}
	add(true)
	b, err := json.Marshal(artifact.OCIIndex{SchemaVersion: 2, MediaType: artifact.MediaOCIIndex, Manifests: list})
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(l.dir, indexFile), b); err != nil {
		return err
	}
	return replace(filepath.Join(l.dir, layoutFile), []byte(artifact.LayoutText))
}

// replace writes a file, or leaves the old one.
func replace(name string, b []byte) error {
	if err := os.WriteFile(name+partSuffix, b, 0o644); err != nil {
		return err
	}
	return os.Rename(name+partSuffix, name)
}

// WriteArchive writes a layout in a folder as an archive, the same bytes for
// the same layout.
func (l *Layout) WriteArchive(to io.Writer) error {
	w := tar.NewWriter(to)
	names := []string{layoutFile, indexFile}
	blobs, err := os.ReadDir(filepath.Join(l.dir, "blobs", "sha256"))
	if err != nil {
		return err
	}
	for _, b := range blobs {
		names = append(names, "blobs/sha256/"+b.Name())
	}
	for _, name := range names {
		if err := addFile(w, l.dir, name); err != nil {
			return fmt.Errorf("archiving %s: %w", name, err)
		}
	}
	return w.Close()
}

func addFile(w *tar.Writer, dir, name string) error {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: st.Size(), Mode: 0o644, Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, bytesOnly{f}, make([]byte, copySize))
	return err
}

// bytesOnly hides what else a file can do: io.Copy would ask the tar writer to
// read from it in pieces of 32 KiB.
type bytesOnly struct{ io.Reader }
