package sbom

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

var update = flag.Bool("update", false, "write the golden files anew")

func sample() Document {
	sum := strings.Repeat("0123456789abcdef", 4)
	return Document{
		Name: "homelab", Version: "1.2", Digest: "sha256:" + sum, Comment: "A Pikelet image, build ab",
		Namespace: "https://example.org/spdx/homelab/" + sum, Epoch: 1_790_000_000, Tool: "pikelet-v1.0.0",
		Parts: []Part{
			{Kind: Package, Name: "busybox", Version: "1.37.0-r12", License: "GPL-2.0-only", Supplier: "Organization: Alpine Linux",
				Homepage: "https://busybox.net/", Source: "built from the source package busybox", Comment: "apk identity Q1yRJD=", SHA256: sum,
				PURL: APK("alpine", "3.23", "busybox", "1.37.0-r12", "aarch64")},
			{Kind: Package, Name: "libstdc++", Version: "14.2.0-r6", License: "GPL-2.0-or-later WITH GCC-exception-3.1 AND custom",
				PURL: APK("alpine", "3.23", "libstdc++", "14.2.0-r6", "aarch64")},
			{Kind: Package, Name: "own", Version: "1", License: "see the file COPYING"},
			{Kind: Package, Name: "silent", Version: "1"},
			{Kind: Layer, Name: "files", Comment: "a layer of kind tar"},
			{Kind: Layer, Name: "registry.example/tools:1", SHA256: sum, PURL: OCI("registry.example/Team/tools", "sha256:"+sum, "arm64")},
			Fetch("https://github.com/k3s-io/k3s/releases/download/v1.34.3+k3s1/k3s-arm64", sum),
			{Kind: Program, Name: "pikeletd", Version: "v1.0.0", License: "Apache-2.0", Supplier: "Organization: Pikelet", SHA256: sum,
				PURL: GoModule("github.com/pikelet-os/pikelet", "v1.0.0")},
		},
	}
}

// TestGolden pins the bytes of a bill of materials, and has SPDX's own library read
// it and find every part, its licence and its digest.
func TestGolden(t *testing.T) {
	b, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := Encode(sample()); err != nil || !bytes.Equal(b, again) {
		t.Errorf("the same document has other bytes: %v", err)
	}
	file := filepath.Join("testdata", "sample.spdx.json")
	if *update {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
	d, err := spdxjson.Read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if err := spdxlib.ValidateDocument(d); err != nil {
		t.Error(err)
	}
	if len(d.Packages) != 1+len(sample().Parts) || len(d.Relationships) != len(d.Packages) || d.SPDXVersion != "SPDX-2.3" {
		t.Fatalf("%s with %d packages, %d relationships", d.SPDXVersion, len(d.Packages), len(d.Relationships))
	}
	for i, p := range sample().Parts {
		got := d.Packages[i+1]
		if got.PackageName != p.Name || got.PackageVersion != p.Version {
			t.Errorf("package %d is %s %s, want %s %s", i, got.PackageName, got.PackageVersion, p.Name, p.Version)
		}
		if n := len(got.PackageChecksums); (n == 1) != (p.SHA256 != "") || n == 1 && got.PackageChecksums[0].Value != p.SHA256 {
			t.Errorf("%s: checksums %v", p.Name, got.PackageChecksums)
		}
		if n := len(got.PackageExternalReferences); (n == 1) != (p.PURL != "") || n == 1 && got.PackageExternalReferences[0].Locator != p.PURL {
			t.Errorf("%s: references %v", p.Name, got.PackageExternalReferences)
		}
	}
	known := map[string]bool{}
	for _, l := range d.OtherLicenses {
		known[l.LicenseIdentifier] = l.ExtractedText != ""
	}
	for _, p := range d.Packages {
		for _, word := range strings.Fields(strings.Trim(p.PackageLicenseDeclared, "()")) {
			if strings.HasPrefix(word, refPrefix) && !known[word] {
				t.Errorf("%s has the licence %s, which the document does not explain", p.PackageName, word)
			}
		}
	}
}
