// Package sbom writes bills of materials: SPDX 2.3 in its JSON form
// (https://spdx.github.io/spdx-spec/v2.3/). The same document has the same bytes.
package sbom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Document is a bill of materials of an image.
type Document struct {
	Name    string // what the image is called
	Version string // its release
	Digest  string // of its OCI manifest, which binds the document to it
	Comment string
	// Namespace is a URI that identifies this document alone.
	Namespace string
	Epoch     int64  // when it was created, seconds since 1970
	Tool      string // what wrote it, NAME-VERSION
	Parts     []Part // what the image contains
}

// Kind tells parts of an image apart.
type Kind string

// The kinds.
const (
	Package Kind = "package" // of a repository
	Layer   Kind = "layer"   // a directory, an archive, or a container image
	Overlay Kind = "overlay" // a bundle of files and settings
	Fetched Kind = "fetched" // a file from elsewhere, pinned by its digest
	Program Kind = "program" // of Pikelet
)

// Part is something that an image contains. What is not known is "".
type Part struct {
	Kind     Kind
	Name     string
	Version  string
	License  string // as it is stated, whether or not it is an expression of SPDX
	Supplier string // "Organization: NAME" or "Person: NAME (ADDRESS)"
	Homepage string
	Download string // a URL
	Source   string // what it was built from, in words
	Comment  string
	SHA256   string // of the file or the manifest that it is, in hexadecimal digits
	PURL     string // a package URL
}

// nothing is what SPDX wants said where a document says nothing.
const nothing = "NOASSERTION"

type document struct {
	Version       string         `json:"spdxVersion"`
	DataLicense   string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Licenses      []extracted    `json:"hasExtractedLicensingInfos,omitempty"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string      `json:"SPDXID"`
	Name      string      `json:"name"`
	Version   string      `json:"versionInfo,omitempty"`
	Supplier  string      `json:"supplier"`
	Download  string      `json:"downloadLocation"`
	Analyzed  bool        `json:"filesAnalyzed"`
	Concluded string      `json:"licenseConcluded"`
	Declared  string      `json:"licenseDeclared"`
	Copyright string      `json:"copyrightText"`
	Homepage  string      `json:"homepage,omitempty"`
	Source    string      `json:"sourceInfo,omitempty"`
	Comment   string      `json:"comment,omitempty"`
	Purpose   string      `json:"primaryPackagePurpose,omitempty"`
	Checksums []checksum  `json:"checksums,omitempty"`
	External  []reference `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type reference struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type extracted struct {
	ID   string `json:"licenseId"`
	Text string `json:"extractedText"`
	Name string `json:"name"`
}

type relationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// Encode returns the document's bytes.
func Encode(d Document) ([]byte, error) {
	const root = "SPDXRef-image"
	out := document{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: d.Name + " " + d.Version, Namespace: d.Namespace,
		Creation: creation{time.Unix(d.Epoch, 0).UTC().Format(time.RFC3339), []string{"Tool: " + d.Tool}},
	}
	first := newPackage(root, Part{Name: d.Name, Version: d.Version, Comment: d.Comment, SHA256: strings.TrimPrefix(d.Digest, "sha256:")})
	first.Purpose = "OPERATING_SYSTEM"
	out.Packages = []spdxPackage{first}
	out.Relationships = []relationship{{out.ID, "DESCRIBES", root}}
	refs := map[string]string{}
	for i, p := range d.Parts {
		s := newPackage(fmt.Sprintf("SPDXRef-%s-%d", p.Kind, i+1), p)
		if p.License != "" {
			l := convert(p.License)
			s.Declared = l.expression
			maps.Copy(refs, l.refs)
		}
		out.Packages = append(out.Packages, s)
		out.Relationships = append(out.Relationships, relationship{root, "CONTAINS", s.ID})
	}
	for _, id := range slices.Sorted(maps.Keys(refs)) {
		text := "The package names this licence, whose text is not known here: " + refs[id]
		out.Licenses = append(out.Licenses, extracted{id, text, refs[id]})
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // people search it for package URLs
	enc.SetIndent("", " ")
	err := enc.Encode(out)
	return b.Bytes(), err
}

// newPackage returns what SPDX says of a part, but for its licence.
func newPackage(id string, p Part) spdxPackage {
	s := spdxPackage{
		ID: id, Name: p.Name, Version: p.Version, Homepage: p.Homepage, Source: p.Source, Comment: p.Comment,
		Supplier: or(p.Supplier), Download: or(p.Download), Concluded: nothing, Declared: nothing, Copyright: nothing,
	}
	if p.SHA256 != "" {
		s.Checksums = []checksum{{"SHA256", p.SHA256}}
	}
	if p.PURL != "" {
		s.External = []reference{{"PACKAGE-MANAGER", "purl", p.PURL}}
	}
	return s
}

func or(text string) string {
	if text == "" {
		return nothing
	}
	return text
}
