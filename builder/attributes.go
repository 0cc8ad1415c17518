package builder

import (
	"archive/tar"
	"maps"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/layers"
)

// dropAttributes takes the extended attributes that a squashfs cannot hold out
// of the tree, such as POSIX ACLs (system.posix_acl_access), and returns
// a warning for each kind.
func dropAttributes(t *layers.Tree) []Warning {
	type dropped struct {
		files int
		first *layers.Entry
	}
	kinds := map[string]*dropped{}
	for _, e := range t.Entries() {
		var gone []string
		for k := range e.PAXRecords {
			if name, is := strings.CutPrefix(k, squashfs.XattrPrefix); is && !squashfs.HoldsXattr(name) {
				gone = append(gone, k)
				if kinds[name] == nil {
					kinds[name] = &dropped{first: e}
				}
				kinds[name].files++
			}
		}
		if len(gone) == 0 {
			continue
		}
		e.Change(func(h *tar.Header) {
			h.PAXRecords = maps.Clone(h.PAXRecords) // hard links share it
			for _, k := range gone {
				delete(h.PAXRecords, k)
			}
		})
	}
	var warnings []Warning
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		d := kinds[name]
		warnings = append(warnings, warning("extended attribute is left out, squashfs holds only user., trusted. and security.",
			"attribute", name, "files", d.files, "first", "/"+d.first.Name, "from", d.first.Source))
	}
	return warnings
}
