package layers

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Folder is a folder of the user's laid over the tree. Everything in it
// belongs to root; a file is 0755 if its owner may execute it and 0644 if
// not, a folder 0755, so that the umask of whoever checked it out does not
// reach the image. Devices, sockets and pipes are refused.
type Folder struct {
	Dir   string
	names []string
}

// OpenFolder lists the folder.
func OpenFolder(dir string) (*Folder, error) {
	f := &Folder{Dir: dir}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		if rel != "." {
			f.names = append(f.names, rel)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the folder layer: %w", err)
	}
	sort.Strings(f.names)
	return f, nil
}

// each hands every file to visit, with its contents where it is regular.
func (f *Folder) each(visit func(tar.Header, io.Reader) error) error {
	for _, rel := range f.names {
		if err := f.one(rel, visit); err != nil {
			return err
		}
	}
	return nil
}

func (f *Folder) one(rel string, visit func(tar.Header, io.Reader) error) error {
	p := filepath.Join(f.Dir, rel)
	st, err := os.Lstat(p)
	if err != nil {
		return err
	}
	h := tar.Header{Name: filepath.ToSlash(rel), Mode: 0o755}
	switch {
	case st.IsDir():
		h.Typeflag = tar.TypeDir
		return visit(h, nil)
	case st.Mode()&fs.ModeSymlink != 0:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		if h.Linkname, err = os.Readlink(p); err != nil {
			return err
		}
		return visit(h, nil)
	case !st.Mode().IsRegular():
		return fmt.Errorf("folder layer: %s is neither file, folder nor link", p)
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if st.Mode()&0o100 == 0 {
		h.Mode = 0o644
	}
	file, err := os.Open(p)
	if err != nil {
		return err
	}
	defer file.Close()
	return visit(h, file)
}

// Digest returns a hash over names, modes and contents: what the folder
// brings to an image.
func (f *Folder) Digest() (string, error) {
	all := sha256.New()
	err := f.each(func(h tar.Header, r io.Reader) error {
		sum := sha256.New()
		if r != nil {
			if _, err := io.Copy(sum, r); err != nil {
				return err
			}
		}
		fmt.Fprintf(all, "%q %c %o %q %x\n", h.Name, h.Typeflag, h.Mode, h.Linkname, sum.Sum(nil))
		return nil
	})
	return "sha256:" + hex.EncodeToString(all.Sum(nil)), err
}

// Rule gives files of a folder another owner or mode.
type Rule struct {
	Path  string // a pattern over paths in the root; one that ends in /** fits all below
	Owner string // USER:GROUP, by name or number; "" leaves it
	Mode  string // octal; "" leaves it
}

func (r Rule) fits(name string) bool {
	if dir, below := strings.CutSuffix(Clean(r.Path), "/**"); below {
		return strings.HasPrefix(name, dir+"/")
	}
	ok, err := path.Match(Clean(r.Path), name)
	return ok && err == nil
}

// change applies the rule to a file. Owners by name are turned into numbers
// when the image's accounts are known.
func (r Rule) change(h *tar.Header) error {
	if r.Owner != "" {
		user, group, _ := strings.Cut(r.Owner, ":")
		h.Uname, h.Gname = user, group
	}
	if r.Mode != "" && h.Typeflag != tar.TypeSymlink {
		mode, err := strconv.ParseInt(r.Mode, 8, 32)
		if err != nil {
			return err
		}
		h.Mode = mode
	}
	return nil
}

// Apply lays the folder over a tree below to, all times being at. A rule that
// fits nothing is an error: it was meant to.
func (f *Folder) Apply(t *Tree, source, to string, rules []Rule, at time.Time) error {
	used := make([]bool, len(rules))
	err := f.each(func(h tar.Header, r io.Reader) error {
		h.ModTime = at
		h.Name = path.Join(to, h.Name)
		for i, rule := range rules {
			if rule.fits(h.Name) {
				used[i] = true
				if err := rule.change(&h); err != nil {
					return err
				}
			}
		}
		return t.Add(h, source, r)
	})
	if err != nil {
		return err
	}
	for i, rule := range rules {
		if !used[i] {
			return fmt.Errorf("%s: the rule for %q fits no file in it", source, rule.Path)
		}
	}
	return nil
}
