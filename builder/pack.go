package builder

import (
	"cmp"
	"crypto/ecdsa"
	"encoding/json"
	"os"
	"path/filepath"
	"sort"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// Artifact is an image in an OCI layout on disk.
type Artifact struct {
	image.Image
	Dir string // the layout
}

func blobsOf(dir string) image.Blobs { return image.Blobs(filepath.Join(dir, "blobs", "sha256")) }

// documents are what refers to an image in its artifact.
type documents struct {
	bill       []byte // of materials, SPDX
	provenance []byte // a predicate of SLSA
}

// pack writes root and boot files as a signed OCI layout into dir, which must not
// exist, with what write returns for the image's digest beside. m describes all
// of them; root is the path of the sealed root, which is moved, not copied.
func pack(m *image.Manifest, root string, boot *bootFiles, key *ecdsa.PrivateKey, dir string, write func(digest string) (documents, error),
) (*Artifact, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	blobs := blobsOf(dir)
	for _, f := range m.Files {
		if f.Name == image.RootFile {
			if err := os.Rename(root, blobs.Path(f.Digest)); err != nil {
				return nil, err
			}
			continue
		}
		if err := os.WriteFile(blobs.Path(f.Digest), boot.Files[f.Name], 0o644); err != nil {
			return nil, err
		}
	}
	text, err := m.Encode()
	if err != nil {
		return nil, err
	}
	a := &Artifact{Image: image.Image{Manifest: m, Text: text, Source: blobs}, Dir: dir}
	return a, a.sign(write, key)
}

// newManifest describes an image whose root is laid out. What is not known before
// the root is written, its digest and its verity hash, seal adds.
func newManifest(p *Plan, kubernetes string, root *rootPlan, boot *bootFiles) *image.Manifest {
	m := &image.Manifest{
		Format: image.Format, Stream: p.Image.Stream, Release: p.Image.Release, BuildID: p.BuildID, Epoch: p.Epoch,
		Arch: ociArch, Boards: p.Image.Boards, SlotSize: int64(p.Image.SlotSize),
		Packages: image.DigestOf(p.PackageList()), Kubernetes: kubernetes, Root: root.meta(),
	}
	for _, name := range boot.Names() {
		m.Files = append(m.Files, image.File{Name: name, Size: int64(len(boot.Files[name])), Digest: boot.digests[name]})
	}
	m.Files = append(m.Files, image.File{Name: image.RootFile, Size: root.size()})
	return m
}

// sign writes the manifests, the index over them, the bill of materials that
// refers to the image, and each one's signatures as cosign stores them: the classic
// one under a tag, and the bundle that refers to what it signs. The provenance is
// in a bundle that signs it.
func (a *Artifact) sign(write func(digest string) (documents, error), key *ecdsa.PrivateKey) error {
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
	about, err := write(a.Digest)
	if err != nil {
		return err
	}
	bill, blobs, err := image.EncodeReferrer(image.MediaSPDX, about.bill, img)
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
	for _, b := range [][]byte{oci, index, bill} {
		subject := image.Describe(b)
		signed, err := image.SignDigest(subject.Digest, key)
		if err != nil {
			return err
		}
		tagged, err := a.cosign(subject.Digest, signed)
		if err != nil {
			return err
		}
		bundled, err := image.SignBundle(subject.Digest, key)
		if err != nil {
			return err
		}
		bundle, err := a.bundle(subject, bundled, &key.PublicKey)
		if err != nil {
			return err
		}
		if subject.Digest == a.Digest {
			a.Signature = image.Signature{Manifest: oci, Signatures: []image.Signed{signed, bundled}}
		}
		top = append(top, tagged, bundle)
	}
	attested, err := a.attest(image.Describe(oci), about.provenance, key)
	if err != nil {
		return err
	}
	top = append(top, attested)
	sort.Slice(top[2:], func(i, j int) bool {
		a, b := top[2+i], top[2+j]
		return cmp.Or(cmp.Compare(a.Annotations[image.AnnotationRefName], b.Annotations[image.AnnotationRefName]),
			cmp.Compare(a.Digest, b.Digest)) < 0
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

// bundle stores a signature as cosign 3 does: a bundle that refers to what it
// signs.
func (a *Artifact) bundle(subject image.Descriptor, s image.Signed, key *ecdsa.PublicKey) (image.Descriptor, error) {
	text, err := image.EncodeBundle(s, key)
	if err != nil {
		return image.Descriptor{}, err
	}
	m, blobs, err := image.EncodeBundleManifest(text, subject)
	if err != nil {
		return image.Descriptor{}, err
	}
	return a.referrer(m, blobs)
}

// attest stores the provenance of what subject describes as cosign 3 does: a bundle
// that holds it and its signature.
func (a *Artifact) attest(subject image.Descriptor, predicate []byte, key *ecdsa.PrivateKey) (image.Descriptor, error) {
	s, err := image.Attest(subject.Digest, image.PredicateSLSA, predicate, key)
	if err != nil {
		return image.Descriptor{}, err
	}
	text, err := image.EncodeBundle(s, &key.PublicKey)
	if err != nil {
		return image.Descriptor{}, err
	}
	m, blobs, err := image.EncodeAttestationManifest(text, image.PredicateSLSA, subject)
	if err != nil {
		return image.Descriptor{}, err
	}
	return a.referrer(m, blobs)
}

// referrer stores a manifest and its blobs.
func (a *Artifact) referrer(m []byte, blobs [][]byte) (image.Descriptor, error) {
	for _, b := range append(blobs, m) {
		if _, err := writeBlob(a.Dir, b); err != nil {
			return image.Descriptor{}, err
		}
	}
	return image.Describe(m), nil
}

func writeBlob(dir string, b []byte) (string, error) {
	d := image.DigestOf(b)
	return d, os.WriteFile(blobsOf(dir).Path(d), b, 0o644)
}
