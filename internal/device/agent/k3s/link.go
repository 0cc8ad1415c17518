package k3s

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// linkPlugins makes dir hold links to the network plugins of a release's bin
// directory: the program cni, and the links to it.
func linkPlugins(dir, bin string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return linkInto(dir, bin, func(name string) bool {
		to, err := os.Readlink(filepath.Join(bin, name))
		return name == "cni" || err == nil && to == "cni"
	})
}

// linkImages links the archives of container images that the image brings to
// where k3s imports them, and takes away links of earlier releases.
func linkImages() error {
	return linkInto(node.K3sDir+"/agent/images", imageAirgap, all)
}

// placeManifests links the manifests of overlays to where k3s applies them,
// and their charts to where it serves them.
func placeManifests() error {
	return errors.Join(
		linkInto(node.K3sServerDir+"/manifests", imageApplied, all),
		linkInto(node.K3sServerDir+"/static/charts", imageCharts, all))
}

// all takes every file.
func all(string) bool { return true }

// linkInto makes dir hold a link to every file of from whose name is wanted,
// and no other links into it. What people put there themselves stays.
func linkInto(dir, from string, wanted func(name string) bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	there, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range there {
		name := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(name); err == nil && filepath.Dir(to) == from {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	files, err := os.ReadDir(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range files {
		if !wanted(e.Name()) {
			continue
		}
		if err := os.Symlink(filepath.Join(from, e.Name()), filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
