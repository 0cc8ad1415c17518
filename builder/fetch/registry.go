package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/pikelet-os/pikelet/layers/oci"
)

// What a vendor artifact is made of: one layer for each file, named by the
// annotation that oras and others put files' names in.
const (
	mediaVendor = "application/vnd.pikelet.vendor.v1+json"
	mediaFile   = "application/octet-stream"
	titleKey    = "org.opencontainers.image.title"
)

// Registry is a Source in an artifact that Push pushed.
type Registry struct {
	repository name.Repository
	blobs      map[string]v1.Hash // by title
	options    []remote.Option
}

// OpenRegistry reads the artifact's manifest. With oci.PlainPrefix before the
// reference, it is asked for without TLS.
func OpenRegistry(ctx context.Context, ref string, o ...remote.Option) (*Registry, error) {
	c, err := oci.Reference(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("reading the vendor artifact %s: %w", ref, err)
	}
	o = append(c.Options, o...)
	img, err := remote.Image(c.Reference, o...)
	if err != nil {
		return nil, fmt.Errorf("reading the vendor artifact %s: %w", ref, c.Explain(err))
	}
	m, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("reading the vendor artifact %s: %w", ref, err)
	}
	if m.Config.MediaType != mediaVendor {
		return nil, fmt.Errorf("%s is not a vendor artifact (its configuration is %s)", ref, m.Config.MediaType)
	}
	v := &Registry{repository: c.Reference.Context(), blobs: map[string]v1.Hash{}, options: o}
	for _, l := range m.Layers {
		v.blobs[l.Annotations[titleKey]] = l.Digest
	}
	return v, nil
}

// Open opens a file of the artifact; what is read is checked against its
// digest.
func (v *Registry) Open(ctx context.Context, file string) (io.ReadCloser, error) {
	digest, ok := v.blobs[file]
	if !ok {
		return nil, fmt.Errorf("%s: %w", file, fs.ErrNotExist)
	}
	l, err := remote.Layer(v.repository.Digest(digest.String()), append(v.options, remote.WithContext(ctx))...)
	if err != nil {
		return nil, err
	}
	return l.Compressed()
}

// Push sends every file below dir to a registry as one artifact, and returns
// its digest. What the registry has is not sent again.
func Push(ctx context.Context, dir, ref string, o ...remote.Option) (string, error) {
	c, err := oci.Reference(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("pushing %s: %w", ref, err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mediaVendor)
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		l, err := newFileLayer(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: mediaFile,
			Annotations: map[string]string{titleKey: filepath.ToSlash(rel)}})
		return err
	})
	if err != nil {
		return "", err
	}
	digest, err := img.Digest()
	if err != nil {
		return "", err
	}
	if err := remote.Write(c.Reference, img, append(c.Options, o...)...); err != nil {
		return "", fmt.Errorf("pushing %s: %w", ref, c.Explain(err))
	}
	return digest.String(), nil
}

// fileLayer is a file as a layer that is as it is.
type fileLayer struct {
	name string
	hash v1.Hash
	size int64
}

func newFileLayer(file string) (*fileLayer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, f)
	return &fileLayer{file, v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(sum.Sum(nil))}, n}, err
}

func (l *fileLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.name) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.name) }
func (l *fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error)  { return mediaFile, nil }
