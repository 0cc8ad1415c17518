package builder

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
	"github.com/pikelet-os/pikelet/overlays"
)

// baseLayout is unpacked first: it makes the links, such as /var/run, that
// other packages' files go through.
const baseLayout = "alpine-baselayout"

// builderSource is what the tree's own files are said to come from.
const builderSource = "pikelet"

// assembly is the tree of an image, and the kernel in it.
type assembly struct {
	Tree     *layers.Tree
	Kernel   *kernel
	Packages []*apk.Installed  // as their files say what they are
	sums     map[string]string // the SHA-256 of those files, by the packages' names
	Warnings []Warning
	// Kubernetes is the version that the image brings; "" for none or an unknown one.
	Kubernetes string
}

// assemble unpacks packages and layers into a tree, does what the packages'
// install scripts would do, and enables services. Nothing of a package is
// executed.
func assemble(ctx context.Context, p *Plan, in Inputs, c *contents) (*assembly, error) {
	packageParts, layerParts, fetched, err := unpack(ctx, p, in, c)
	if err != nil {
		return nil, err
	}
	t := layers.NewTree(c.spool)
	epoch := time.Unix(p.Epoch, 0).UTC()
	scripts := newScripts(t, p.Image.IDs, epoch)
	packages, err := merge(ctx, t, p, packageParts, scripts)
	if err != nil {
		return nil, err
	}
	a := &assembly{Tree: t, Packages: byName(packages), sums: sumsOf(packageParts), Warnings: scripts.left}
	if a.Kernel, err = findKernel(ctx, t, p.Image.Kernel.Package, in.Workers, c); err != nil {
		return nil, err
	}
	needs, err := p.kernelNeeds()
	if err != nil {
		return nil, err
	}
	warnings, err := checkKernel(t, a.Kernel, needs)
	if err != nil {
		return nil, err
	}
	a.Warnings = append(a.Warnings, warnings...)
	if err := a.Kernel.depmod(t, epoch); err != nil {
		return nil, err
	}
	if err := applyBase(t, p, epoch); err != nil {
		return nil, err
	}
	starts := watchStarters(t)
	for i, l := range p.Layers {
		if err := l.apply(t, layerParts[i], epoch); err != nil {
			return nil, err
		}
		starts.look(t, l.source())
	}
	numbers, err := readAccounts(t)
	if err != nil {
		return nil, err
	}
	if err := numbers.own(t, true); err != nil {
		return nil, err
	}
	for i, o := range p.Overlays[1:] {
		for _, part := range fetched[i+1] {
			if err := part.Apply(t); err != nil {
				return nil, fmt.Errorf("overlay %s: %w", o.Name, err)
			}
		}
		if err := applyOverlay(t, o, epoch); err != nil {
			return nil, err
		}
		starts.look(t, "overlay "+o.Name)
	}
	if err := starts.check(t); err != nil {
		return nil, err
	}
	if err := a.addK3s(epoch); err != nil {
		return nil, err
	}
	if err := enable(t, p.Image.Services, epoch); err != nil {
		return nil, err
	}
	if err := checkNoIdentity(t); err != nil {
		return nil, err
	}
	left, err := addAuthorities(t, packages, epoch)
	if err != nil {
		return nil, err
	}
	alone, err := addDependencies(ctx, t, epoch)
	if err != nil {
		return nil, err
	}
	a.Warnings = append(append(append(a.Warnings, left...), alone...), dropAttributes(t)...)
	return a, writeDatabase(t, p, a.Packages, epoch)
}

// identities are files that make one machine itself. In an image they would
// make all its nodes the same one: targets throw out the session of the first
// node when the second comes, and servers refuse the second.
var identities = map[string]string{
	"etc/iscsi/initiatorname.iscsi":          "an IQN",
	"etc/rancher/node/password":              "a k3s node password",
	"etc/dropbear/dropbear_ed25519_host_key": "an SSH host key",
	"etc/dropbear/dropbear_rsa_host_key":     "an SSH host key",
	"etc/dropbear/dropbear_ecdsa_host_key":   "an SSH host key",
	"etc/ssh/ssh_host_ed25519_key":           "an SSH host key",
	"etc/ssh/ssh_host_rsa_key":               "an SSH host key",
	"etc/ssh/ssh_host_ecdsa_key":             "an SSH host key",
	"var/lib/rancher/k3s/server/token":       "a cluster's token",
	"var/lib/iscsi/nodes":                    "logins to iSCSI targets",
}

// checkNoIdentity refuses an image that would make its nodes the same one.
// Comments and empty files are fine.
func checkNoIdentity(t *layers.Tree) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(identities)) {
		e := t.Lookup(name)
		found := len(t.Below(name)) > 0
		if e != nil && e.Typeflag == tar.TypeReg {
			b, err := t.ReadFile(name, 1<<20)
			if err != nil {
				return err
			}
			found = !nodeconfig.Blank(b)
		}
		if found {
			err := fmt.Errorf("/%s would be in the image (from %s), and every node would have the same: %s", name, e.Source, identities[name])
			errs = append(errs, hint.With(err, "leave it out: each node makes its own"))
		}
	}
	return errors.Join(errs...)
}

// merge lays the packages over the tree in the order in which apk installs
// them, the base layout first, each with what its scripts do before its files and
// behind them, and returns them in that order. Two packages may have one file only
// where apk lets them.
func merge(ctx context.Context, t *layers.Tree, p *Plan, parts []*part, s *scripts) ([]*apk.Installed, error) {
	order, err := p.installOrder(parts)
	if err != nil {
		return nil, err
	}
	placer := newPlacer(t)
	files := func(part *part) error {
		for _, e := range part.Files {
			if err := placer.place(e, part.Package); err != nil {
				return fmt.Errorf("package %s: %w", part.Package, err)
			}
		}
		return s.own(part.Files)
	}
	// Scripts add to the files of accounts, which no package may replace behind that.
	early := map[int]bool{}
	for _, i := range order {
		early[i] = slices.ContainsFunc(parts[i].Files, func(e *layers.Entry) bool { return slices.Contains(accountFiles, layers.Clean(e.Name)) })
		if early[i] = early[i] || parts[i].Package.Name == baseLayout; early[i] {
			if err := files(parts[i]); err != nil {
				return nil, err
			}
		}
	}
	var list []*apk.Installed
	for _, i := range order {
		pkg := &apk.Installed{Package: parts[i].Package, Scripts: parts[i].Scripts}
		if err := s.do(ctx, pkg, preInstall, pkg.Version); err != nil {
			return nil, err
		}
		if !early[i] {
			if err := files(parts[i]); err != nil {
				return nil, err
			}
		}
		if err := s.do(ctx, pkg, postInstall, pkg.Version); err != nil {
			return nil, err
		}
		list = append(list, pkg)
	}
	return list, s.finish(ctx, list)
}

// installOrder returns the parts' numbers in the order in which their packages
// are installed: apk's, but for the base layout, which comes first.
func (p *Plan) installOrder(parts []*part) ([]int, error) {
	var world []apk.Dep
	for _, name := range p.world() {
		d, err := apk.ParseDep(name)
		if err != nil {
			return nil, err
		}
		world = append(world, d)
	}
	var list []*apk.Package
	at := map[*apk.Package]int{}
	for i, part := range parts {
		list = append(list, part.Package)
		at[part.Package] = i
	}
	var order []int
	for _, pkg := range apk.InstallOrder(world, list) {
		if pkg.Name == baseLayout {
			order = slices.Insert(order, 0, at[pkg])
		} else {
			order = append(order, at[pkg])
		}
	}
	return order, nil
}

// byName returns packages sorted by name, as the database and the bill of
// materials list them.
func byName(list []*apk.Installed) []*apk.Installed {
	return slices.SortedFunc(slices.Values(list), func(a, b *apk.Installed) int { return cmp.Compare(a.Name, b.Name) })
}

// busyboxLinks makes the links that busybox's install script would: one for
// every path in /etc/busybox-paths.d where nothing is yet
// (docs/platform.md 5.7).
func busyboxLinks(t *layers.Tree, epoch time.Time) error {
	for _, e := range t.Below("etc/busybox-paths.d") {
		b, err := t.ReadFile(e.Name, 1<<20)
		if err != nil {
			return err
		}
		for _, p := range strings.Fields(string(b)) {
			if t.Lookup(p) != nil {
				continue
			}
			h := tar.Header{Typeflag: tar.TypeSymlink, Name: p, Linkname: "/bin/busybox", Mode: 0o777, ModTime: epoch}
			if err := t.Add(h, e.Source, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// rootDirs are in every root: what a boot mounts on, and what charts of
// others create on hosts, where a read-only root would refuse
// (docs/platform.md 6.2).
var rootDirs = []string{
	"boot", "dev", "etc", "home", "mnt", "opt", "opt/cni", "proc", "root", "run", "sys", "tmp",
	"usr", "usr/lib64", "usr/libexec", "usr/libexec/kubernetes", "usr/local", "usr/local/bin", "var",
}

// osRelease is /etc/os-release, os-release(5).
const osRelease = `ID=pikelet
ID_LIKE=alpine
NAME=Pikelet
PRETTY_NAME="Pikelet %s %s"
VERSION_ID=%s
IMAGE_ID=%s
IMAGE_VERSION=%s
BUILD_ID=%s
`

// rootConsole is the script that logs root in on the console, where the spec
// asks for that.
const rootConsole = `#!/bin/sh
# The image's spec says console: root.
exec /bin/login -f root
`

// applyBase adds what every Pikelet root has beside its packages.
func applyBase(t *layers.Tree, p *Plan, epoch time.Time) error {
	if err := applyOverlay(t, p.Overlays[0], epoch); err != nil {
		return err
	}
	own := func(name string, mode int64, b []byte) error {
		return t.AddFile(tar.Header{Name: name, Mode: mode, ModTime: epoch}, builderSource, b)
	}
	for _, d := range rootDirs {
		if t.Lookup(d) == nil {
			if err := t.Add(tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o755, ModTime: epoch}, builderSource, nil); err != nil {
				return err
			}
		}
	}
	img := p.Image
	release := fmt.Sprintf(osRelease, img.Name, img.Release, img.Alpine, img.Stream, img.Release, p.BuildID)
	if err := own("etc/os-release", 0o644, []byte(release)); err != nil {
		return err
	}
	if err := own(node.AgentFile, 0o755, p.Programs.Agent); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(p.Added)) {
		if err := own("usr/sbin/"+name, 0o755, p.Added[name]); err != nil {
			return err
		}
	}
	if img.Console == spec.ConsoleRoot {
		if err := own(node.RootConsoleFile, 0o755, []byte(rootConsole)); err != nil {
			return err
		}
	}
	if p.Inventory != nil {
		if err := own(strings.TrimPrefix(node.InventoryFile, "/"), 0o644, p.Inventory); err != nil {
			return err
		}
	}
	defaults, err := node.Defaults{Channel: img.Channel, Soak: time.Duration(img.Health.Soak),
		Deadline: time.Duration(img.Health.Deadline)}.Encode()
	if err != nil {
		return err
	}
	return own(node.DefaultsFile, 0o644, defaults)
}

// applyOverlay lays an overlay over the tree and enables its services.
func applyOverlay(t *layers.Tree, o overlays.Overlay, epoch time.Time) error {
	files := o.Tree()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		if bytes.HasPrefix(files[name], []byte("#!")) {
			mode = 0o755
		}
		if err := t.AddFile(tar.Header{Name: name, Mode: mode, ModTime: epoch}, "overlay "+o.Name, files[name]); err != nil {
			return err
		}
	}
	have := map[string][]string{}
	for level, names := range o.Optional {
		for _, name := range names {
			if t.Lookup("etc/init.d/"+name) != nil {
				have[level] = append(have[level], name)
			}
		}
	}
	if err := enable(t, have, epoch); err != nil {
		return err
	}
	if err := enable(t, o.Services, epoch); err != nil {
		return fmt.Errorf("overlay %s: %w", o.Name, err)
	}
	return nil
}

// enable makes the links by which OpenRC starts services.
func enable(t *layers.Tree, services map[string][]string, epoch time.Time) error {
	for _, level := range slices.Sorted(maps.Keys(services)) {
		for _, name := range services[level] {
			script := "etc/init.d/" + name
			if t.Lookup(script) == nil {
				var there []string
				for _, e := range t.Below("etc/init.d") {
					there = append(there, path.Base(e.Name))
				}
				return fmt.Errorf("services.%s: the image has no service %q; it has %s", level, name, strings.Join(there, ", "))
			}
			h := tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/runlevels/" + level + "/" + name,
				Linkname: "/" + script, Mode: 0o777, ModTime: epoch}
			if err := t.Add(h, builderSource, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
