package builder

import (
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/builder/sbom"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/layers/oci"
)

// alpineKey is how Alpine calls the keys that sign its repositories
// (https://git.alpinelinux.org/aports/tree/main/alpine-keys).
var alpineKey = regexp.MustCompile(`^alpine-devel@lists\.alpinelinux\.org-[0-9a-f]+\.rsa\.pub$`)

// fromAlpine reports whether a package is one of Alpine's: keys of Alpine alone may
// have signed it. Who else builds packages may give them Alpine's names, and
// scanners would look for Alpine's flaws in them.
func (pkg Package) fromAlpine() bool {
	for name := range pkg.keys {
		if !alpineKey.MatchString(name) {
			return false
		}
	}
	return len(pkg.keys) > 0
}

// purl returns the package URL of a package; "" for one that is of no distribution.
func (p *Plan) purl(pkg Package, arch string) string {
	if !pkg.fromAlpine() {
		return ""
	}
	return sbom.APK("alpine", p.Image.Alpine, pkg.Name, pkg.Version, arch)
}

// purl returns the package URL of a layer; "" for one that lies on this computer.
func (l Layer) purl() string {
	if _, local := oci.LayoutDir(l.Name); local || l.Kind != "oci" {
		return ""
	}
	return sbom.OCI(registry.Name(strings.TrimPrefix(l.Name, "http://")), l.Digest, ociArch)
}

// billOfMaterials lists what an image is made of: its packages, layers and
// overlays, and the programs Pikelet adds. It is the same for the same image,
// wherever its packages came from. digest is that of the image's OCI manifest.
func billOfMaterials(p *Plan, a *assembly, digest, tool string) ([]byte, error) {
	d := sbom.Document{
		Name: p.Image.Stream, Version: p.Image.Release, Digest: digest, Comment: "A Pikelet image, build " + p.BuildID,
		Namespace: "https://pikelet-os.github.io/spdx/" + url.PathEscape(p.Image.Stream) + "/" + strings.TrimPrefix(digest, "sha256:"),
		Epoch:     p.Epoch, Tool: "pikelet-" + tool,
	}
	chosen := map[string]Package{}
	for _, pkg := range p.Packages {
		chosen[pkg.Name] = pkg
	}
	for _, pkg := range a.Packages {
		d.Parts = append(d.Parts, p.packagePart(pkg, chosen[pkg.Name], a.sums[pkg.Name]))
	}
	for _, l := range p.Layers {
		part := sbom.Part{Kind: sbom.Layer, Name: givenName(l.Name), Comment: "a layer of kind " + l.Kind, PURL: l.purl()}
		if l.Kind == "folder" {
			part.Comment += ", whose names, modes and contents have the digest " + l.Digest
		} else {
			part.SHA256 = strings.TrimPrefix(l.Digest, "sha256:")
		}
		d.Parts = append(d.Parts, part)
	}
	for _, o := range p.Overlays {
		part := sbom.Part{Kind: sbom.Overlay, Name: givenName(o.Name), Comment: "an overlay, whose contents have the digest " + o.Digest()}
		if o.Embedded {
			part.Supplier, part.License = supplier, licenseOfOurs
		}
		d.Parts = append(d.Parts, part)
		for _, f := range o.Fetch {
			part := sbom.Fetch(f.URL, f.SHA256)
			part.Comment = "what the overlay " + givenName(o.Name) + " fetches"
			d.Parts = append(d.Parts, part)
		}
	}
	programs := p.programs()
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		d.Parts = append(d.Parts, sbom.Part{
			Kind: sbom.Program, Name: programName(name), Version: tool, Supplier: supplier, License: licenseOfOurs,
			SHA256: strings.TrimPrefix(programs[name], "sha256:"), PURL: sbom.GoModule("github.com/pikelet-os/pikelet", tool),
		})
	}
	return sbom.Encode(d)
}

// Who supplies what is part of pikelet, and under which licence.
const (
	supplier      = "Organization: Pikelet"
	licenseOfOurs = "Apache-2.0"
)

// packagePart returns what a bill of materials says of a package: what its own file
// says, which is signed. sum is the SHA-256 of that file.
func (p *Plan) packagePart(pkg *apk.Installed, chosen Package, sum string) sbom.Part {
	part := sbom.Part{
		Kind: sbom.Package, Name: pkg.Name, Version: pkg.Version, License: pkg.License, Homepage: homepage(pkg.URL), SHA256: sum,
		Comment: "apk identity " + chosen.Identity, PURL: p.purl(chosen, pkg.Arch),
	}
	if chosen.fromAlpine() {
		part.Supplier = "Organization: Alpine Linux"
	}
	if pkg.Origin != "" {
		part.Source = "built from the source package " + pkg.Origin
		if pkg.Commit != "" {
			part.Source += " at commit " + pkg.Commit
		}
	}
	return part
}

// homepage returns an address that is one: packages may say anything.
func homepage(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	return u.String()
}

// programName is what the file of a program of ours is called on nodes.
func programName(name string) string {
	if name == "init" {
		return "pikelet-init"
	}
	return name
}

// givenName is how a document calls a layer or an overlay: as the spec does, but
// for a path of this computer, of which only the last name is anybody's business.
func givenName(name string) string {
	dir, local := oci.LayoutDir(name)
	if !local {
		dir = name
	}
	if filepath.IsAbs(dir) {
		return filepath.Base(dir)
	}
	return name
}
