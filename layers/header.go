package layers

import (
	"archive/tar"
	"fmt"
	"strings"

	"github.com/pikelet-os/pikelet/layers/apk"
)

// What Linux allows of a file, and Unix of an account: what is longer could
// not be used, and an archive may say a megabyte of each for every entry.
const (
	maxPath      = 4096     // PATH_MAX of linux/limits.h
	maxName      = 255      // NAME_MAX, and XATTR_NAME_MAX
	maxAttribute = 64 << 10 // XATTR_SIZE_MAX
)

// entrySize is about what an entry takes in memory beside its strings.
const entrySize = 256

// xattrPrefix begins the PAX records that hold extended attributes.
const xattrPrefix = "SCHILY.xattr."

// lean drops from a header what is not read, refuses what is longer than a
// file can have it, and returns how many bytes of memory the rest takes. An
// archive's strings are parts of up to 1 MiB of records, which they would keep
// in memory: those that stay are copied.
func lean(h *tar.Header) (int64, error) {
	for _, name := range []string{h.Name, h.Linkname} {
		if len(name) > maxPath {
			return 0, fmt.Errorf("a path of %d bytes (%q...), more than %d", len(name), name[:60], maxPath)
		}
	}
	for part := range strings.SplitSeq(h.Name, "/") {
		if len(part) > maxName {
			return 0, fmt.Errorf("a name of %d bytes (%q...), more than %d", len(part), part[:60], maxName)
		}
	}
	if n := max(len(h.Uname), len(h.Gname)); n > maxName {
		return 0, fmt.Errorf("%q: an owner's name of %d bytes, more than %d", h.Name, n, maxName)
	}
	size := int64(entrySize)
	records := h.PAXRecords
	//lint:ignore SA1019 tar.Reader fills both
	h.PAXRecords, h.Xattrs = nil, nil
	for k, v := range records {
		attribute, is := strings.CutPrefix(k, xattrPrefix)
		if !is && k != apk.ChecksumRecord {
			continue
		}
		if len(attribute) > maxName || len(v) > maxAttribute {
			return 0, fmt.Errorf("%q: an extended attribute whose name has %d bytes and whose value %d, more than %d and %d",
				h.Name, len(attribute), len(v), maxName, maxAttribute)
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[strings.Clone(k)] = strings.Clone(v)
		size += int64(len(k) + len(v))
	}
	if records != nil {
		h.Name, h.Linkname, h.Uname, h.Gname = strings.Clone(h.Name), strings.Clone(h.Linkname), strings.Clone(h.Uname), strings.Clone(h.Gname)
	}
	return size + int64(len(h.Name)+len(h.Linkname)+len(h.Uname)+len(h.Gname)), nil
}
