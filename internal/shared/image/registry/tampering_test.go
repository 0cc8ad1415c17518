package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
)

// tampering is one change of what a registry holds, and the error that opening or
// saving the image then gives.
type tampering struct {
	make  func(m *making)                          // before it is signed
	after func(s *shelf, m *making, digest string) // and afterwards
	want  string
}

// signatureTampering changes signatures, and what was signed.
func signatureTampering(t *testing.T) map[string]tampering {
	other := newKey(t)
	return map[string]tampering{
		"no signatures": {make: func(m *making) {
			m.unsigned["oci"], m.unsigned["index"] = true, true
		}, want: "not signed"},
		"no signature of the manifest": {make: func(m *making) {
			m.unsigned["oci"] = true
		}, want: ": no valid signature from a trusted key: not signed"},
		"no signature of the index": {make: func(m *making) {
			m.unsigned["index"] = true
		}, want: "verifying the index"},
		"another key": {after: func(s *shelf, m *making, d string) {
			delete(s.tags, image.CosignTag(d))
			sign(t, s, d, other)
		}, want: "none of the 1 keys that are trusted made it"},
		"another key signed the index": {after: func(s *shelf, m *making, _ string) {
			delete(s.tags, image.CosignTag(s.tags["1.0"]))
			sign(t, s, s.tags["1.0"], other)
		}, want: "none of the 1 keys that are trusted made it"},
		"a signature of something else": {after: func(s *shelf, m *making, d string) {
			sign(t, s, image.DigestOf([]byte("else")), m.key)
			s.tags[image.CosignTag(d)] = s.tags[image.CosignTag(image.DigestOf([]byte("else")))]
		}, want: "was signed"},
		"a flipped signature": {after: func(s *shelf, m *making, d string) {
			changeSignature(t, s, d, func(sig image.Signed) image.Signed {
				sig.Signature[len(sig.Signature)-1] ^= 1
				return sig
			})
		}, want: "none of the 1 keys that are trusted made it"},
		"a changed payload": {after: func(s *shelf, m *making, d string) {
			changeSignature(t, s, d, func(sig image.Signed) image.Signed {
				sig.Payload = bytes.Replace(sig.Payload, []byte("cosign container"), []byte("cosign kontainer"), 1)
				return sig
			})
		}, want: "none of the 1 keys that are trusted made it"},
		"a payload that is not the one named": {after: func(s *shelf, m *making, d string) {
			list, _ := image.DecodeCosign(s.blobs[s.tags[image.CosignTag(d)]])
			s.blobs[list[0].Digest] = bytes.Replace(s.blobs[list[0].Digest], []byte("null"), []byte("1234"), 1)
		}, want: "digest mismatch"},
		"a payload without end": {after: func(s *shelf, m *making, d string) {
			o, _ := image.DecodeOCI(s.blobs[s.tags[image.CosignTag(d)]])
			o.Layers[0].Size = 1 << 40
			s.tags[image.CosignTag(d)] = s.put(encode(t, o))
		}, want: "payload of 1099511627776 bytes"},
		"a thousand signatures": {after: func(s *shelf, m *making, d string) {
			o, _ := image.DecodeOCI(s.blobs[s.tags[image.CosignTag(d)]])
			for range 1000 {
				o.Layers = append(o.Layers, o.Layers[0])
			}
			s.tags[image.CosignTag(d)] = s.put(encode(t, o))
		}, want: "more than 64"},
		"signatures that are no manifest": {after: func(s *shelf, m *making, d string) {
			s.tags[image.CosignTag(d)] = s.put([]byte("<html>"))
		}, want: "reading an OCI manifest"},
	}
}

// blobTampering changes the bytes of files and of the manifest.
func blobTampering(t *testing.T) map[string]tampering {
	return map[string]tampering{
		"a flipped byte in a file": {after: func(s *shelf, m *making, _ string) {
			flip(s, image.DigestOf(m.files["vmlinuz"]))
		}, want: "digest mismatch"},
		"a flipped byte in the root": {after: func(s *shelf, m *making, _ string) {
			flip(s, image.DigestOf(m.files[image.RootFile]))
		}, want: "digest mismatch"},
		"a swapped file": {after: func(s *shelf, m *making, _ string) {
			s.blobs[image.DigestOf(m.files["vmlinuz"])] = []byte("KERNEL 1.0")
		}, want: "digest mismatch"},
		"a file cut short": {after: func(s *shelf, m *making, _ string) {
			s.blobs[image.DigestOf(m.files["vmlinuz"])] = []byte("kern")
		}, want: "truncated after 4 of 10 bytes"},
		"a file that is gone": {after: func(s *shelf, m *making, _ string) {
			delete(s.blobs, image.DigestOf(m.files["vmlinuz"]))
		}, want: "no sha256:"},
		"a flipped byte in the config": {after: func(s *shelf, m *making, _ string) {
			flip(s, image.DigestOf(m.text))
		}, want: "digest mismatch"},
		"a config cut short": {after: func(s *shelf, m *making, _ string) {
			s.blobs[image.DigestOf(m.text)] = m.text[:100]
		}, want: "truncated after 100 of"},
	}
}

// manifestTampering puts other manifests and indexes in place of those asked for.
func manifestTampering(t *testing.T) map[string]tampering {
	return map[string]tampering{
		"a flipped byte in the manifest": {after: func(s *shelf, m *making, d string) {
			flip(s, d)
		}, want: "digest mismatch: got"},
		"another manifest for its digest": {after: func(s *shelf, m *making, d string) {
			m.oci.Annotations["x"] = "y"
			s.blobs[d] = encode(t, m.oci)
		}, want: "digest mismatch: got"},
		"another manifest in an index of theirs": {after: func(s *shelf, m *making, d string) {
			m.oci.Annotations["x"] = "y"
			m.index.Manifests[0].Digest = s.put(encode(t, m.oci))
			s.tags["1.0"] = s.put(encode(t, m.index))
		}, want: "not signed"},
		"an index for another machine": {make: func(m *making) {
			other := image.Descriptor{Digest: image.DigestOf(nil), Platform: &image.Platform{Architecture: "riscv64", OS: "linux"}}
			m.index = &image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex, Manifests: []image.Descriptor{other}}
		}, want: `the index has no image for linux/arm64, only for ["linux/riscv64"]`},
		"an index of nothing": {make: func(m *making) {
			m.index = &image.OCIIndex{SchemaVersion: 2, MediaType: image.MediaOCIIndex}
		}, want: "the index has no image for linux/arm64"},
		"an index that names no digest": {after: func(s *shelf, m *making, _ string) {
			m.index.Manifests[0].Digest = "sha256:../../../etc/passwd"
			s.tags["1.0"] = s.put(encode(t, m.index))
		}, want: "invalid descriptor"},
		"a tag that is no manifest": {after: func(s *shelf, m *making, _ string) {
			s.tags["1.0"] = s.put([]byte("hello"))
		}, want: "reading an OCI manifest"},
		"an old index under the new tag": {after: func(s *shelf, m *making, _ string) {
			old := newMaking(t, "0.9")
			old.key = m.key
			old.onto(t, s, "1.0")
		}, want: "the tag 1.0 names release 0.9"},
		"another artifact": {make: func(m *making) {
			m.oci.ArtifactType = "application/vnd.example"
		}, want: `unsupported artifact type "application/vnd.example"`},
		"a container image": {make: func(m *making) { m.oci.ArtifactType = "" }, want: `unsupported artifact type ""`},
		"another stream":    {make: func(m *making) { renamed(t, m, "cabin") }, want: `is of stream "cabin"; want "lab"`},
		"a manifest too large": {make: func(m *making) {
			m.again(t, append(m.text, bytes.Repeat([]byte(" "), image.MaxManifest)...))
		}, want: "want at most 1048576"},
		"a manifest that says it is huge": {make: func(m *making) {
			m.oci.Config.Size = 1 << 50
		}, want: "want at most 1048576"},
		"an OCI manifest too large": {make: func(m *making) {
			m.oci.Annotations["padding"] = strings.Repeat("x", image.MaxOCI)
		}, want: "more than 4194304"},
	}
}

// listTampering changes what manifest and OCI manifest say of the files.
func listTampering(t *testing.T) map[string]tampering {
	replace := func(m *making, from, to string) { m.again(t, bytes.Replace(m.text, []byte(from), []byte(to), 1)) }
	return map[string]tampering{
		"negative sizes": {make: func(m *making) { m.oci.Layers[0].Size = -5 }, want: "invalid descriptor"},
		"a title that climbs": {make: func(m *making) {
			replace(m, `"vmlinuz"`, `"../vmlinuz"`)
			retitle(m, "vmlinuz", "../vmlinuz")
		}, want: `names a file "../vmlinuz"`},
		"an absolute title": {make: func(m *making) {
			replace(m, `"vmlinuz"`, `"/etc/vmlinuz"`)
			retitle(m, "vmlinuz", "/etc/vmlinuz")
		}, want: `names a file "/etc/vmlinuz"`},
		"a title of Windows": {make: func(m *making) {
			replace(m, `"vmlinuz"`, `"..\\vmlinuz"`)
			retitle(m, "vmlinuz", `..\vmlinuz`)
		}, want: "names a file"},
		"a title that climbs in OCI": {make: func(m *making) {
			retitle(m, "vmlinuz", "../vmlinuz")
		}, want: `differ about "vmlinuz"`},
		"two files of one title": {make: func(m *making) {
			replace(m, `"vmlinuz"`, `"root.squashfs"`)
			retitle(m, "vmlinuz", image.RootFile)
		}, want: "out of order"},
		"an extra file": {make: func(m *making) {
			m.oci.Layers = append(m.oci.Layers, m.oci.Layers[0])
		}, want: "lists 6 files, manifest.json 5"},
		"a file less": {make: func(m *making) {
			m.oci.Layers = m.oci.Layers[1:]
		}, want: "lists 4 files, manifest.json 5"},
		"files that change places": {make: func(m *making) {
			m.oci.Layers[0], m.oci.Layers[1] = m.oci.Layers[1], m.oci.Layers[0]
		}, want: "differ about"},
		"a layer that is another file": {make: func(m *making) {
			m.oci.Layers[0].Digest = m.oci.Layers[1].Digest
		}, want: "differ about"},
		"a manifest of a later format": {make: func(m *making) {
			replace(m, `"format": 1`, `"format": 2`)
		}, want: "is of format 2"},
		"a manifest with more fields": {make: func(m *making) {
			replace(m, `"format": 1`, `"format": 1, "run": "rm"`)
		}, want: `unknown field "run"`},
		"a manifest without a root": {make: func(m *making) {
			replace(m, `"root.squashfs"`, `"root.squashfz"`)
			retitle(m, image.RootFile, "root.squashfz")
		}, want: "has no root.squashfs"},
	}
}

// TestTampering changes what a registry holds in every way a hostile one
// might, and asks for the image: each is refused with the reason, and nothing
// is written.
func TestTampering(t *testing.T) {
	cases := map[string]tampering{}
	for _, some := range []map[string]tampering{signatureTampering(t), blobTampering(t), manifestTampering(t), listTampering(t)} {
		maps.Copy(cases, some)
	}
	if len(cases) < 30 {
		t.Fatalf("got %d cases, want at least 30", len(cases))
	}
	forms := map[string]func(context.Context, *Published, string, Progress) error{
		"files":   SaveFiles,
		"layout":  SaveLayout,
		"archive": SaveArchive,
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s, m := newShelf(), newMaking(t, "1.0")
			if c.make != nil {
				c.make(m)
			}
			digest := m.onto(t, s, "1.0")
			if c.after != nil {
				c.after(s, m, digest)
			}
			dir := t.TempDir()
			for form, save := range forms {
				out := filepath.Join(dir, form)
				img, err := Open(context.Background(), s, "1.0", Want{Keys: []*ecdsa.PublicKey{&m.key.PublicKey}, Arch: "arm64", Stream: "lab"})
				if err == nil {
					err = save(context.Background(), img, out, nil)
				}
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v; want %q", form, err, c.want)
				}
				left, _ := filepath.Glob(out + "*")
				if len(left) > 0 && !errors.Is(err, io.ErrUnexpectedEOF) || len(left) > 0 && left[0] == out {
					t.Errorf("%s: %v was written all the same", form, left)
				}
			}
		})
	}
}

func flip(s *shelf, digest string) {
	b := bytes.Clone(s.blobs[digest])
	b[len(b)/2] ^= 1
	s.blobs[digest] = b
}

func retitle(m *making, from, to string) {
	for i := range m.oci.Layers {
		if m.oci.Layers[i].Annotations[image.AnnotationTitle] == from {
			m.oci.Layers[i].Annotations[image.AnnotationTitle] = to
		}
	}
}

func changeSignature(t testing.TB, s *shelf, digest string, change func(image.Signed) image.Signed) {
	t.Helper()
	list, err := Signatures(context.Background(), s, digest)
	if err != nil {
		t.Fatal(err)
	}
	delete(s.tags, image.CosignTag(digest))
	if err := addSignatures(context.Background(), s, digest, []image.Signed{change(list[0])}); err != nil {
		t.Fatal(err)
	}
}
