package image

import (
	"encoding/json"
	"fmt"
)

// Media types and annotation keys. Those of OCI are from image-spec v1.1.1
// (docs/platform.md 10.1).
const (
	MediaOCIManifest = "application/vnd.oci.image.manifest.v1+json"
	MediaOCIIndex    = "application/vnd.oci.image.index.v1+json"
	ArtifactType     = "application/vnd.pikelet.image.v1"
	MediaManifest    = "application/vnd.pikelet.manifest.v1+json"
	MediaFile        = "application/vnd.pikelet.file.v1"
	MediaSPDX        = "application/spdx+json"
	mediaEmpty       = "application/vnd.oci.empty.v1+json"

	AnnotationTitle   = "org.opencontainers.image.title"
	AnnotationRefName = "org.opencontainers.image.ref.name"
	annotationVersion = "org.opencontainers.image.version"
)

// LayoutText is what the file oci-layout of an OCI layout holds.
const LayoutText = `{"imageLayoutVersion":"1.0.0"}`

// Descriptor points at a blob.
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *Platform         `json:"platform,omitempty"`
}

// Platform is what an index says of a manifest's machine.
type Platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// OCIManifest is an image manifest of OCI.
type OCIManifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        Descriptor        `json:"config"`
	Layers        []Descriptor      `json:"layers"`
	Subject       *Descriptor       `json:"subject,omitempty"` // what this is said of
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// OCIIndex is an index over manifests.
type OCIIndex struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	ArtifactType  string       `json:"artifactType,omitempty"`
	Manifests     []Descriptor `json:"manifests"`
}

// EncodeOCI returns the OCI manifest of a Pikelet manifest whose bytes are
// manifest: the manifest as config, each file as a layer with its title, so
// that any OCI tool pulls the files under their names.
func EncodeOCI(m *Manifest, manifest []byte) ([]byte, error) {
	return encodeOCI(m, Descriptor{MediaType: MediaManifest, Digest: DigestOf(manifest), Size: int64(len(manifest))})
}

func encodeOCI(m *Manifest, config Descriptor) ([]byte, error) {
	o := OCIManifest{
		SchemaVersion: 2, MediaType: MediaOCIManifest, ArtifactType: ArtifactType, Config: config,
		Annotations: map[string]string{AnnotationTitle: m.Stream, annotationVersion: m.Release},
	}
	for _, f := range m.Files {
		o.Layers = append(o.Layers, Descriptor{MediaType: MediaFile, Digest: f.Digest, Size: f.Size,
			Annotations: map[string]string{AnnotationTitle: f.Name}})
	}
	return json.Marshal(o)
}

// EncodeReferrer returns a manifest that says something of another one: one
// blob of a media type. Registries list it as a referrer of its subject. Its
// blobs are the blob and OCI's empty config.
func EncodeReferrer(media string, blob []byte, subject Descriptor) (manifest []byte, blobs [][]byte, err error) {
	return encodeReferrer(media, blob, subject, nil)
}

func encodeReferrer(media string, blob []byte, subject Descriptor, notes map[string]string) (manifest []byte, blobs [][]byte, err error) {
	empty := []byte(EmptyConfig)
	manifest, err = json.Marshal(OCIManifest{
		SchemaVersion: 2, MediaType: MediaOCIManifest, ArtifactType: media, Subject: &subject, Annotations: notes,
		Config: Descriptor{MediaType: mediaEmpty, Digest: DigestOf(empty), Size: int64(len(empty))},
		Layers: []Descriptor{{MediaType: media, Digest: DigestOf(blob), Size: int64(len(blob))}},
	})
	return manifest, [][]byte{blob, empty}, err
}

// DecodeOCI reads an OCI manifest. Fields it does not know are others'.
func DecodeOCI(b []byte) (*OCIManifest, error) {
	var o OCIManifest
	if len(b) > MaxOCI {
		return nil, fmt.Errorf("reading an OCI manifest: %d bytes, more than %d", len(b), MaxOCI)
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return nil, fmt.Errorf("reading an OCI manifest: %w", err)
	}
	for _, d := range append([]Descriptor{o.Config}, o.Layers...) {
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("reading an OCI manifest: %w", err)
		}
	}
	return &o, nil
}

// check refuses what names no blob. Blobs become paths and addresses.
func (d Descriptor) check() error {
	if !digestForm.MatchString(d.Digest) || d.Size < 0 {
		return fmt.Errorf("invalid descriptor: digest %q, %d bytes", d.Digest, d.Size)
	}
	return nil
}

// Describe returns the descriptor of a manifest or an index, by what it says
// it is. Nothing else of it is looked at.
func Describe(b []byte) Descriptor {
	var says struct {
		MediaType    string `json:"mediaType"`
		ArtifactType string `json:"artifactType"`
	}
	d := Descriptor{Digest: DigestOf(b), Size: int64(len(b))}
	if json.Unmarshal(b, &says) == nil {
		d.MediaType, d.ArtifactType = says.MediaType, says.ArtifactType
	}
	return d
}

// EncodeIndex returns the index over the manifests of an image, one for each
// architecture. It has no fields that came with OCI 1.1: tools from before it
// write an index anew without those, and so under another digest.
func EncodeIndex(manifests ...Descriptor) ([]byte, error) {
	for i := range manifests {
		manifests[i].ArtifactType = ""
	}
	return json.Marshal(OCIIndex{SchemaVersion: 2, MediaType: MediaOCIIndex, Manifests: manifests})
}

// DecodeIndex reads an index.
func DecodeIndex(b []byte) (*OCIIndex, error) {
	var i OCIIndex
	if len(b) > MaxOCI {
		return nil, fmt.Errorf("reading an OCI index: %d bytes, more than %d", len(b), MaxOCI)
	}
	if err := json.Unmarshal(b, &i); err != nil {
		return nil, fmt.Errorf("reading an OCI index: %w", err)
	}
	for _, d := range i.Manifests {
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("reading an OCI index: %w", err)
		}
	}
	return &i, nil
}

// For returns the descriptor of the image for an architecture.
func (i *OCIIndex) For(arch string) (Descriptor, error) {
	var there []string
	for _, d := range i.Manifests {
		if d.Platform == nil {
			continue
		}
		if d.Platform.Architecture == arch && d.Platform.OS == "linux" {
			return d, nil
		}
		there = append(there, d.Platform.OS+"/"+d.Platform.Architecture)
	}
	return Descriptor{}, fmt.Errorf("the index has no image for linux/%s, only for %q", arch, there)
}

// CheckOCI checks that an OCI manifest is the one of a Pikelet manifest.
func CheckOCI(oci, manifest []byte) (*Manifest, error) {
	o, err := DecodeOCI(oci)
	if err != nil {
		return nil, err
	}
	if o.ArtifactType != ArtifactType {
		return nil, fmt.Errorf("unsupported artifact type %q; want %q", o.ArtifactType, ArtifactType)
	}
	if got := DigestOf(manifest); o.Config.Digest != got {
		return nil, fmt.Errorf("%s was changed: digest mismatch: got %s, want %s", ManifestFile, got, o.Config.Digest)
	}
	m, err := DecodeManifest(manifest)
	if err != nil {
		return nil, err
	}
	if len(o.Layers) != len(m.Files) {
		return nil, fmt.Errorf("the OCI manifest lists %d files, %s %d", len(o.Layers), ManifestFile, len(m.Files))
	}
	for i, f := range m.Files {
		l := o.Layers[i]
		if l.Digest != f.Digest || l.Size != f.Size || l.Annotations[AnnotationTitle] != f.Name {
			return nil, fmt.Errorf("the OCI manifest and %s differ about %q", ManifestFile, f.Name)
		}
	}
	return m, nil
}
