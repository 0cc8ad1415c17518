package main

import (
	"archive/tar"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// own holds the files Debian has no counterpart for: the root's basic files
// and service scripts under Alpine's names, by package.
//
//go:embed files
var own embed.FS

// arch is Alpine's word for what Debian calls arm64.
const arch = "aarch64"

// recipeTime is the build time of packages that hold nothing of Debian's: the
// day the files in this directory last changed.
const recipeTime = 1795219200 // 2026-11-21

// file is one file of a package being made.
type file struct {
	tar.Header
	content []byte
}

// build is one package being made.
type build struct {
	recipe
	version string
	files   map[string]*file
	debs    []*debPackage
}

func (b *build) addDir(name string, mode int64) {
	b.files[name] = &file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}}
}

func (b *build) addFile(name string, mode int64, content []byte) {
	b.files[name] = &file{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, content: content}
}

func (b *build) addLink(name, target string) {
	b.files[name] = &file{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Mode: 0o777, Linkname: target}}
}

// run makes the repository in dir.
func run(ctx context.Context, dir, cache string, chosen []recipe, log io.Writer) error {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is needed: the starter repository is made on Debian", tool)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	cache, err = filepath.Abs(cache)
	if err != nil {
		return err
	}
	old, _ := os.ReadFile(filepath.Join(dir, "stamp"))
	a, err := openArchive(ctx, filepath.Join(dir, "apt"), cache, log)
	if err != nil {
		if strings.HasSuffix(string(old), ownStamp()) && len(old) > 0 {
			fmt.Fprintf(log, "%v\nGoing on with the repository that is there.\n", err)
			return nil
		}
		return err
	}
	builds, err := plan(a, chosen)
	if err != nil {
		return err
	}
	stamp := stampOf(builds)
	if string(old) == stamp {
		fmt.Fprintln(log, "the starter repository is up to date")
		return nil
	}
	builds, err = fill(ctx, a, builds, log)
	if err != nil {
		return err
	}
	if err := write(dir, builds, log); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "stamp"), []byte(stamp), 0o644)
}

// plan finds the packages of every chosen recipe in the archive.
func plan(a *archive, chosen []recipe) ([]*build, error) {
	var list []*build
	for _, r := range chosen {
		b := &build{recipe: r, version: "1-r0", files: map[string]*file{}}
		for _, name := range r.debs {
			p, err := a.find(name)
			if err != nil {
				return nil, err
			}
			if name == "linux-image-arm64" { // a name that only depends on the newest
				if p, err = a.find(p.depends[0]); err != nil {
					return nil, err
				}
			}
			b.debs = append(b.debs, p)
			b.version = apkVersion(p.version)
		}
		list = append(list, b)
	}
	for _, b := range list {
		if b.origin == "" {
			b.origin = b.name
			continue
		}
		i := slices.IndexFunc(list, func(o *build) bool { return o.name == b.origin })
		b.version = list[i].version
		b.installIf = strings.ReplaceAll(b.installIf, "%v", b.version)
	}
	return list, nil
}

// stampOf says what a repository was made from: Debian's digests and this
// program.
func stampOf(builds []*build) string {
	var s strings.Builder
	for _, b := range builds {
		fmt.Fprint(&s, b.name, " ", b.version)
		for _, p := range b.debs {
			fmt.Fprint(&s, " ", p.sha256)
		}
		s.WriteByte('\n')
	}
	return s.String() + ownStamp()
}

// ownStamp says which starter made a repository.
func ownStamp() string {
	self, err := os.Executable()
	if err != nil {
		return "starter unknown\n"
	}
	sum, err := fileSum(self)
	if err != nil {
		return "starter unknown\n"
	}
	return "starter " + sum + "\n"
}

// fill reads the files of all packages, and adds the libraries they turn out
// to need as packages of their own.
func fill(ctx context.Context, a *archive, builds []*build, log io.Writer) ([]*build, error) {
	var debs []*debPackage
	for _, b := range builds {
		debs = append(debs, b.debs...)
	}
	if err := a.fetch(ctx, debs, log); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, b := range builds {
		for _, p := range b.debs {
			seen[p.name] = true
		}
	}
	for i := 0; i < len(builds); i++ {
		b := builds[i]
		if err := b.read(ctx, a); err != nil {
			return nil, fmt.Errorf("package %s: %w", b.name, err)
		}
		if b.alone {
			continue
		}
		libs := a.libraries(b.debs, seen)
		if err := a.fetch(ctx, libs, log); err != nil {
			return nil, err
		}
		for _, p := range libs {
			builds = append(builds, &build{
				recipe: recipe{name: p.name, origin: p.name, take: []string{"usr/lib/aarch64-linux-gnu/"}, description: "Library of Debian's"},
				debs:   []*debPackage{p}, version: apkVersion(p.version), files: map[string]*file{},
			})
		}
	}
	return builds, nil
}

// libraries returns the not yet seen libraries that packages depend on. Those
// that no program turns out to need stay in the repository unused.
func (a *archive) libraries(debs []*debPackage, seen map[string]bool) []*debPackage {
	var libs []*debPackage
	for _, p := range debs {
		for _, name := range p.depends {
			name, _, _ = strings.Cut(name, ":")
			dep := a.packages[name]
			if dep == nil || seen[name] || dep.section != "libs" && !strings.HasPrefix(name, "lib") {
				continue // virtual, or no library: the starter brings its own
			}
			seen[name] = true
			libs = append(libs, dep)
		}
	}
	return libs
}

// apkVersion turns Debian's version into one that apk can order: the epoch
// goes, and of the revision only its first number stays.
func apkVersion(v string) string {
	if _, rest, ok := strings.Cut(v, ":"); ok {
		v = rest
	}
	upstream, revision := v, "0"
	if i := strings.LastIndexByte(v, '-'); i > 0 {
		upstream, revision = v[:i], v[i+1:]
	}
	n := regexp.MustCompile(`^\d+(\.\d+)*`).FindString(upstream)
	if n == "" {
		n = "0"
	}
	r := regexp.MustCompile(`^\d+`).FindString(revision)
	if r == "" {
		r = "0"
	}
	return n + "-r" + r
}

// documentation is never taken.
var documentation = regexp.MustCompile(`^usr/share/(doc|man|locale|lintian|bash-completion|zsh|bug|info|initramfs-tools)/`)

// read takes the files of the package's Debian packages, then its own, then
// shapes the whole.
func (b *build) read(ctx context.Context, a *archive) error {
	for _, p := range b.debs {
		cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", a.file(p))
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("unpacking %s: %w", p.name, err)
		}
		if err := b.takeTar(out); err != nil {
			return fmt.Errorf("unpacking %s: %w", p.name, err)
		}
	}
	for name, target := range b.links {
		b.addLink(name, target)
	}
	if err := b.takeOwn(); err != nil {
		return err
	}
	if b.shape != nil {
		return b.shape(b)
	}
	return nil
}

func (b *build) takeTar(data []byte) error {
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean(h.Name), "./")
		if h.Typeflag == tar.TypeDir || !b.takes(name) {
			continue
		}
		f := &file{Header: tar.Header{Typeflag: h.Typeflag, Mode: h.Mode & 0o7777, Linkname: h.Linkname}}
		if f.Typeflag == tar.TypeLink {
			f.Linkname = b.moved(strings.TrimPrefix(path.Clean(h.Linkname), "./"))
		}
		if f.content, err = io.ReadAll(tr); err != nil {
			return err
		}
		f.ModTime = h.ModTime
		f.Name = b.moved(name)
		b.files[f.Name] = f
	}
}

func (b *build) takes(name string) bool {
	if documentation.MatchString(name) {
		return false
	}
	for _, p := range b.drop {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	for _, p := range b.take {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return len(b.take) == 0
}

func (b *build) moved(name string) string {
	for _, m := range b.move {
		if rest, ok := strings.CutPrefix(name, m[0]); ok {
			return m[1] + rest
		}
	}
	return name
}

// takeOwn adds the files of this program's own directory. What begins with #!
// is executable; git and embed keep no better record.
func (b *build) takeOwn() error {
	root := "files/" + b.name
	return fs.WalkDir(own, root, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p == root {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() {
			return err
		}
		content, err := own.ReadFile(p)
		mode := int64(0o644)
		if bytes.HasPrefix(content, []byte("#!")) {
			mode = 0o755
		}
		b.addFile(strings.TrimPrefix(p, root+"/"), mode, content)
		return err
	})
}
