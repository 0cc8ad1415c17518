package builder

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Artifact is an image in an OCI layout on disk.
type Artifact struct {
	Dir       string // the layout
	Manifest  *image.Manifest
	Text      []byte // the manifest's bytes
	Signature []byte // signature.json
	Digest    string // of the OCI manifest: what is signed
}

// Open returns a file of the artifact.
func (a *Artifact) Open(name string) (io.ReadCloser, error) {
	f, ok := a.Manifest.File(name)
	if !ok {
		return nil, fmt.Errorf("the artifact has no file %q", name)
	}
	return os.Open(blobPath(a.Dir, f.Digest))
}

// image returns the artifact as cards take it.
func (a *Artifact) image() slots.Image {
	return slots.Image{Manifest: a.Manifest, Text: a.Text, Signature: a.Signature, Digest: a.Digest, Open: a.Open}
}

// Pack writes root and boot files as a signed OCI layout into dir, which must
// not exist, with the list of what is in it beside. The root is moved, not
// copied.
func Pack(p *Plan, root *Root, boot *Boot, sbom []byte, key *ecdsa.PrivateKey, dir string) (*Artifact, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	m := newManifest(p, root, boot)
	for _, f := range m.Files {
		if f.Name == image.RootFile {
			if err := os.Rename(root.File, blobPath(dir, f.Digest)); err != nil {
				return nil, err
			}
			continue
		}
		if err := os.WriteFile(blobPath(dir, f.Digest), boot.Files[f.Name], 0o644); err != nil {
			return nil, err
		}
	}
	text, err := m.Encode()
	if err != nil {
		return nil, err
	}
	a := &Artifact{Dir: dir, Manifest: m, Text: text}
	return a, a.sign(sbom, key)
}

// newManifest describes an image.
func newManifest(p *Plan, root *Root, boot *Boot) *image.Manifest {
	m := &image.Manifest{
		Format: image.Format, Stream: p.Image.Stream, Release: p.Image.Release, BuildID: p.BuildID, Epoch: p.Epoch,
		Arch: ociArch, Boards: p.Image.Boards, SlotSize: int64(p.Image.SlotSize),
		Packages: image.DigestOf(p.PackageList()), Root: root.Meta,
	}
	for _, name := range boot.Names() {
		m.Files = append(m.Files, image.File{Name: name, Size: int64(len(boot.Files[name])), Digest: boot.digests[name]})
	}
	m.Files = append(m.Files, image.File{Name: image.RootFile, Size: root.Size, Digest: root.Digest})
	return m
}

// sign writes the manifests, the index over them, the bill of materials that
// refers to the image, and each one's signature as cosign stores it.
func (a *Artifact) sign(sbom []byte, key *ecdsa.PrivateKey) error {
	if _, err := writeBlob(a.Dir, a.Text); err != nil {
		return err
	}
	oci, err := image.EncodeOCI(a.Manifest, a.Text)
	if err != nil {
		return err
	}
	if a.Digest, err = writeBlob(a.Dir, oci); err != nil {
		return err
	}
	img := image.Descriptor{MediaType: image.MediaOCIManifest, ArtifactType: image.ArtifactType, Digest: a.Digest, Size: int64(len(oci))}
	bill, blobs, err := image.EncodeReferrer(image.MediaSPDX, sbom, img)
	if err != nil {
		return err
	}
	for _, b := range append(blobs, bill) {
		if _, err := writeBlob(a.Dir, b); err != nil {
			return err
		}
	}
	img.Platform = &image.Platform{Architecture: a.Manifest.Arch, OS: "linux"}
	index, err := image.EncodeIndex(img)
	if err != nil {
		return err
	}
	top := []image.Descriptor{
		{MediaType: image.MediaOCIIndex, Digest: image.DigestOf(index), Size: int64(len(index)),
			Annotations: map[string]string{image.AnnotationRefName: a.Manifest.Release}},
		{MediaType: image.MediaOCIManifest, ArtifactType: image.MediaSPDX, Digest: image.DigestOf(bill), Size: int64(len(bill))},
	}
	if _, err := writeBlob(a.Dir, index); err != nil {
		return err
	}
	for _, digest := range []string{a.Digest, image.DigestOf(index), image.DigestOf(bill)} {
		signed, err := image.SignDigest(digest, key)
		if err != nil {
			return err
		}
		if digest == a.Digest {
			if a.Signature, err = (image.Signature{Manifest: oci, Signatures: []image.Signed{signed}}).Encode(); err != nil {
				return err
			}
		}
		d, err := a.cosign(digest, signed)
		if err != nil {
			return err
		}
		top = append(top, d)
	}
	sort.Slice(top[2:], func(i, j int) bool {
		return top[2+i].Annotations[image.AnnotationRefName] < top[2+j].Annotations[image.AnnotationRefName]
	})
	layout, err := json.Marshal(image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex, Manifests: top})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(a.Dir, "index.json"), layout, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.Dir, "oci-layout"), []byte(image.LayoutText), 0o644)
}

// cosign stores a signature where cosign looks for it: an image whose tag is
// made of the signed digest.
func (a *Artifact) cosign(digest string, s image.Signed) (image.Descriptor, error) {
	m, blobs, err := image.EncodeCosign([]image.Signed{s})
	if err != nil {
		return image.Descriptor{}, err
	}
	for _, b := range append(blobs, m) {
		if _, err := writeBlob(a.Dir, b); err != nil {
			return image.Descriptor{}, err
		}
	}
	return image.Descriptor{MediaType: image.MediaOCIManifest, Digest: image.DigestOf(m), Size: int64(len(m)),
		Annotations: map[string]string{image.AnnotationRefName: image.CosignTag(digest)}}, nil
}

func blobPath(dir, digest string) string {
	return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

func writeBlob(dir string, b []byte) (string, error) {
	d := image.DigestOf(b)
	return d, os.WriteFile(blobPath(dir, d), b, 0o644)
}
