package registry

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Published is an image in its place, whose chain holds from the keys down to the
// list of its files. What the files hold is checked as it is read.
type Published struct {
	image.Image
	Index []byte // the index that led here; nil where a digest did
	From  Place

	trusted []*ecdsa.PublicKey // the keys that the chain was checked with
	unread  error              // why signatures in one of the two forms could not be read; nil for none
}

// Want says which image is wanted. Everything else is refused.
type Want struct {
	// Keys are those whose signature counts.
	Keys []*ecdsa.PublicKey
	// OwnKeys returns the keys that an initramfs holds. Where it is set, and
	// Keys is nil, an image is taken that its own keys signed: it is whole,
	// and it boots, which says nothing of who made it. It is for images that
	// the person who asks has made.
	OwnKeys func(initramfs []byte) []*ecdsa.PublicKey
	Arch    string // OCI's word
	Stream  string // "" is any
	AtLeast string // the lowest release; "" is any
}

// releaseForm is how releases are written; tags of channels begin with a
// letter.
var releaseForm = regexp.MustCompile(`^[0-9]+(\.[0-9]+)*$`)

// Open finds the image that a tag or digest names, and checks its chain: the
// signatures of index and OCI manifest, the OCI manifest, the manifest, and
// that they agree about every file. Nothing else is read before that holds. The
// error is fs.ErrNotExist where ref names nothing, and image.ErrSignature where
// no trusted key signed the image or the index.
func Open(ctx context.Context, p Place, ref string, want Want) (*Published, error) {
	img, err := open(ctx, p, ref, want.Arch)
	if err != nil {
		return nil, err
	}
	keys := want.Keys
	if keys == nil && want.OwnKeys != nil {
		if keys, err = img.ownKeys(ctx, want.OwnKeys); err != nil {
			return nil, err
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("verifying %s: no key to verify signatures with", img)
	}
	if err := img.verify(ctx, keys); err != nil {
		return nil, err
	}
	img.trusted = keys
	switch {
	case want.Stream != "" && img.Stream != want.Stream:
		return nil, fmt.Errorf("%s is of stream %q; want %q", img, img.Stream, want.Stream)
	case releaseForm.MatchString(ref) && img.Release != ref:
		return nil, fmt.Errorf("%s: the tag %s names release %s: another release was put there", p, ref, img.Release)
	case want.AtLeast != "" && image.CompareReleases(img.Release, want.AtLeast) < 0:
		return nil, fmt.Errorf("%s is release %s; want %s at least", img, img.Release, want.AtLeast)
	}
	return img, nil
}

// IsChannel reports whether a tag is one of a channel, which moves: tags of
// releases are numbers, and cosign has its own.
func IsChannel(tag string) bool {
	return tag != "" && !releaseForm.MatchString(tag) && !strings.HasPrefix(tag, "sha256:") && !isCosignTag(tag)
}

// open is Open without a look at signatures.
func open(ctx context.Context, p Place, ref, arch string) (*Published, error) {
	d, b, err := p.Manifest(ctx, ref)
	if err != nil {
		return nil, err
	}
	img := &Published{Image: image.Image{Digest: d.Digest, Source: source{p}}, From: p}
	oci := b
	if d.MediaType == image.MediaOCIIndex {
		index, err := image.DecodeIndex(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		one, err := index.For(arch)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p, err)
		}
		img.Index = b
		if _, oci, err = readManifest(ctx, p, one.Digest); err != nil {
			return nil, err
		}
		img.Digest = one.Digest
	}
	m, err := image.DecodeOCI(oci)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", img, err)
	}
	if m.Config.Size < 0 || m.Config.Size > image.MaxManifest {
		return nil, fmt.Errorf("reading the manifest of %s: %d bytes; want at most %d", img, m.Config.Size, image.MaxManifest)
	}
	if m.ArtifactType != image.ArtifactType { // checked before the config, which would be something else, is read
		return nil, fmt.Errorf("reading %s: unsupported artifact type %q; want %q", img, m.ArtifactType, image.ArtifactType)
	}
	if img.Text, err = readAll(newReader(ctx, p, m.Config.Digest, m.Config.Size)); err != nil {
		return nil, err
	}
	if img.Manifest, err = image.CheckOCI(oci, img.Text); err != nil {
		return nil, fmt.Errorf("%s: %w", img, err)
	}
	signatures, err := Signatures(ctx, p, img.Digest)
	if err != nil && (len(signatures) == 0 || ctx.Err() != nil) {
		return nil, err
	}
	img.unread = err
	img.Signature = image.Signature{Manifest: oci, Signatures: signatures}
	return img, nil
}

// verify checks the signatures of the OCI manifest and of the index.
func (img *Published) verify(ctx context.Context, keys []*ecdsa.PublicKey) error {
	if err := image.VerifyDigest(img.Digest, img.Signature.Signatures, keys); err != nil {
		return fmt.Errorf("verifying the OCI manifest of %s: %w", img, errors.Join(err, img.unread))
	}
	if img.Index == nil {
		return nil
	}
	digest := image.DigestOf(img.Index)
	list, unread := Signatures(ctx, img.From, digest)
	if unread != nil && (len(list) == 0 || ctx.Err() != nil) {
		return unread
	}
	if err := image.VerifyDigest(digest, list, keys); err != nil {
		err = fmt.Errorf("verifying the index %s, which led to %s: %w", digest, img, errors.Join(err, unread))
		return hint.With(err, "sign the index too, not only the image")
	}
	return nil
}

func (img *Published) ownKeys(ctx context.Context, read func([]byte) []*ecdsa.PublicKey) ([]*ecdsa.PublicKey, error) {
	f, ok := img.File(image.InitramfsFile)
	if !ok || f.Size > maxInitramfs {
		return nil, fmt.Errorf("%s has no initramfs to take keys from", img)
	}
	r, err := img.Open(ctx, image.InitramfsFile)
	if err != nil {
		return nil, err
	}
	b, err := readAll(r)
	if err != nil {
		return nil, err
	}
	keys := read(b)
	if len(keys) == 0 {
		return nil, fmt.Errorf("the initramfs of %s holds no key: no node would start it", img)
	}
	return keys, nil
}

// maxInitramfs bounds the initramfs that is read for its keys, in bytes: one
// with every module of a kernel has 60 MiB.
const maxInitramfs = 256 << 20

// top returns what tags name: the index, where one led here.
func (img *Published) top() []byte {
	if img.Index != nil {
		return img.Index
	}
	return img.Signature.Manifest
}

// Trusted returns the keys that the image was checked with.
func (img *Published) Trusted() []*ecdsa.PublicKey { return img.trusted }

// String is how errors call the image.
func (img *Published) String() string { return img.From.Reference(img.Digest) }

// source reads the files of images that lie in a place.
type source struct{ place Place }

// Open implements image.Source.
func (s source) Open(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
	if at == 0 && n == f.Size {
		r := newReader(ctx, s.place, f.Digest, f.Size)
		r.sum = nil // Image.Open compares
		return r, nil
	}
	return newPart(ctx, s.place, f.Digest, at, n), nil
}

// OpenAt implements image.Source.
func (s source) OpenAt(f image.File) (image.ReaderAt, error) { return s.place.OpenAt(f.Digest, f.Size) }

// ReadFiles reads every file but one that its place is known not to hold, and
// so checks that all are whole.
func (img *Published) ReadFiles(ctx context.Context, progress Progress, but string) error {
	for _, f := range img.Files {
		if f.Name == but {
			continue
		}
		r, err := img.Open(ctx, f.Name)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(counter(progress), r, make([]byte, copySize))
		r.Close()
		if err != nil {
			return fmt.Errorf("reading %q: %w", f.Name, err)
		}
	}
	return nil
}

// counter is a writer that reports how much it was given.
type counter Progress

// Write implements io.Writer.
func (c counter) Write(b []byte) (int, error) {
	if c != nil {
		c(int64(len(b)))
	}
	return len(b), nil
}
