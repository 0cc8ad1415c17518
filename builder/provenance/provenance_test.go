package provenance

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	slsa "github.com/in-toto/attestation/go/predicates/provenance/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample(t *testing.T) Build {
	t.Helper()
	sum := strings.Repeat("0123456789abcdef", 4)
	pkg := SHA256("sha256:" + sum)
	if err := Identity(pkg, "Q1AAECAwQFBgcICQoLDA0ODxAREhM="); err != nil {
		t.Fatal(err)
	}
	return Build{
		Spec: Input{Name: "image.yaml", Digest: SHA256(sum)}, Stream: "homelab", Release: "1.2", Version: "v1.0.0",
		Internal: map[string]string{"build": "ab", "epoch": "1790000000", "squashfs": "3"},
		Inputs: []Input{
			{Name: "image.yaml.lock", Digest: SHA256(sum), Notes: map[string]string{Kind: KindLock}},
			{Name: "busybox-1.37.0-r12.apk", URI: "pkg:apk/alpine/busybox@1.37.0-r12?arch=aarch64&distro=alpine-3.23", Digest: pkg,
				Download: "https://example.org/v3.23/main/aarch64/busybox-1.37.0-r12.apk", Notes: map[string]string{Kind: "package"}},
			{Name: "files", Digest: map[string]string{Tree: sum}, Notes: map[string]string{Kind: "layer"}},
		},
	}
}

// TestGolden pins the bytes of a predicate, and has in-toto's own library read it and
// find what SLSA requires.
func TestGolden(t *testing.T) {
	b, err := Encode(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Encode(sample(t)); err != nil || !bytes.Equal(b, again) {
		t.Errorf("the same build has other bytes: %v", err)
	}
	file := filepath.Join("testdata", "sample.json")
	if *update {
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)+"\n"); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
	var p slsa.Provenance
	if err := protojson.Unmarshal(b, &p); err != nil { // which refuses fields that SLSA does not have
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Error(err)
	}
	if n := len(p.BuildDefinition.ResolvedDependencies); n != 3 || p.RunDetails.Metadata != nil {
		t.Errorf("%d inputs, metadata %v", n, p.RunDetails.Metadata)
	}
	read, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if l := read.Lock(); l == nil || l.Name != "image.yaml.lock" || read.Definition.External.Spec.Digest["sha256"] == "" {
		t.Errorf("read as %+v", read)
	}
}

// TestIdentity: an identity is under a name of its own, as it is no digest of a file.
func TestIdentity(t *testing.T) {
	for identity, want := range map[string]string{
		"Q1AAECAwQFBgcICQoLDA0ODxAREhM=": "map[apkControlSha1:000102030405060708090a0b0c0d0e0f10111213]",
		"Q2AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=": "map[apkControlSha256:000102030405060708090a0b0c0d0e0f1011121314151617" +
			"18191a1b1c1d1e1f]",
		"Q3AAEC": "unsupported identity", "": "unsupported identity", "Q": "unsupported identity", "Q1=": "illegal base64",
	} {
		set := map[string]string{}
		got := ""
		if err := Identity(set, identity); err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprint(set)
		}
		if !strings.Contains(got, want) {
			t.Errorf("%q: got %s, want %s", identity, got, want)
		}
	}
}

// TestDecode: what another builder says is not taken for ours.
func TestDecode(t *testing.T) {
	for text, want := range map[string]string{
		`{"buildDefinition":{"buildType":"https://example.org/other"}}`: "unsupported build type",
		`{`: "reading the provenance",
	} {
		if _, err := Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	p, err := Decode([]byte(`{"buildDefinition":{"buildType":"` + BuildType + `"}}`))
	if err != nil || p.Lock() != nil {
		t.Errorf("without a lock: %+v, %v", p, err)
	}
}
