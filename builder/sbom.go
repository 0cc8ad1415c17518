package builder

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// These are the parts of SPDX 2.3 that a bill of materials of ours has
// (https://spdx.github.io/spdx-spec/v2.3/, JSON form). Where an image says
// nothing, SPDX wants that said.
const spdxNothing = "NOASSERTION"

type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID        string         `json:"SPDXID"`
	Name      string         `json:"name"`
	Version   string         `json:"versionInfo,omitempty"`
	Download  string         `json:"downloadLocation"`
	Analyzed  bool           `json:"filesAnalyzed"`
	Concluded string         `json:"licenseConcluded"`
	Declared  string         `json:"licenseDeclared"`
	Copyright string         `json:"copyrightText"`
	Homepage  string         `json:"homepage,omitempty"`
	Source    string         `json:"sourceInfo,omitempty"`
	Comment   string         `json:"comment,omitempty"`
	Checksums []spdxChecksum `json:"checksums,omitempty"`
	External  []spdxExternal `json:"externalRefs,omitempty"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxExternal struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

// billOfMaterials lists what an image is made of as an SPDX document: its
// packages, layers and overlays, and the programs Pikelet adds. It is the same
// for the same image, wherever its packages came from.
func billOfMaterials(p *Plan, packages []*apk.Installed) ([]byte, error) {
	const root = "SPDXRef-image"
	d := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: "SPDXRef-DOCUMENT", Name: p.Image.Stream + " " + p.Image.Release,
		Namespace: "https://pikelet-os.github.io/spdx/" + url.PathEscape(p.Image.Stream) + "/" + p.BuildID,
		Creation:  spdxCreation{time.Unix(p.Epoch, 0).UTC().Format(time.RFC3339), []string{"Tool: pikelet"}},
		Packages:  []spdxPackage{{ID: root, Name: p.Image.Stream, Version: p.Image.Release, Comment: "A Pikelet image, build " + p.BuildID}},
	}
	d.Relationships = []spdxRelationship{{d.ID, "DESCRIBES", root}}
	add := func(kind string, s spdxPackage) {
		s.ID = fmt.Sprintf("SPDXRef-%s-%d", kind, len(d.Packages))
		d.Packages = append(d.Packages, s)
		d.Relationships = append(d.Relationships, spdxRelationship{root, "CONTAINS", s.ID})
	}
	for _, pkg := range packages {
		s := spdxPackage{Name: pkg.Name, Version: pkg.Version, Homepage: pkg.URL, Comment: "apk identity " + pkg.Identity}
		if pkg.Origin != "" {
			s.Source = "built from the source package " + pkg.Origin
		}
		if spdxLicense(pkg.License) {
			s.Declared = pkg.License
		} else if pkg.License != "" {
			s.Comment += "; it says its licence is: " + pkg.License
		}
		s.External = []spdxExternal{{"PACKAGE-MANAGER", "purl", fmt.Sprintf("pkg:apk/alpine/%s@%s?arch=%s&distro=alpine-%s",
			url.PathEscape(pkg.Name), url.PathEscape(pkg.Version), pkg.Arch, url.QueryEscape(p.Image.Alpine))}}
		add("package", s)
	}
	for _, l := range p.Layers {
		add("layer", spdxPackage{Name: l.Name, Comment: "a layer of kind " + l.Kind, Checksums: spdxSHA256(l.Digest)})
	}
	for _, o := range p.Overlays {
		add("overlay", spdxPackage{Name: o.Name, Comment: "an overlay", Checksums: spdxSHA256(o.Digest())})
		for _, f := range o.Fetch {
			add("fetched", spdxPackage{Name: f.URL, Download: f.URL, Comment: "what the overlay " + o.Name + " fetches",
				Checksums: spdxSHA256("sha256:" + f.SHA256)})
		}
	}
	add("program", spdxPackage{Name: "pikelet-init", Declared: "Apache-2.0", Checksums: spdxSHA256(image.DigestOf(p.Programs.Init))})
	add("program", spdxPackage{Name: "pikeletd", Declared: "Apache-2.0", Checksums: spdxSHA256(image.DigestOf(p.Programs.Agent))})
	for _, name := range slices.Sorted(maps.Keys(p.Added)) {
		add("program", spdxPackage{Name: name, Declared: "Apache-2.0", Checksums: spdxSHA256(image.DigestOf(p.Added[name]))})
	}
	for i := range d.Packages {
		s := &d.Packages[i]
		for _, field := range []*string{&s.Download, &s.Concluded, &s.Declared, &s.Copyright} {
			if *field == "" {
				*field = spdxNothing
			}
		}
	}
	b, err := json.MarshalIndent(d, "", " ")
	return append(b, '\n'), err
}

func spdxSHA256(digest string) []spdxChecksum {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok {
		return nil
	}
	return []spdxChecksum{{"SHA256", hex}}
}

// spdxLicense reports whether a package's licence is written as SPDX writes
// expressions. Packages say other things too, such as "custom".
func spdxLicense(text string) bool {
	if text == "" || strings.EqualFold(text, "custom") || strings.ContainsAny(text, ",;:/") {
		return false
	}
	operand := false
	for _, word := range strings.Fields(strings.NewReplacer("(", " ", ")", " ").Replace(text)) {
		operator := word == "AND" || word == "OR" || word == "WITH"
		if operator != operand {
			return false
		}
		operand = !operator
	}
	return operand
}
