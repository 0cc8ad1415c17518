package builder

import (
	"archive/tar"
	"context"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/openrc"
	"github.com/pikelet-os/pikelet/layers"
)

// runlevelDir holds a directory of links for each runlevel.
const runlevelDir = "etc/runlevels"

// addDependencies computes what the tree's services depend on, and leaves it for the
// node. The error says which needs of services in runlevels nothing meets.
func addDependencies(ctx context.Context, t *layers.Tree, epoch time.Time) ([]Warning, error) {
	r, err := openrc.Compute(ctx, t)
	if err != nil {
		return nil, err
	}
	levels := runlevels(t)
	if err := r.Check(t, levels); err != nil {
		return nil, err
	}
	if err := r.Install(t, builderSource, epoch); err != nil {
		return nil, err
	}
	var left []Warning
	for _, l := range r.Left {
		if l.Service == "" {
			left = append(left, warning("dependencies of services are not checked, and each boot computes them", "reason", l.Reason))
			continue
		}
		for _, names := range levels {
			if slices.Contains(names, l.Service) {
				left = append(left, warning("dependencies of a service are not checked, and each boot computes them",
					"service", l.Service, "reason", l.Reason, "hint", "see that what it needs is in the image"))
				break
			}
		}
	}
	return left, nil
}

// runlevels returns the services that a tree starts, by runlevel.
func runlevels(t *layers.Tree) map[string][]string {
	levels := map[string][]string{}
	for _, level := range t.Children(runlevelDir) {
		for _, name := range t.Children(path.Join(runlevelDir, level)) {
			e := t.At(path.Join(runlevelDir, level, name))
			if e.Typeflag == tar.TypeSymlink && strings.HasSuffix(e.Linkname, "/init.d/"+name) {
				levels[level] = append(levels[level], name)
			}
		}
	}
	return levels
}
