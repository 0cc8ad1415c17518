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

// Dir is a directory of the user's laid over the tree. Everything in it
// belongs to root; a file is 0755 if its owner may execute it and 0644 if
// not, a directory 0755, so that the umask of whoever checked it out does not
// reach the image. Devices, sockets and pipes are refused. Git's own .git, a
// directory or a file, is left out: it may hold credentials.
type Dir struct {
	Dir   string
	names []string
}

// OpenDir lists the directory.
func OpenDir(dir string) (*Dir, error) {
	f := &Dir{Dir: dir}
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
		return nil, fmt.Errorf("reading the directory: %w", err)
	}
	sort.Strings(f.names)
	return f, nil
}

// one describes a file, and opens it where it is regular.
func (f *Dir) one(rel string) (tar.Header, *os.File, error) {
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
		return h, nil, fmt.Errorf("unsupported file type: %s is neither file, directory nor link", p)
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size()
	if st.Mode()&0o100 == 0 {
		h.Mode = 0o644
	}
	file, err := os.Open(p)
	return h, file, err
}

// Put keeps the contents of a file of a directory: it is there to be read again,
// unlike what comes out of an archive.
type Put func(f *os.File, size int64) (*store.Content, error)

// Read reads the directory into a part. All of a file is read before the next.
func (f *Dir) Read(put Put, source string) (Part, error) {
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

// Digest returns a hash over names, modes and contents: what the directory
// brings to an image.
func (f *Dir) Digest() (string, error) {
	d := newDirDigest()
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

// DirDigest returns the digest of a directory that was read and not changed
// since.
func DirDigest(p Part) string {
	d := newDirDigest()
	for _, e := range p {
		sum := sha256.Sum256(nil)
		if e.Content != nil {
			sum = e.Content.Sum
		}
		d.add(&e.Header, sum[:])
	}
	return d.String()
}

type dirDigest struct{ hash.Hash }

func newDirDigest() dirDigest { return dirDigest{sha256.New()} }

func (d dirDigest) add(h *tar.Header, sum []byte) {
	fmt.Fprintf(d, "%q %c %o %q %x\n", h.Name, h.Typeflag, h.Mode, h.Linkname, sum)
}

func (d dirDigest) String() string { return "sha256:" + hex.EncodeToString(d.Sum(nil)) }

// Rule gives files of a directory another owner or mode.
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

// Normalize gives a part that a directory was read into its place below to, its time,
// and owners and modes by rules. A rule that fits nothing is an error: it was
// meant to.
func Normalize(p Part, source, to string, rules []Rule, at time.Time) error {
	used := make([]bool, len(rules))
	p.Rebase(to)
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
			return fmt.Errorf("%s: the rule for %q matches no file", source, rule.Path)
		}
	}
	return nil
}
