package layers

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
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

// Apply lays the folder over a tree, all times being at.
func (f *Folder) Apply(t *Tree, source string, at time.Time) error {
	return f.each(func(h tar.Header, r io.Reader) error {
		h.ModTime = at
		return t.Add(h, source, r)
	})
}
