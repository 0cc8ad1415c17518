// Package inspect looks into what builds made and cards hold: which slots
// there are, whether their chain from signature to verity root holds, and
// what is in their roots.
package inspect

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	diskfs "github.com/diskfs/go-diskfs"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/partition/mbr"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Image is a card, a disk image or an artifact.
type Image struct {
	Path       string      `json:"path"`
	Partitions []Partition `json:"partitions,omitempty"`
	Default    string      `json:"default,omitempty"` // the slot autoboot.txt names
	Slots      []*Slot     `json:"slots"`
	close      []func()
}

// Partition is one of a card's four.
type Partition struct {
	Number int    `json:"number"`
	Name   string `json:"name"`
	Start  int64  `json:"start"` // bytes
	Size   int64  `json:"size"`  // bytes
}

// Slot is one place an image is: a slot of a card, or an artifact.
type Slot struct {
	image.Image          // as far as it can be read; of its files only the root can be opened
	Name        string   // a, b, or artifact
	Signed      string   // what the signature is good for
	Problems    []string // why the chain does not hold; none when it does
	Cmdline     string
	Packages    []string           // name and version, sorted
	Keys        []*ecdsa.PublicKey // that the image trusts

	files source
	root  string // a copy of the root on this computer
	sign  []byte // signature.json as it lies there
}

// MarshalJSON implements json.Marshaler.
func (s *Slot) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Name     string          `json:"name"`
		Manifest *image.Manifest `json:"manifest"`
		Digest   string          `json:"digest"`
		Signed   string          `json:"signed"`
		Problems []string        `json:"problems"`
		Cmdline  string          `json:"cmdline"`
		Packages []string        `json:"packages"`
	}{s.Name, s.Manifest, s.Digest, s.Signed, s.Problems, s.Cmdline, s.Packages})
}

// rootCopy is the root of an image in a file of its own.
type rootCopy string

// OpenAt implements image.Source.
func (c rootCopy) OpenAt(f image.File) (image.ReaderAt, error) {
	if f.Name != image.RootFile {
		return nil, fmt.Errorf("opening %q: %w", f.Name, fs.ErrNotExist)
	}
	return os.Open(string(c))
}

// Open implements image.Source.
func (c rootCopy) Open(_ context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	return image.OpenSection(c, f, at, n)
}

// source holds the files of a slot.
type source interface {
	open(name string) (io.ReadCloser, int64, error)
}

func readFile(s source, name string, limit int64) ([]byte, error) {
	r, size, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", name, size, limit)
	}
	return io.ReadAll(io.LimitReader(r, limit))
}

// Open looks into a disk image, a device, a build's output directory or an
// OCI layout. Copies of roots go below work. Close ends it.
func Open(path, work string) (*Image, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	img := &Image{Path: path}
	if st.IsDir() {
		err = img.openDir(path)
	} else {
		err = img.openCard(path)
	}
	if err != nil {
		img.Close()
		return nil, fmt.Errorf("inspecting %s: %w", path, err)
	}
	for _, s := range img.Slots {
		s.read(work)
	}
	return img, nil
}

// Close closes what Open opened.
func (img *Image) Close() {
	for _, f := range img.close {
		f()
	}
}

func (img *Image) openDir(dir string) error {
	for _, try := range []string{filepath.Join(dir, "artifact"), dir} {
		if _, err := os.Stat(filepath.Join(try, "oci-layout")); err == nil {
			files, err := openLayout(try)
			if err != nil {
				return err
			}
			img.Slots = append(img.Slots, &Slot{Image: image.Image{Digest: files.digest}, Name: "artifact", files: files})
			return nil
		}
	}
	return errors.New("no OCI layout found; want a build's output directory, a layout, a disk image or a device")
}

// names of a card's partitions, by number.
var names = []string{"", "control", "slot a", "slot b", "state"}

func (img *Image) openCard(path string) error {
	if err := finished(path); err != nil {
		return err
	}
	d, err := diskfs.Open(path, diskfs.WithOpenMode(diskfs.ReadOnly))
	if err != nil {
		return err
	}
	img.close = append(img.close, func() { d.Close() })
	table, err := d.GetPartitionTable()
	if err != nil {
		return fmt.Errorf("reading the partition table: %w", err)
	}
	m, ok := table.(*mbr.Table)
	if !ok {
		return errors.New("partition table mismatch: got GPT, want MBR")
	}
	for i, p := range m.Partitions {
		if i < 4 && p.Size > 0 {
			img.Partitions = append(img.Partitions, Partition{i + 1, names[i+1], p.GetStart(), p.GetSize()})
		}
	}
	if len(img.Partitions) < 3 {
		return fmt.Errorf("partition count mismatch: got %d, want 4", len(img.Partitions))
	}
	if fs, err := d.GetFilesystem(1); err == nil {
		if b, err := readFile(fatFiles{fs}, "autoboot.txt", 4096); err == nil {
			if l, err := slots.DecodeAutoboot(b); err == nil {
				img.Default = string(l)
			}
		}
	}
	for _, l := range []slots.Letter{slots.A, slots.B} {
		s := &Slot{Name: string(l)}
		fs, err := d.GetFilesystem(l.Partition())
		if err != nil {
			s.Problems = append(s.Problems, fmt.Sprintf("the slot has no FAT file system: %v", err))
		} else {
			s.files = fatFiles{fs}
		}
		img.Slots = append(img.Slots, s)
	}
	return nil
}

// finished returns an error for a card whose flashing was interrupted.
func finished(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sector := make([]byte, disk.SectorSize)
	if _, err := io.ReadFull(f, sector); err == nil && disk.IsUnfinished(sector) {
		_, err = disk.Decode(sector)
		return err
	}
	return nil
}

// fatFiles are the files of a FAT.
type fatFiles struct{ fs filesystem.FileSystem }

func (f fatFiles) open(name string) (io.ReadCloser, int64, error) {
	file, err := f.fs.OpenFile("/"+name, os.O_RDONLY)
	if err != nil {
		return nil, 0, err
	}
	st, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, 0, err
	}
	// go-diskfs v1.9.4 reads on behind the end of a file that is read in
	// pieces: its size says where to stop.
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(file, st.Size()), file}, st.Size(), nil
}

// layoutFiles are the files of an artifact in an OCI layout.
type layoutFiles struct {
	layout *registry.Layout
	digest string
	blobs  map[string]image.Descriptor // by title
	sign   []byte
}

func (l *layoutFiles) open(name string) (io.ReadCloser, int64, error) {
	if name == image.SignatureFile {
		return io.NopCloser(bytes.NewReader(l.sign)), int64(len(l.sign)), nil
	}
	d, ok := l.blobs[name]
	if !ok {
		return nil, 0, fmt.Errorf("file %s: %w", name, fs.ErrNotExist)
	}
	size, err := l.layout.Size(d.Digest)
	if err != nil {
		return nil, 0, err
	}
	r, err := l.layout.Blob(context.Background(), d.Digest, size, 0)
	return r, size, err
}

// openLayout finds the image in a layout, and its signatures. Whether they
// are good is found out later, as with a card.
func openLayout(dir string) (*layoutFiles, error) {
	ctx := context.Background()
	l := &layoutFiles{layout: registry.OpenLayout(dir), blobs: map[string]image.Descriptor{}}
	d, b, err := l.layout.Manifest(ctx, "")
	if err != nil {
		return nil, err
	}
	if d.MediaType == image.MediaOCIIndex {
		index, err := image.DecodeIndex(b)
		if err != nil {
			return nil, err
		}
		if len(index.Manifests) != 1 {
			return nil, fmt.Errorf("image count mismatch in the layout's index: got %d, want 1", len(index.Manifests))
		}
		if d, b, err = l.layout.Manifest(ctx, index.Manifests[0].Digest); err != nil {
			return nil, err
		}
	}
	m, err := image.DecodeOCI(b)
	if err != nil {
		return nil, err
	}
	l.digest = d.Digest
	for _, f := range m.Layers {
		l.blobs[f.Annotations[image.AnnotationTitle]] = f
	}
	l.blobs[image.ManifestFile] = m.Config
	list, err := registry.Signatures(ctx, l.layout, l.digest)
	if err != nil {
		return nil, err
	}
	l.sign, err = image.Signature{Manifest: b, Signatures: list}.Encode()
	return l, err
}
