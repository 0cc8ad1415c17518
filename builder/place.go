package builder

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/layers/tarball"
)

// placer lays packages' files over a tree. Two names that a link makes one, such as
// /bin/x and /usr/bin/x where /bin is a link, are one file.
type placer struct {
	tree   *layers.Tree
	owners map[string]*apk.Package // by where the files are in the tree
}

func newPlacer(t *layers.Tree) *placer {
	return &placer{tree: t, owners: map[string]*apk.Package{}}
}

// place puts an entry of a package into the tree, unless another package has
// the file and keeps it.
func (p *placer) place(e *layers.Entry, pkg *apk.Package) error {
	name, isDir := layers.Clean(e.Name), e.Typeflag == tar.TypeDir
	if err := p.follows(name, isDir); err != nil {
		return err
	}
	if e.Typeflag == tar.TypeLink {
		if err := p.follows(layers.Clean(e.Linkname), false); err != nil {
			return err
		}
	}
	at, err := p.tree.Resolve(name, isDir)
	if err != nil {
		return err
	}
	if at != name {
		e.Packaged = name
	}
	if isDir {
		return p.tree.Place(e)
	}
	if old := p.owners[at]; old != nil {
		if old == pkg && p.named(at) != name {
			return hint.With(fmt.Errorf("/%s is the file /%s too, which the package has already", name, p.named(at)), "leave the package out")
		}
		switch apk.ReplacesFile(old, pkg) {
		case apk.Conflict:
			return hint.With(fmt.Errorf("/%s belongs to %s too", at, old), "leave one of the two out")
		case apk.Keep:
			return nil
		}
	}
	p.owners[at] = pkg
	return p.tree.Place(e)
}

// named returns the name that its package has for a file of the tree.
func (p *placer) named(at string) string {
	if e := p.tree.At(at); e != nil && e.Packaged != "" {
		return e.Packaged
	}
	return at
}

// follows refuses a path of a package that leads through a link out of the root.
// Other links it follows, as apk does, whichever package has them.
func (p *placer) follows(name string, all bool) error {
	if !all {
		if name = path.Dir(name); name == "." {
			return nil
		}
	}
	for _, e := range p.tree.Trail(name) {
		if e.Typeflag == tar.TypeSymlink && leadsOut(e) {
			return hint.With(fmt.Errorf("/%s leads through the link /%s -> %s (from %s), which leads out of the root",
				name, e.Name, e.Linkname, e.Source), "leave the package with the link out")
		}
	}
	return nil
}

// leadsOut reports whether a link leads above the root, which the builder and a
// node take for the root itself, or to what is no file of the image.
func leadsOut(e *layers.Entry) bool {
	to := e.Linkname
	if !strings.HasPrefix(to, "/") {
		to = path.Dir(e.Name) + "/" + to
	}
	top, _, _ := strings.Cut(layers.Clean(to), "/")
	return tarball.Climbs(to) || slices.Contains([]string{"", "dev", "proc", "sys"}, top)
}
