package oci

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/layers"
)

// Whiteouts, as the OCI image specification's layers have them
// (https://github.com/opencontainers/image-spec/blob/main/layer.md#whiteouts).
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	// aufs begins the names of AUFS' own files, which are neither files nor
	// whiteouts; Docker passes over them, too.
	aufs = ".wh..wh."
)

// changes are what a layer says: what it empties, what it takes away, and what
// it brings.
type changes struct {
	emptied, gone []string
	folders       []string // among what it brings
	brought       layers.Part
}

// sortOut tells whiteouts from files.
func sortOut(p layers.Part) (changes, error) {
	var c changes
	for _, e := range p {
		name := layers.Clean(e.Name)
		dir, base := path.Split(name)
		rest, is := strings.CutPrefix(base, whiteout)
		switch {
		case base == opaque:
			c.emptied = append(c.emptied, layers.Clean(dir))
		case isAUFS(name):
		case is && (rest == "" || rest == "." || rest == ".."):
			return c, fmt.Errorf("invalid whiteout %q: no file name", e.Name)
		case is:
			c.gone = append(c.gone, path.Join(dir, rest))
		default:
			if c.brought = append(c.brought, e); e.Typeflag == tar.TypeDir {
				c.folders = append(c.folders, name)
			}
		}
	}
	return c, nil
}

func isAUFS(name string) bool {
	return strings.HasPrefix(name, aufs) || strings.Contains(name, "/"+aufs)
}

// Apply lays a layer that was read over a tree, below the directory to: first
// what it takes away, then what it brings. As in overlayfs, a directory of the
// layer takes the place of a symbolic link below it before its whiteouts
// count, so they take nothing away from where that link leads
// (anchore/stereoscope#694). A whiteout that leads out of to by another link
// is an error.
func Apply(t *layers.Tree, p layers.Part, source, to string) error {
	p.SetSource(source)
	p.Rebase(to)
	c, err := sortOut(p)
	if err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	slices.Sort(c.folders) // a directory before what is in it
	for _, name := range c.folders {
		at, err := t.Resolve(name, false)
		if err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
		if old := t.At(at); old != nil && old.Typeflag != tar.TypeDir {
			t.Remove(at)
		}
	}
	inside := func(name string, all bool) (string, error) {
		at, err := t.Resolve(name, all)
		if err != nil {
			return "", fmt.Errorf("%s: %w", source, err)
		}
		root, err := t.Resolve(to, true)
		if err != nil {
			return "", fmt.Errorf("%s: %w", source, err)
		}
		if root != "" && at != root && !strings.HasPrefix(at, root+"/") {
			return "", fmt.Errorf("%s: the whiteout of %q leads to %q, outside of %q", source, name, at, root)
		}
		return at, nil
	}
	for _, name := range c.emptied {
		at, err := inside(name, true)
		if err != nil {
			return err
		}
		t.Empty(at)
	}
	for _, name := range c.gone {
		at, err := inside(name, false)
		if err != nil {
			return err
		}
		t.Remove(at)
	}
	for _, e := range c.brought {
		if err := t.PlaceOver(e); err != nil {
			return err
		}
	}
	return nil
}
