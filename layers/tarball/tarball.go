// Package tarball reads tar files entry by entry, the same way for packages,
// archives and layers of container images.
package tarball

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
)

// What GNU tar writes beside POSIX's kinds
// (https://www.gnu.org/software/tar/manual/html_node/Standard.html).
const (
	gnuDirectory  = 'D' // of an incremental archive: a directory, whose contents are a list of names
	gnuContinued  = 'M' // the rest of a file that began in another volume
	gnuVolumeName = 'V' // a label, and no file
)

// Each hands every entry to visit, as one of the kinds that a root can hold:
// regular files (sparse ones as they read), directories, symbolic and hard links,
// devices and pipes. Headers that are no entry, such as a global pax header or
// the label of a volume, are passed over. What else there is, and a path that
// climbs out of the root, is an error, which begins with source; what visit
// returns is returned as it is.
func Each(r io.Reader, source string, visit func(*tar.Header, io.Reader) error) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
		switch h.Typeflag {
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		case tar.TypeGNUSparse, tar.TypeCont: // both read like a regular file
			h.Typeflag = tar.TypeReg
		case gnuDirectory:
			h.Typeflag, h.Size = tar.TypeDir, 0
		case tar.TypeXGlobalHeader, gnuVolumeName:
			continue
		case gnuContinued:
			return fmt.Errorf("%s: %q continues a file of another volume; archives of several volumes are not supported", source, h.Name)
		default:
			return fmt.Errorf("%s: %q: unsupported kind of tar entry %q", source, h.Name, h.Typeflag)
		}
		if Climbs(h.Name) || h.Typeflag == tar.TypeLink && Climbs(h.Linkname) {
			return fmt.Errorf("%s: the path %q climbs out of the root", source, h.Name)
		}
		if err := visit(h, tr); err != nil {
			return err
		}
	}
}

// Climbs reports whether a path leads above where it begins. No honest archive
// holds one, so it is refused even where it would be caught later.
func Climbs(name string) bool {
	depth := 0
	for _, part := range strings.Split(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return true
			}
		default:
			depth++
		}
	}
	return false
}
