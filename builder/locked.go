package builder

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/lock"
	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// programs returns digests of what pikelet itself puts into an image.
func (p *Plan) programs() map[string]string {
	m := map[string]string{"init": image.DigestOf(p.Programs.Init), "pikeletd": image.DigestOf(p.Programs.Agent)}
	for name, b := range p.Added {
		m[name] = image.DigestOf(b)
	}
	return m
}

// repositories are the spec's, as it says them.
func (p *Plan) repositories() []string {
	var list []string
	for _, r := range p.Image.Repositories {
		text := r.URL
		if r.Tag != "" {
			text = "@" + r.Tag + " " + text
		}
		list = append(list, text)
	}
	return list
}

// Lock writes the plan down as a lock, made by the named version of pikelet.
func (p *Plan) Lock(tool string) *lock.File {
	f := &lock.File{Format: lock.Format, Tool: tool, Epoch: p.Epoch, Programs: p.programs(),
		World: p.world(), Repositories: p.repositories(), Indexes: p.Indexes}
	for _, pkg := range p.Packages {
		f.Packages = append(f.Packages, lock.Package{Name: pkg.Name, Version: pkg.Version, Arch: pkg.Arch,
			Repository: pkg.repository, Identity: pkg.Identity, Size: pkg.Size})
	}
	for _, l := range p.Layers {
		f.Layers = append(f.Layers, l.Layer)
	}
	for _, o := range p.Overlays {
		f.Overlays = append(f.Overlays, lock.Layer{Kind: "overlay", Name: o.Name, Digest: o.Digest()})
	}
	return f
}

// fromLock takes the packages the lock names; no index is read. What the lock
// was made with and this pikelet is not is noted.
func (p *Plan) fromLock(in Inputs) error {
	l := in.Lock
	if !slices.Equal(l.World, p.world()) {
		return p.outdated("the spec asks for the packages %q, the lock is for %q", p.world(), l.World)
	}
	if !slices.Equal(l.Repositories, p.repositories()) {
		return p.outdated("the spec has the repositories %q, the lock is for %q", p.repositories(), l.Repositories)
	}
	urls, rings, err := p.rings()
	if err != nil {
		return err
	}
	for _, pkg := range l.Packages {
		i := slices.IndexFunc(p.Image.Repositories, func(r spec.Repository) bool { return r.URL == pkg.Repository })
		if i < 0 {
			return p.outdated("package %s comes from %s, which the spec does not have", pkg.Name, pkg.Repository)
		}
		a := &apk.Package{Name: pkg.Name, Version: pkg.Version, Arch: pkg.Arch, Identity: pkg.Identity, Size: pkg.Size, Repository: urls[i]}
		p.Packages = append(p.Packages, Package{Package: a, keys: rings[i], repository: pkg.Repository,
			url: urls[i] + "/" + Arch + "/" + a.FileName()})
	}
	p.Epoch = l.Epoch
	if l.Tool != in.Tool {
		p.Notes = append(p.Notes, warning("lock was made by another version of pikelet, the image may differ", "lock", l.Tool, "this", in.Tool))
	}
	programs := p.programs()
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		if l.Programs[name] != programs[name] {
			p.Notes = append(p.Notes, warning("lock was made with another build of a device program, the image will differ",
				"program", name, "lock", l.Programs[name], "this", programs[name]))
		}
	}
	return nil
}

// missing reports whether an input cannot be obtained.
func missing(err error) bool {
	var m *fetch.Missing
	return errors.As(err, &m)
}

// indexFiles are what the index of a repository may be called: what apk calls one of
// format 2 (docs/platform.md 5.3), and one of format 3 (5.9). Which format it has its
// first bytes tell.
var indexFiles = []string{"APKINDEX.tar.gz", "Packages.adb"}

// readIndex returns the first index that a repository has. The error is that of
// the first name where there is none.
func readIndex(ctx context.Context, cache *fetch.Cache, url string) ([]byte, error) {
	var first error
	for _, name := range indexFiles {
		b, err := cache.Read(ctx, url+"/"+Arch+"/"+name, maxIndexFile)
		if err == nil || !missing(err) {
			return b, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
