package image

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// MediaPatch is what a patch is called: as the type of its manifest, and as
// that of its one blob.
const MediaPatch = "application/vnd.pikelet.patch.v1"

// Names of a patch's annotations.
const (
	patchFrom    = "dev.pikelet.patch.from"         // digest of the OCI manifest it is for
	patchRelease = "dev.pikelet.patch.from-release" // and its release, for people
	patchWork    = "dev.pikelet.patch.work"         // bytes of the files that are made of it
)

// Patch is what a patch's manifest says: it makes the image that it refers to
// of another one.
type Patch struct {
	From    string     // digest of the OCI manifest of the image that it is for
	Release string     // of that image
	Work    int64      // bytes of the files that it makes
	Subject string     // digest of the OCI manifest of the image that it makes
	Blob    Descriptor // the patch
}

// MaxPatch bounds a patch, bytes: no slot of a card holds as much.
const MaxPatch = 4 << 30

// EncodePatch returns the manifest of a patch. Its blobs are the patch and OCI's
// empty config.
func EncodePatch(p Patch, subject Descriptor) (manifest, config []byte, err error) {
	config = []byte("{}")
	subject.Annotations, subject.Platform = nil, nil
	p.Blob.MediaType = MediaPatch
	manifest, err = json.Marshal(OCIManifest{
		SchemaVersion: 2, MediaType: MediaOCIManifest, ArtifactType: MediaPatch, Subject: &subject,
		Config:      Descriptor{MediaType: mediaEmpty, Digest: DigestOf(config), Size: int64(len(config))},
		Layers:      []Descriptor{p.Blob},
		Annotations: map[string]string{patchFrom: p.From, patchRelease: p.Release, patchWork: strconv.FormatInt(p.Work, 10)},
	})
	return manifest, config, err
}

// MayBeFor reports whether a descriptor in a list of referrers may be that of a
// patch for an image: not every registry lists more than the digest.
func MayBeFor(d Descriptor, from string) bool {
	listed, ok := d.Annotations[patchFrom]
	return !ok || listed == from
}

// DecodePatch reads the manifest of a patch.
func DecodePatch(b []byte) (Patch, error) {
	m, err := DecodeOCI(b)
	if err != nil {
		return Patch{}, err
	}
	if m.ArtifactType != MediaPatch || len(m.Layers) != 1 || m.Layers[0].MediaType != MediaPatch || m.Subject == nil {
		return Patch{}, fmt.Errorf("invalid patch: artifact type %q with %d blobs", m.ArtifactType, len(m.Layers))
	}
	p := Patch{From: m.Annotations[patchFrom], Release: m.Annotations[patchRelease], Subject: m.Subject.Digest, Blob: m.Layers[0]}
	p.Work, err = strconv.ParseInt(m.Annotations[patchWork], 10, 64)
	if err != nil || p.Work < 0 || !digestForm.MatchString(p.From) || p.Blob.Size > MaxPatch {
		return Patch{}, fmt.Errorf("invalid patch: work %q, from %q, %d bytes", m.Annotations[patchWork], p.From, p.Blob.Size)
	}
	return p, nil
}
