package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// options are the values of k3s' options, in the order in which k3s would have
// them on its command line.
type options map[string][]string

// readConfig reads config.yaml of a directory, and the files of config.yaml.d in
// the order of their names. A later value replaces an earlier one; that of a key
// with + is added. An option k3s does not have stops an agent, and is skipped by
// a server (k3s, pkg/configfilearg).
func readConfig(role, dir string) (options, error) {
	files, err := filepath.Glob(filepath.Join(dir, "config.yaml.d", "*.y*ml"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	o := options{}
	for _, name := range append([]string{filepath.Join(dir, "config.yaml")}, files...) {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := o.add(b); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	for _, name := range o.sorted() {
		if nodeconfig.TakesOption(role, name, nodeconfig.K3sMinor(version)) {
			continue
		}
		if role == "agent" {
			return nil, fmt.Errorf("flag provided but not defined: -%s", name)
		}
		logf("Unknown flag --%s found in config.yaml, skipping", name)
		delete(o, name)
	}
	return o, nil
}

func (o options) add(b []byte) error {
	var m map[string]any
	if err := yaml.Unmarshal(b, &m); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(m)) { // a key comes before the one with +
		v := m[key]
		name, more := strings.CutSuffix(key, "+")
		if !more {
			delete(o, name)
		}
		list, is := v.([]any)
		if !is {
			list = []any{v}
		}
		for _, x := range list {
			o[name] = append(o[name], fmt.Sprint(x))
		}
	}
	return nil
}

func (o options) sorted() []string { return slices.Sorted(maps.Keys(o)) }

// names are the options that are set, without their values: token is one.
func (o options) names() string { return strings.Join(o.sorted(), " ") }

// one returns the value of an option that takes one, "" where it is not set.
func (o options) one(name string) string {
	if list := o[name]; len(list) > 0 {
		return list[len(list)-1]
	}
	return ""
}

// or returns the value of an option, or its default.
func (o options) or(name, value string) string {
	if v := o.one(name); v != "" {
		return v
	}
	return value
}

// arguments returns the flags that an option such as kubelet-arg hands on.
func (o options) arguments(name string) (list []string) {
	for _, a := range o[name] {
		list = append(list, "--"+strings.TrimPrefix(a, "--"))
	}
	return list
}
