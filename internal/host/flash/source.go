package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/disk"
	"github.com/pikelet-os/pikelet/internal/shared/fat"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Source is a card or a disk image as a registry.Place. It holds all files of
// the image but the kernel command line for netboot.
type Source struct {
	Table    disk.Table
	name     string
	f        *os.File
	manifest *image.Manifest // as the slot says it; whoever reads it checks it
	text     []byte
	sign     image.Signature
	volumes  map[slots.Letter]*fat.Volume
}

// OpenSource opens a card or a disk image. Where one of its slots holds no
// image, the other is taken.
func OpenSource(name string) (*Source, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	s := &Source{name: name, f: f, volumes: map[slots.Letter]*fat.Volume{}}
	if err := s.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (s *Source) read() error {
	var err error
	if s.Table, err = disk.ReadTable(s.f); errors.Is(err, io.EOF) {
		return errors.New("not a card and not a disk image: smaller than one sector")
	} else if err != nil {
		return err
	}
	if size, err := s.f.Seek(0, io.SeekEnd); err == nil && size < s.Table.End() {
		err := fmt.Errorf("the disk image is truncated: got %d bytes, want %d by its partition table", size, s.Table.End())
		return hint.With(err, "download or copy it again")
	}
	var problem error
	for _, l := range []slots.Letter{slots.A, slots.B} {
		p, err := s.Table.Partition(l.Partition())
		if err != nil {
			return fmt.Errorf("not a Pikelet card: %w", err)
		}
		v, err := fat.Open(io.NewSectionReader(s.f, p.Start, p.Size))
		if err != nil {
			problem = fmt.Errorf("slot %s: %w", l, err)
			continue
		}
		s.volumes[l] = v
		if s.manifest != nil {
			continue
		}
		if err := s.readSlot(v); err != nil {
			problem = fmt.Errorf("slot %s: %w", l, err)
			delete(s.volumes, l)
		}
	}
	if s.manifest == nil {
		return fmt.Errorf("neither slot holds an image: %w", problem)
	}
	return nil
}

func (s *Source) readSlot(v *fat.Volume) error {
	text, err := v.ReadFile(image.ManifestFile, image.MaxManifest)
	if err != nil {
		return err
	}
	sign, err := v.ReadFile(image.SignatureFile, image.MaxSignature)
	if err != nil {
		return err
	}
	if s.sign, err = image.DecodeSignature(sign); err != nil {
		return err
	}
	m, err := image.DecodeManifest(text)
	if err != nil {
		return err
	}
	s.manifest, s.text = m, text
	return nil
}

// Close closes the card.
func (s *Source) Close() error { return s.f.Close() }

// String implements registry.Place.
func (s *Source) String() string { return s.name }

// Manifest implements registry.Place.
func (s *Source) Manifest(_ context.Context, ref string) (image.Descriptor, []byte, error) {
	digest := image.DigestOf(s.sign.Manifest)
	b := s.sign.Manifest
	switch ref {
	case "", digest:
	case image.CosignTag(digest):
		var err error
		if b, _, err = image.EncodeCosign(s.sign.Signatures); err != nil {
			return image.Descriptor{}, nil, err
		}
	default:
		if b = s.bundles()[ref]; b == nil {
			return image.Descriptor{}, nil, fmt.Errorf("%s holds no %s: %w", s, ref, fs.ErrNotExist)
		}
	}
	return image.Descriptor{MediaType: image.MediaOCIManifest, Digest: image.DigestOf(b), Size: int64(len(b))}, b, nil
}

// bundles returns, by their digests, the manifests and blobs of the bundles that
// hold signatures of the image. signature.json keeps what they hold; which key made
// each is left out.
func (s *Source) bundles() map[string][]byte {
	all := map[string][]byte{}
	for _, signed := range s.sign.Signatures {
		text, err := image.EncodeBundle(signed, nil)
		if err != nil {
			continue // a classic one
		}
		manifest, blobs, err := image.EncodeBundleManifest(text, image.Describe(s.sign.Manifest))
		if err != nil {
			continue
		}
		for _, b := range append(blobs, manifest) {
			all[image.DigestOf(b)] = b
		}
	}
	return all
}

// Remote implements registry.Place.
func (s *Source) Remote() bool { return false }

// Backoff implements registry.Place.
func (s *Source) Backoff() time.Duration { return 0 }

// Reference implements registry.Place.
func (s *Source) Reference(string) string { return s.name }

// Part implements registry.Place.
func (s *Source) Part(ctx context.Context, digest string, at, n int64) (io.ReadCloser, error) {
	r, err := s.OpenAt(digest, 0)
	if err != nil {
		return nil, err
	}
	return image.Section(r, at, n), nil
}

// Referrers implements registry.Place: a card holds bundles alone.
func (s *Source) Referrers(_ context.Context, digest string) ([]image.Descriptor, error) {
	var list []image.Descriptor
	all := s.bundles()
	for _, d := range slices.Sorted(maps.Keys(all)) {
		if _, err := image.BundleIn(all[d], digest); err == nil {
			list = append(list, image.Describe(all[d]))
		}
	}
	return list, nil
}

// Blob implements registry.Place.
func (s *Source) Blob(_ context.Context, digest string, size, from int64) (io.ReadCloser, error) {
	r, err := s.OpenAt(digest, size)
	if err != nil {
		return nil, err
	}
	return image.Section(r, from, size-from), nil
}

// OpenAt implements registry.Place.
func (s *Source) OpenAt(digest string, _ int64) (image.ReaderAt, error) {
	if image.DigestOf(s.text) == digest {
		return image.NopCloser(bytes.NewReader(s.text)), nil
	}
	for _, signed := range s.sign.Signatures {
		if image.DigestOf(signed.Payload) == digest {
			return image.NopCloser(bytes.NewReader(signed.Payload)), nil
		}
	}
	if b, ok := s.bundles()[digest]; ok {
		return image.NopCloser(bytes.NewReader(b)), nil
	}
	for _, f := range s.manifest.Files {
		if f.Digest != digest {
			continue
		}
		name, volumes := f.Name, []slots.Letter{slots.A, slots.B}
		switch f.Name { // each slot has its own, under one name
		case slots.A.CmdlineFile():
			name, volumes = slots.CmdlineFile, []slots.Letter{slots.A}
		case slots.B.CmdlineFile():
			name, volumes = slots.CmdlineFile, []slots.Letter{slots.B}
		}
		for _, l := range volumes {
			if v := s.volumes[l]; v != nil {
				if r, _, err := v.OpenAt(name, f.Size); err == nil {
					return image.NopCloser(r), nil
				}
			}
		}
		return nil, fmt.Errorf("%s holds no %s: %w", s, f.Name, fs.ErrNotExist)
	}
	return nil, fmt.Errorf("%s holds no %s: %w", s, digest, fs.ErrNotExist)
}

// Files returns what its control partition holds, as far as it can be read:
// a damaged one boots slot a and has no config.
func (s *Source) Files() slots.Files {
	files := slots.Files{Default: slots.A}
	read := func(name string) []byte {
		at, size, err := slots.ControlFile(s.f, s.Table, name)
		if err != nil || size > 1<<20 {
			return nil
		}
		b := make([]byte, size)
		if _, err := s.f.ReadAt(b, at); err != nil {
			return nil
		}
		return b
	}
	if l, err := slots.DecodeAutoboot(read(slots.AutobootFile)); err == nil {
		files.Default = l
	}
	if s.volumes[files.Default] == nil {
		files.Default = files.Default.Other()
	}
	files.Node = limited(read(slots.NodeFile), slots.NodeSize)
	files.Report = limited(read(slots.ReportFile), slots.ReportSize)
	return files
}

// limited returns a text without the newlines that pad its file.
func limited(b []byte, size int) []byte {
	if len(b) > size {
		return nil
	}
	if t := bytes.TrimRight(b, "\n"); len(t) > 0 {
		return append(t[:len(t):len(t)], '\n')
	}
	return nil
}
