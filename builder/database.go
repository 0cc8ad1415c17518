package builder

import (
	"archive/tar"
	"crypto/sha1" // #nosec: what apk's database holds
	"encoding/base64"
	"encoding/hex"
	"io"
	"path"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// imagePackage is the name under which apk in the image lists what no package
// brought: the builder's, the overlays' and the layers' files.
const imagePackage = "pikelet-image"

// writeDatabase writes apk's database of what is in the tree, so that apk
// info and apk audit agree with it. What lies below /boot is left out: it is
// in the slot, not in the root.
func writeDatabase(t *layers.Tree, p *Plan, list []*apk.Installed, epoch time.Time) error {
	var world strings.Builder
	for _, name := range p.world() {
		world.WriteString(name + "\n")
	}
	// apk audit counts every file below etc/apk as changed, and what the node
	// writes is. Both are as they should be: "-" leaves them out.
	protected := "# What Pikelet writes: at the build, and on every boot.\n-etc/apk\n"
	for _, name := range node.Written() {
		protected += "-" + strings.TrimPrefix(name, "/") + "\n"
	}
	for name, text := range map[string]string{"etc/apk/world": world.String(), "etc/apk/arch": Arch + "\n",
		"etc/apk/protected_paths.d/pikelet.list": protected} {
		if err := t.AddFile(tar.Header{Name: name, Mode: 0o644, ModTime: epoch}, builderSource, []byte(text)); err != nil {
			return err
		}
	}
	id := sha1.Sum([]byte(p.BuildID)) // #nosec: format
	image := &apk.Installed{Package: &apk.Package{Name: imagePackage, Version: p.Image.Release, Arch: "noarch",
		Identity:    "Q1" + base64.StdEncoding.EncodeToString(id[:]),
		Description: "What the image " + p.Image.Name + " has beside its packages", BuildTime: p.Epoch}}
	owners := map[string]*apk.Installed{}
	for _, pkg := range list {
		owners[pkg.String()] = pkg
	}
	database, err := t.Resolve(apk.DatabaseDir, true)
	if err != nil {
		return err
	}
	for _, e := range t.Entries() {
		if strings.HasPrefix(e.Name, "boot/") || strings.HasPrefix(e.Name, database+"/") {
			continue
		}
		owner := owners[e.Source]
		if owner == nil {
			owner = image
		}
		sum, err := sha1Of(e)
		if err != nil {
			return err
		}
		h := e.Header
		// apk knows a file by the name of its package, and follows links to it.
		if owner != image && h.Typeflag != tar.TypeDir && e.Packaged != "" {
			h.Name = e.Packaged
		}
		owner.Files = append(owner.Files, apk.InstalledFile{Header: &h, SHA1: sum})
	}
	files, err := apk.Database(append(list, image), epoch)
	if err != nil {
		return err
	}
	for name, b := range files {
		mode := int64(0o644)
		if name == "lock" {
			mode = 0o600
		}
		if err := t.AddFile(tar.Header{Name: path.Join(apk.DatabaseDir, name), Mode: mode, ModTime: epoch}, builderSource, b); err != nil {
			return err
		}
	}
	return nil
}

// sha1Of returns the SHA-1 of a file's contents or a link's target: what its
// package says, or what we read.
func sha1Of(e *layers.Entry) (string, error) {
	if sum := e.PAXRecords[apk.ChecksumRecord]; sum != "" {
		return sum, nil
	}
	h := sha1.New() // #nosec: format
	switch e.Typeflag {
	case tar.TypeSymlink:
		io.WriteString(h, e.Linkname)
	case tar.TypeReg:
		r, err := e.Open()
		if err != nil {
			return "", err
		}
		defer r.Close()
		if _, err := io.Copy(h, r); err != nil {
			return "", err
		}
	default:
		return "", nil
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
