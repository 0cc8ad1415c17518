package builder

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/provenance"
	"github.com/pikelet-os/pikelet/builder/sbom"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// provenanceOf says what an image was built from. Inputs come in the order of the
// plan, and none by a path of this computer.
func provenanceOf(p *Plan, a *assembly, in Inputs) ([]byte, error) {
	spec := filepath.Base(p.Image.File())
	b := provenance.Build{
		Spec:   provenance.Input{Name: spec, Digest: provenance.SHA256(image.DigestOf(p.Image.Text()))},
		Stream: p.Image.Stream, Release: p.Image.Release, Version: in.Tool,
		Internal: map[string]string{"build": p.BuildID, "epoch": strconv.FormatInt(p.Epoch, 10), "squashfs": strconv.Itoa(squashfs.Generation)},
	}
	add := func(kind string, i provenance.Input) {
		i.Notes = map[string]string{provenance.Kind: kind}
		b.Inputs = append(b.Inputs, i)
	}
	if in.Lock != nil {
		add(provenance.KindLock, provenance.Input{Name: lock.Name(spec), Digest: provenance.SHA256(image.DigestOf(in.LockText))})
	}
	for i, key := range p.Keys {
		add("key", provenance.Input{Name: fmt.Sprintf("keys[%d]", i), Digest: provenance.SHA256(image.DigestOf([]byte(key)))})
	}
	if p.Inventory != nil {
		add("inventory", provenance.Input{Name: givenName(p.Image.Inventory), Digest: provenance.SHA256(image.DigestOf(p.Inventory))})
	}
	for _, pkg := range p.Packages {
		found, err := p.packageInput(pkg, a.sums[pkg.Name])
		if err != nil {
			return nil, err
		}
		add("package", found)
	}
	for _, l := range p.Layers {
		digest := provenance.SHA256(l.Digest)
		if l.Kind == "folder" {
			digest = treeDigest(l.Digest)
		}
		add("layer", provenance.Input{Name: givenName(l.Name), URI: l.purl(), Digest: digest})
	}
	for _, o := range p.Overlays {
		kind := "overlay"
		if o.Embedded {
			kind = "built-in overlay"
		}
		add(kind, provenance.Input{Name: givenName(o.Name), Digest: treeDigest(o.Digest())})
		for _, f := range o.Fetch {
			known := sbom.Fetch(f.URL, f.SHA256)
			add("fetched", provenance.Input{Name: known.Name, URI: known.PURL, Digest: provenance.SHA256(f.SHA256), Download: known.Download})
		}
	}
	programs := p.programs()
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		add("program", provenance.Input{Name: programName(name), URI: sbom.GoModule("github.com/pikelet-os/pikelet", in.Tool),
			Digest: provenance.SHA256(programs[name])})
	}
	return provenance.Encode(b)
}

// packageInput returns what a provenance says of a package: what pins it in a lock,
// and its file as it was read.
func (p *Plan) packageInput(pkg Package, sum string) (provenance.Input, error) {
	i := provenance.Input{Name: pkg.FileName(), URI: p.purl(pkg, pkg.Arch), Digest: provenance.SHA256(sum)}
	if fetch.IsRemote(pkg.url) {
		i.Download = pkg.url
	}
	return i, provenance.Identity(i.Digest, pkg.Identity)
}

func treeDigest(digest string) map[string]string {
	return map[string]string{provenance.Tree: strings.TrimPrefix(digest, "sha256:")}
}
