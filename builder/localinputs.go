package builder

import (
	"path/filepath"
	"strings"

	"github.com/pikelet-os/pikelet/builder/fetch"
	"github.com/pikelet-os/pikelet/builder/spec"
)

// LocalInputs lists the files and directories of this computer that a build of a
// spec reads, beside the spec and its lock. Some may not exist: the name of a
// built-in overlay, for instance, may be that of a directory too.
func LocalInputs(img *spec.Image) []string {
	var files []string
	for _, r := range img.Repositories {
		if !fetch.IsRemote(r.URL) {
			for _, name := range indexFiles {
				files = append(files, filepath.Join(img.Path(r.URL), Arch, name))
			}
		}
		for _, k := range r.Keys {
			files = append(files, img.Path(k))
		}
	}
	for _, l := range img.Layers {
		for _, name := range []string{l.Folder, l.Tar, strings.TrimPrefix(l.OCI, "oci:")} {
			if name != "" {
				files = append(files, img.Path(name))
			}
		}
	}
	for _, l := range img.Overlays {
		files = append(files, img.Path(l.Name))
	}
	for _, k := range img.Keys {
		files = append(files, img.Path(k))
	}
	return files
}
