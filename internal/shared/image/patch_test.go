package image

import (
	"strings"
	"testing"
)

func patchForTest() (Patch, Descriptor) {
	of := func(s string) string { return DigestOf([]byte(s)) }
	subject := Descriptor{MediaType: MediaOCIManifest, ArtifactType: ArtifactType, Digest: of("new"), Size: 3}
	return Patch{From: of("old"), Release: "1.2", Work: 77, Subject: of("new"), Blob: Descriptor{MediaType: MediaPatch, Digest: of("blob"),
		Size: 4}}, subject
}

const goldenPatch = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"artifactType":"application/vnd.pikelet.patch.v1",` +
	`"config":{"mediaType":"application/vnd.oci.empty.v1+json",` +
	`"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},` +
	`"layers":[{"mediaType":"application/vnd.pikelet.patch.v1",` +
	`"digest":"sha256:fa2c8cc4f28176bbeed4b736df569a34c79cd3723e9ec42f9674b4d46ac6b8b8","size":4}],` +
	`"subject":{"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
	`"artifactType":"application/vnd.pikelet.image.v1",` +
	`"digest":"sha256:11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437","size":3},` +
	`"annotations":{"dev.pikelet.patch.from":"sha256:cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4",` +
	`"dev.pikelet.patch.from-release":"1.2","dev.pikelet.patch.work":"77"}}`

// TestPatchManifest: desk and node read the same of it.
func TestPatchManifest(t *testing.T) {
	p, subject := patchForTest()
	b, _, err := EncodePatch(p, subject)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != goldenPatch {
		t.Errorf("it is\n%s, and was\n%s", b, goldenPatch)
	}
	got, err := DecodePatch(b)
	got.Blob.Annotations = nil
	if err != nil || got.From != p.From || got.Release != p.Release || got.Work != p.Work || got.Subject != p.Subject ||
		got.Blob.Digest != p.Blob.Digest || got.Blob.Size != p.Blob.Size {
		t.Errorf("%+v became %+v: %v", p, got, err)
	}
	for what, change := range map[string][2]string{
		"another type": {`"artifactType":"application/vnd.pikelet.patch.v1"`, `"artifactType":"x"`}, "no source": {p.From, "sha256:none"},
		"no work": {`"77"`, `"many"`}, "less than none": {`"77"`, `"-1"`}, "no blob": {`"size":4`, `"size":99999999999999`},
		"no subject": {`"subject"`, `"object"`},
	} {
		if _, err := DecodePatch([]byte(strings.Replace(string(b), change[0], change[1], 1))); err == nil {
			t.Errorf("%s: it is taken", what)
		}
	}
}

func FuzzPatchManifest(f *testing.F) {
	p, subject := patchForTest()
	b, _, _ := EncodePatch(p, subject)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodePatch(b)
		if err != nil {
			return
		}
		again, _, err := EncodePatch(p, Descriptor{Digest: p.Subject})
		if err != nil {
			t.Fatal(err)
		}
		if q, err := DecodePatch(again); err != nil && p.Subject != "" || err == nil && (q.From != p.From || q.Work != p.Work) {
			t.Errorf("%+v became %+v: %v", p, q, err)
		}
	})
}
