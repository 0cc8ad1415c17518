package builder

import (
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/internal/artifact"
	"github.com/pikelet-os/pikelet/internal/slots"
)

// Artifact is an image in an OCI layout on disk.
type Artifact struct {
	Dir       string // the layout
	Manifest  *artifact.Manifest
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
// not exist. The root is moved, not copied.
func Pack(p *Plan, root *Root, boot *Boot, key *ecdsa.PrivateKey, dir string) (*Artifact, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		return nil, err
	}
	m := newManifest(p, root, boot)
	for _, f := range m.Files {
		if f.Name == artifact.RootFile {
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
	return a, a.sign(key)
}

// newManifest describes an image.
func newManifest(p *Plan, root *Root, boot *Boot) *artifact.Manifest {
	m := &artifact.Manifest{
		Format: artifact.Format, Stream: p.Image.Stream, Release: p.Image.Release, BuildID: p.BuildID, Epoch: p.Epoch,
		Arch: ociArch, Boards: p.Image.Boards, SlotSize: int64(p.Image.SlotSize),
		Packages: artifact.DigestOf(p.PackageList()), Root: root.Meta,
	}
	for _, name := range boot.Names() {
		m.Files = append(m.Files, artifact.File{Name: name, Size: int64(len(boot.Files[name])), Digest: boot.digests[name]})
	}
	m.Files = append(m.Files, artifact.File{Name: artifact.RootFile, Size: root.Size, Digest: root.Digest})
	return m
}

// sign writes the manifests, the signature as cosign stores it, and the index
// that names both.
func (a *Artifact) sign(key *ecdsa.PrivateKey) error {
	if _, err := writeBlob(a.Dir, a.Text); err != nil {
		return err
	}
	oci, err := artifact.EncodeOCI(a.Manifest, a.Text)
	if err != nil {
		return err
	}
	if a.Digest, err = writeBlob(a.Dir, oci); err != nil {
		return err
	}
	signed, err := artifact.Sign(oci, key)
	if err != nil {
		return err
	}
	if a.Signature, err = (artifact.Signature{Manifest: oci, Signatures: []artifact.Signed{signed}}).Encode(); err != nil {
		return err
	}
	cosign, err := a.cosign(signed)
	if err != nil {
		return err
	}
	index, err := json.Marshal(artifact.OCIIndex{SchemaVersion: 2, MediaType: artifact.MediaOCIIndex, ArtifactType: artifact.ArtifactType,
		Manifests: []artifact.Descriptor{{MediaType: artifact.MediaOCIManifest, ArtifactType: artifact.ArtifactType, Digest: a.Digest, Size: int64(len(oci)),
			Platform: &artifact.Platform{Architecture: a.Manifest.Arch, OS: "linux"}}}})
	if err != nil {
		return err
	}
	indexDigest, err := writeBlob(a.Dir, index)
	if err != nil {
		return err
	}
	layout, err := json.Marshal(artifact.OCIIndex{SchemaVersion: 2, MediaType: artifact.MediaOCIIndex, Manifests: []artifact.Descriptor{
		{MediaType: artifact.MediaOCIIndex, Digest: indexDigest, Size: int64(len(index)),
			Annotations: map[string]string{artifact.AnnotationRefName: a.Manifest.Release}},
		cosign,
	}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(a.Dir, "index.json"), layout, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(a.Dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// Media types and the annotation of cosign's classic signatures (FACTS 10.3).
const (
	mediaImageConfig   = "application/vnd.oci.image.config.v1+json"
	mediaSimpleSigning = "application/vnd.dev.cosign.simplesigning.v1+json"
	cosignAnnotation   = "dev.cosignproject.cosign/signature"
)

// cosign stores a signature where cosign looks for it: an image whose tag is
// made of the signed digest, one layer for each signature.
func (a *Artifact) cosign(s artifact.Signed) (artifact.Descriptor, error) {
	var none artifact.Descriptor
	layer, err := writeBlob(a.Dir, s.Payload)
	if err != nil {
		return none, err
	}
	config := []byte(fmt.Sprintf(`{"architecture":"","created":"0001-01-01T00:00:00Z","history":[{"created":"0001-01-01T00:00:00Z"}],"os":"","rootfs":{"type":"layers","diff_ids":[%q]},"config":{}}`, layer))
	configDigest, err := writeBlob(a.Dir, config)
	if err != nil {
		return none, err
	}
	m, err := json.Marshal(artifact.OCIManifest{SchemaVersion: 2, MediaType: artifact.MediaOCIManifest,
		Config: artifact.Descriptor{MediaType: mediaImageConfig, Digest: configDigest, Size: int64(len(config))},
		Layers: []artifact.Descriptor{{MediaType: mediaSimpleSigning, Digest: layer, Size: int64(len(s.Payload)),
			Annotations: map[string]string{cosignAnnotation: base64.StdEncoding.EncodeToString(s.Signature)}}}})
	if err != nil {
		return none, err
	}
	digest, err := writeBlob(a.Dir, m)
	tag := strings.Replace(a.Digest, ":", "-", 1) + ".sig"
	return artifact.Descriptor{MediaType: artifact.MediaOCIManifest, Digest: digest, Size: int64(len(m)),
		Annotations: map[string]string{artifact.AnnotationRefName: tag}}, err
}

func blobPath(dir, digest string) string {
	return filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

func writeBlob(dir string, b []byte) (string, error) {
	d := artifact.DigestOf(b)
	return d, os.WriteFile(blobPath(dir, d), b, 0o644)
}
