package layers

import (
	"archive/tar"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// control reports whether s has an ASCII control character. apk's database
// and tree.txt are lines of text with names in them as they are.
func control(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

// checkNames refuses an entry whose names no listing can hold.
func checkNames(h *tar.Header) error {
	if control(h.Name) {
		return hint.With(fmt.Errorf("the file name %q has a control character", h.Name), "rename the file")
	}
	if h.Typeflag == tar.TypeSymlink && control(h.Linkname) {
		return fmt.Errorf("%q: the link target %q has a control character", h.Name, h.Linkname)
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, xattrPrefix) && control(k) {
			return fmt.Errorf("%q: the name %q of an extended attribute has a control character", h.Name, strings.TrimPrefix(k, xattrPrefix))
		}
	}
	return nil
}

// MaxID is the highest number of a user or group: Linux has 32 bits for it,
// and the highest of them means "no change".
const MaxID = math.MaxUint32 - 1

// What a root can hold of times and device numbers: squashfs has 32 bits for
// seconds since 1970, and Linux 12 and 20 bits for major and minor numbers.
const (
	maxTime  = math.MaxUint32
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// fit makes a header one that a root can hold. Times outside 1970 to 2106
// become the nearest that can be had, because archives without a time often
// have an odd one; owners and device numbers are refused, because another one
// would be another's.
func fit(h *tar.Header) error {
	for _, n := range []int{h.Uid, h.Gid} {
		if n < 0 || int64(n) > MaxID {
			return fmt.Errorf("%q belongs to %d:%d; want numbers from 0 to %d", h.Name, h.Uid, h.Gid, int64(MaxID))
		}
	}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return fmt.Errorf("%q is the device %d,%d; want at most %d,%d", h.Name, h.Devmajor, h.Devminor, maxMajor, maxMinor)
		}
	}
	if s := h.ModTime.Unix(); s < 0 || s > maxTime {
		h.ModTime = time.Unix(min(max(s, 0), maxTime), 0).UTC()
	}
	h.Mode &= 0o7777 // some archives have the file's type in it
	return nil
}
