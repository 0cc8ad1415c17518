// Package overlays holds the bundles that are laid over an image's layers:
// files and services under one name. The base bundle is part of every image.
package overlays

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"

	"go.yaml.in/yaml/v3"
)

//go:embed all:base
var embedded embed.FS

// Overlay is one bundle.
type Overlay struct {
	Name string `yaml:"-"`
	// Services are enabled where their scripts are in the tree, by runlevel.
	Services map[string][]string `yaml:"services"`
	// Files is laid over the tree: everything owned by root, programs
	// (files that begin with #!) 0755, the rest 0644. It may be nil.
	Files fs.FS `yaml:"-"`
}

// Base returns the bundle of every image.
func Base() (Overlay, error) { return load(embedded, "base") }

func load(from fs.FS, name string) (Overlay, error) {
	o := Overlay{Name: name}
	b, err := fs.ReadFile(from, name+"/overlay.yaml")
	if err != nil {
		return o, fmt.Errorf("reading the overlay %q: %w", name, err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&o); err != nil {
		return o, fmt.Errorf("reading the overlay %q: %w", name, err)
	}
	if _, err := fs.Stat(from, name+"/files"); err == nil {
		o.Files, err = fs.Sub(from, name+"/files")
		return o, err
	}
	return o, nil
}
