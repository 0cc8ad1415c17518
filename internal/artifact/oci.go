package artifact

import (
	"encoding/json"
	"fmt"
)

// Media types and annotation keys. Those of OCI are from image-spec v1.1.1
// (FACTS 10.1).
const (
	MediaOCIManifest = "application/vnd.oci.image.manifest.v1+json"
	MediaOCIIndex    = "application/vnd.oci.image.index.v1+json"
	ArtifactType     = "application/vnd.pikelet.image.v1"
	MediaManifest    = "application/vnd.pikelet.manifest.v1+json"
	MediaFile        = "application/vnd.pikelet.file.v1"

	AnnotationTitle   = "org.opencontainers.image.title"
	AnnotationRefName = "org.opencontainers.image.ref.name"
	annotationVersion = "org.opencontainers.image.version"
)

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
	o := OCIManifest{
		SchemaVersion: 2, MediaType: MediaOCIManifest, ArtifactType: ArtifactType,
		Config:      Descriptor{MediaType: MediaManifest, Digest: DigestOf(manifest), Size: int64(len(manifest))},
		Annotations: map[string]string{AnnotationTitle: m.Stream, annotationVersion: m.Release},
	}
	for _, f := range m.Files {
		o.Layers = append(o.Layers, Descriptor{MediaType: MediaFile, Digest: f.Digest, Size: f.Size,
			Annotations: map[string]string{AnnotationTitle: f.Name}})
	}
	return json.Marshal(o)
}

// checkOCI checks that an OCI manifest is the one of a Pikelet manifest.
func checkOCI(oci, manifest []byte) (*Manifest, error) {
	var o OCIManifest
	if err := json.Unmarshal(oci, &o); err != nil {
		return nil, fmt.Errorf("reading the OCI manifest: %w", err)
	}
	if o.ArtifactType != ArtifactType {
		return nil, fmt.Errorf("the OCI manifest is a %q, no Pikelet image", o.ArtifactType)
	}
	if got := DigestOf(manifest); o.Config.Digest != got {
		return nil, fmt.Errorf("%s was changed: its digest is %s, what was signed says %s", ManifestFile, got, o.Config.Digest)
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
