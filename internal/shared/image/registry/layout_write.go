package registry

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// CreateLayout begins a layout in a directory, or goes on with one that was not
// finished. Finish makes it one.
func CreateLayout(dir string) (*Layout, error) {
	l := OpenLayout(dir)
	l.tags = map[string]image.Descriptor{}
	return l, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755)
}

// PutBlob implements Target. What an attempt that was interrupted left is gone
// on with.
func (l *Layout) PutBlob(_ context.Context, d image.Descriptor, open func() (io.ReadCloser, error)) error {
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
		if errors.Is(err, image.ErrDigestMismatch) { // what is there is of no use to a later attempt
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
func (l *Layout) PutManifest(_ context.Context, tag string, d image.Descriptor, b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	name := filepath.Join(l.dir, filepath.FromSlash(blobName(d.Digest)))
	if tag != "" {
		d.Annotations = map[string]string{image.AnnotationRefName: tag}
		l.tags[tag] = d
	} else {
		l.rest = append(l.rest, d)
	}
	return os.WriteFile(name, b, 0o644)
}

// PutReferrers implements Target: a layout lists what it holds.
func (l *Layout) PutReferrers(context.Context, string, []image.Descriptor) error { return nil }

// errArchive is returned for a layout in an archive, which cannot be changed.
var errArchive = errors.New("an archive cannot be changed")

// Edit has a layout that is there be written to. Finish makes it so.
func (l *Layout) Edit() error {
	if l.dir == "" {
		return hint.With(fmt.Errorf("writing to %s: %w", l, errArchive), "copy the image into a layout in a directory first")
	}
	list, err := l.index()
	if err != nil {
		return err
	}
	l.tags = map[string]image.Descriptor{}
	for _, d := range list {
		if tag := d.Annotations[image.AnnotationRefName]; tag != "" {
			l.tags[tag] = d
		} else {
			l.rest = append(l.rest, d)
		}
	}
	return nil
}

// Finish writes the index: the image first, then what belongs to it.
func (l *Layout) Finish() error {
	list := make([]image.Descriptor, 0, len(l.tags)+len(l.rest))
	var names []string
	children := map[string]bool{}
	for name, d := range l.tags {
		names = append(names, name)
		children[d.Digest] = true
		if d.MediaType != image.MediaOCIIndex {
			continue
		}
		_, b, err := l.Manifest(context.Background(), d.Digest)
		if err != nil {
			return err
		}
		i, err := image.DecodeIndex(b)
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
	// Bundles come last, and in one order: they were written at the same time.
	slices.SortStableFunc(l.rest, func(a, b image.Descriptor) int {
		last := func(d image.Descriptor) int {
			if d.ArtifactType == image.MediaBundle {
				return 1
			}
			return 0
		}
		if last(a) == 0 || last(b) == 0 {
			return last(a) - last(b)
		}
		return strings.Compare(a.Digest, b.Digest)
	})
	for _, d := range l.rest {
		if !children[d.Digest] {
			children[d.Digest] = true
			list = append(list, d)
		}
	}
	add(true)
	b, err := json.Marshal(image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex, Manifests: list})
	if err != nil {
		return err
	}
	if err := replace(filepath.Join(l.dir, indexFile), b); err != nil {
		return err
	}
	return replace(filepath.Join(l.dir, layoutFile), []byte(image.LayoutText))
}

// replace writes a file, or leaves the old one.
func replace(name string, b []byte) error {
	if err := os.WriteFile(name+partSuffix, b, 0o644); err != nil {
		return err
	}
	return os.Rename(name+partSuffix, name)
}

// WriteArchive writes a layout in a directory as an archive, the same bytes for
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
