package apk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/pikelet-os/pikelet/layers/apk/adb"
)

// Package is one record of an index.
type Package struct {
	Name, Version, Arch string
	Identity            string // a digest, Q1 and base64 of 20 bytes or Q2 and that of 32 (docs/platform.md 5.9)
	Size, Installed     int64  // bytes of the .apk, and of its files
	Description, URL    string
	License, Origin     string
	Maintainer, Commit  string
	BuildTime           int64 // seconds since 1970
	ProviderPriority    int
	Depends, Provides   []Dep
	InstallIf           []Dep

	// These are known from a package only; indexes do not say them, but for
	// Replaces in one of format 3.
	Replaces         []Dep
	ReplacesPriority int
	Triggers         []string // directories whose changes run the package's trigger

	// Repository is where the index came from; whoever loaded it says so.
	Repository string
}

// FileName is the package's name in its repository's directory.
func (p *Package) FileName() string { return p.Name + "-" + p.Version + ".apk" }

func (p *Package) String() string { return p.Name + "-" + p.Version }

// Skipped is a package whose record in an index has an unsupported field.
type Skipped struct {
	Package string // name and version
	Field   string // the letter of the field, or its name in format 3
}

// Index is the contents of an APKINDEX, or of an index of format 3.
type Index struct {
	Description string
	// Written is when the index was made, seconds since 1970: the time that its
	// archive gives the list of packages, which the signature covers (docs/platform.md
	// 5.3). It is 0 where there is none, as in format 3.
	Written  int64
	Packages []*Package
	Skipped  []Skipped
	// Foreign has names of packages that For left out, and their architecture.
	Foreign map[string]string
}

// For returns the index without packages for other architectures, which apk
// does not choose from. An index that has packages, but none for arch, is an
// error.
func (x *Index) For(arch string) (*Index, error) {
	left := *x
	left.Packages, left.Foreign = nil, map[string]string{}
	other := ""
	for _, p := range x.Packages {
		if p.Arch == arch || p.Arch == "noarch" || p.Arch == "" {
			left.Packages = append(left.Packages, p)
		} else {
			other = p.Arch
			left.Foreign[p.Name] = p.Arch
		}
	}
	if len(x.Packages) > 0 && len(left.Packages) == 0 {
		return nil, fmt.Errorf("the packages are for other architectures, such as %s; want %s", other, arch)
	}
	return &left, nil
}

// listName is the file of an index that lists packages.
const listName = "APKINDEX"

// limits on what is read: Alpine's largest index, edge community, has about
// 30,000 packages in 13 MiB.
const (
	maxIndex   = 64 << 20
	maxControl = 16 << 20
	maxSign    = 64 << 10
)

// ReadIndex checks the signature of an index of either format against keys and
// reads it. A record with an upper-case field that is not known is skipped, as
// apk does; one that is damaged is an error that names it. It returns
// ErrSignature for an index without a valid signature.
func ReadIndex(b []byte, keys Keyring) (*Index, error) {
	if adb.Is(b) {
		x, err := readIndex3(b, keys)
		if err != nil {
			return nil, fmt.Errorf("reading an index: %w", err)
		}
		return x, nil
	}
	sign, rest, err := splitMember(b, maxSign)
	if err != nil {
		return nil, fmt.Errorf("reading an index: %w", err)
	}
	if err := keys.verify(sign, rest); err != nil {
		return nil, fmt.Errorf("checking an index: %w", err)
	}
	files, written := map[string][]byte{}, int64(0)
	err = walkTar(rest, maxIndex, func(h *tar.Header, data []byte) {
		files[h.Name] = data
		if h.Name == listName {
			written = h.ModTime.Unix()
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading an index: %w", err)
	}
	list, ok := files[listName]
	if !ok {
		return nil, errors.New("reading an index: no APKINDEX in it")
	}
	packages, skipped, err := parseIndex(list)
	if err != nil {
		return nil, fmt.Errorf("reading an index: %w", err)
	}
	return &Index{Description: string(files["DESCRIPTION"]), Written: max(written, 0), Packages: packages, Skipped: skipped}, nil
}

// checkName refuses a package whose file would lie somewhere else.
func (p *Package) checkName() error {
	if strings.ContainsAny(p.Name+p.Version, "/\\ ") || strings.HasPrefix(p.Name, ".") {
		return fmt.Errorf("invalid package name %q", p.String())
	}
	return nil
}

// parseIndex returns the packages of an index, and those that it skips.
func parseIndex(b []byte) (list []*Package, skipped []Skipped, err error) {
	p := &Package{}
	var unknown byte // a field of the record that makes it unusable
	line := 0
	begun := false // the record has a field
	end := func() error {
		if !begun {
			return nil
		}
		begun = false
		if p.Name == "" || p.Version == "" || p.Identity == "" {
			return fmt.Errorf("line %d: the record has no name, version or identity", line)
		}
		if err := p.checkName(); err != nil {
			return fmt.Errorf("line %d: %w", line, err)
		}
		if unknown != 0 {
			skipped = append(skipped, Skipped{Package: p.String(), Field: string(rune(unknown))})
		} else {
			list = append(list, p)
		}
		p, unknown = &Package{}, 0
		return nil
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	sc.Buffer(nil, 4<<20)
	for sc.Scan() {
		line++
		text := sc.Text()
		if text == "" {
			if err := end(); err != nil {
				return nil, nil, err
			}
			continue
		}
		key, value, ok := strings.Cut(text, ":")
		if !ok || len(key) != 1 {
			return nil, nil, fmt.Errorf("line %d: invalid field %q", line, text)
		}
		begun = true
		known, err := p.setByLetter(key[0], value)
		if err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", line, err)
		}
		// apk-tools: an unknown upper-case field makes a record uninstallable,
		// a lower-case one may be ignored (docs/platform.md 5.3).
		if !known && key >= "A" && key <= "Z" {
			unknown = key[0]
		}
	}
	if err := sc.Err(); err != nil {
		return nil, nil, err
	}
	err = end()
	return list, skipped, err
}

// encode writes the fields of a record in apk-tools' order
// (docs/platform.md 5.3).
func (p *Package) encode(w *bytes.Buffer) {
	field := func(key byte, value string) {
		if value != "" {
			fmt.Fprintf(w, "%c:%s\n", key, value)
		}
	}
	number := func(key byte, value int64) {
		if value != 0 {
			fmt.Fprintf(w, "%c:%d\n", key, value)
		}
	}
	field('C', p.Identity)
	field('P', p.Name)
	field('V', p.Version)
	field('A', p.Arch)
	number('S', p.Size)
	number('I', p.Installed)
	field('T', p.Description)
	field('U', p.URL)
	field('L', p.License)
	field('o', p.Origin)
	field('m', p.Maintainer)
	number('t', p.BuildTime)
	field('c', p.Commit)
	number('k', int64(p.ProviderPriority))
	field('D', joinDeps(p.Depends))
	field('p', joinDeps(p.Provides))
	field('i', joinDeps(p.InstallIf))
	w.WriteByte('\n')
}

// WriteIndex returns the signed APKINDEX.tar.gz of x, packages sorted by name
// and version.
func WriteIndex(x *Index, key *Key) ([]byte, error) {
	list := append([]*Package(nil), x.Packages...)
	sort.Slice(list, func(i, j int) bool {
		if list[i].Name != list[j].Name {
			return list[i].Name < list[j].Name
		}
		return Compare(list[i].Version, list[j].Version) < 0
	})
	var text bytes.Buffer
	for _, p := range list {
		p.encode(&text)
	}
	body, err := writeTar([]tarFile{{"DESCRIPTION", []byte(x.Description)}, {listName, text.Bytes()}}, x.Written, true)
	if err != nil {
		return nil, err
	}
	sign, err := key.sign(body)
	if err != nil {
		return nil, err
	}
	return append(sign, body...), nil
}

// readTar returns the regular files of a gzipped tar of at most limit bytes.
func readTar(b []byte, limit int64) (map[string][]byte, error) {
	files := map[string][]byte{}
	if err := walkTar(b, limit, func(h *tar.Header, data []byte) { files[h.Name] = data }); err != nil {
		return nil, err
	}
	return files, nil
}

// walkTar calls f for each regular file of a gzipped tar of at most limit bytes.
func walkTar(b []byte, limit int64, f func(h *tar.Header, data []byte)) error {
	gz, err := newGzipReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer gz.Close()
	tr := tar.NewReader(io.LimitReader(gz, limit))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		f(h, data)
	}
}
