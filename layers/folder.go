package layers

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/layers/store"
)

// Folder is a folder of the user's laid over the tree. Everything in it
// belongs to root; a file is 0755 if its owner may execute it and 0644 if
// not, a folder 0755, so that the umask of whoever checked it out does not
// reach the image. Devices, sockets and pipes are refused. Git's own .git, a
// folder or a file, is left out: it may hold credentials.
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
		if d.Name() == ".git" && rel != "." {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
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

// one describes a file, and opens it where it is regular.
func (f *Folder) one(rel string) (tar.Header, *os.File, error) {
	p := filepath.Join(f.Dir, rel)
	h := tar.Header{Name: filepath.ToSlash(rel), Mode: 0o755}
	st, err := os.Lstat(p)
	if err != nil {
		return h, nil, err
	}
	switch {
	case st.IsDir():
		h.Typeflag = tar.TypeDir
		return h, nil, nil
	case st.Mode()&fs.ModeSymlink != 0:
		h.Typeflag, h.Mode = tar.TypeSymlink, 0o777
		h.Linkname, err = os.Readlink(p)
		return h, nil, err
	case !st.Mode().IsRegular():
		return h, nil, fmt.Errorf("folder layer: %s is neither file, folder nor link", p)
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if st.Mode()&0o100 == 0 {
		h.Mode = 0o644
	}
	file, err := os.Open(p)
	return h, file, err
}

// Put keeps the contents of a file of a folder: it is there to be read again,
// unlike what comes out of an archive.
type Put func(f *os.File, size int64) (*store.Content, error)

// Read reads the folder into a part. All of a file is read before the next.
func (f *Folder) Read(put Put, source string) (Part, error) {
	var p Part
	for _, rel := range f.names {
		h, file, err := f.one(rel)
		if err != nil {
			return nil, err
		}
		e := &Entry{Header: h, Source: source}
		if file != nil {
			e.Content, err = put(file, h.Size)
			file.Close()
			if err != nil {
				return nil, fmt.Errorf("%s: storing %q: %w", source, h.Name, err)
			}
		}
		p = append(p, e)
	}
	return p, nil
}

// Digest returns a hash over names, modes and contents: what the folder
// brings to an image.
func (f *Folder) Digest() (string, error) {
	d := newFolderDigest()
	for _, rel := range f.names {
		h, file, err := f.one(rel)
		if err != nil {
			return "", err
		}
		sum := sha256.New()
		if file != nil {
			_, err = io.Copy(sum, file)
			file.Close()
			if err != nil {
				return "", err
			}
		}
		d.add(&h, sum.Sum(nil))
	}
	return d.String(), nil
}

// FolderDigest returns the digest of a folder that was read and not changed
// since.
func FolderDigest(p Part) string {
	d := newFolderDigest()
	for _, e := range p {
		sum := sha256.Sum256(nil)
		if e.Content != nil {
			sum = e.Content.Sum
		}
		d.add(&e.Header, sum[:])
	}
	return d.String()
}

type folderDigest struct{ hash.Hash }

func newFolderDigest() folderDigest { return folderDigest{sha256.New()} }

func (d folderDigest) add(h *tar.Header, sum []byte) {
	fmt.Fprintf(d, "%q %c %o %q %x\n", h.Name, h.Typeflag, h.Mode, h.Linkname, sum)
}

func (d folderDigest) String() string { return "sha256:" + hex.EncodeToString(d.Sum(nil)) }

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

// Dress gives a part that a folder was read into its place below to, its time,
// and owners and modes by rules. A rule that fits nothing is an error: it was
// meant to.
func Dress(p Part, source, to string, rules []Rule, at time.Time) error {
	used := make([]bool, len(rules))
	p.Below(to)
	for _, e := range p {
		e.ModTime = at
		for i, rule := range rules {
			if rule.fits(e.Name) {
				used[i] = true
				if err := rule.change(&e.Header); err != nil {
					return err
				}
			}
		}
	}
	for i, rule := range rules {
		if !used[i] {
			return fmt.Errorf("%s: the rule for %q fits no file in it", source, rule.Path)
		}
	}
	return nil
}
