//go:build oracle

package apk

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// seen is a file of a package, as it lies on a disk or in an archive.
type seen struct {
	kind, what string // what: contents, target or device number
	mode       int64
	uid, gid   int
	mtime      int64 // of a file
	xattrs     map[string]string
	twin       string // the first name of the same file
}

// onDisk lists what is below a directory.
func onDisk(t *testing.T, dir string) map[string]seen {
	t.Helper()
	all, inodes := map[string]seen{}, map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		s := seen{mode: int64(st.Mode & 0o7777), uid: int(st.Uid), gid: int(st.Gid), xattrs: xattrs(p)}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFDIR:
			s.kind = "dir"
		case syscall.S_IFLNK:
			s.kind = "link"
			s.what, err = os.Readlink(p)
		case syscall.S_IFREG:
			b, rerr := os.ReadFile(p)
			s.kind, s.what, s.mtime, err = "file", brief(b), st.Mtim.Sec, rerr
		default:
			s.kind, s.what = fmt.Sprintf("device %o", st.Mode&syscall.S_IFMT), fmt.Sprint(unix.Major(st.Rdev), ":", unix.Minor(st.Rdev))
		}
		name, _ := filepath.Rel(dir, p)
		if s.kind == "file" {
			if inodes[st.Ino] == "" {
				inodes[st.Ino] = name
			}
			s.twin = inodes[st.Ino]
		}
		all[name] = s
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// brief is short contents, or a digest of long ones.
func brief(b []byte) string {
	if len(b) < 64 {
		return string(b)
	}
	return fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256(b))
}

// twins makes the first name of a file the same whoever chose it.
func twins(all map[string]seen) map[string]seen {
	first := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		s := all[name]
		if s.twin != "" && first[s.twin] == "" {
			first[s.twin] = name
		}
		s.twin = first[s.twin]
		all[name] = s
	}
	return all
}

func xattrs(p string) map[string]string {
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(p, names)
	if err != nil || n == 0 {
		return nil
	}
	all := map[string]string{}
	for _, name := range strings.Split(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 4096)
		if n, err := unix.Lgetxattr(p, name, value); err == nil {
			all[name] = string(value[:n])
		}
	}
	return all
}

// inArchive lists what a package has in it, with the directories that it implies,
// as apk resolves owners.
func inArchive(t *testing.T, a *Archive) map[string]seen {
	t.Helper()
	all := map[string]seen{}
	err := a.Unpack(func(h *tar.Header, r io.Reader) error {
		b, err := io.ReadAll(r)
		s := seen{mode: h.Mode, uid: id(h.Uname, userID), gid: id(h.Gname, groupID)}
		for k, v := range h.PAXRecords {
			if s.xattrs == nil {
				s.xattrs = map[string]string{}
			}
			s.xattrs[strings.TrimPrefix(k, xattrRecord)] = v
		}
		switch h.Typeflag {
		case tar.TypeDir:
			s.kind = "dir"
		case tar.TypeSymlink:
			s.kind, s.what = "link", h.Linkname
		case tar.TypeReg:
			s.kind, s.what, s.mtime, s.twin = "file", brief(b), h.ModTime.Unix(), h.Name
		case tar.TypeLink:
			s = all[h.Linkname]
		default:
			kind := map[byte]int{tar.TypeChar: syscall.S_IFCHR, tar.TypeBlock: syscall.S_IFBLK, tar.TypeFifo: syscall.S_IFIFO}[h.Typeflag]
			s.kind, s.what = fmt.Sprintf("device %o", kind), fmt.Sprint(h.Devmajor, ":", h.Devminor)
		}
		all[h.Name] = s
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range all {
		for d := filepath.Dir(name); d != "."; d = filepath.Dir(d) {
			if _, there := all[d]; !there {
				all[d] = seen{kind: "dir", mode: 0o755}
			}
		}
	}
	return all
}

func id(name string, lookup func(string) (string, error)) int {
	text, err := lookup(name)
	if err != nil {
		return 65534
	}
	n, _ := strconv.Atoi(text)
	return n
}

func userID(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return u.Uid, nil
}

func groupID(name string) (string, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return g.Gid, nil
}
