package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"debug/elf"
	"embed"
	"encoding/pem"
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
	"sort"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/layers/apk"
)

// own holds the files Debian has no counterpart for: the root's basic files
// and service scripts under Alpine's names, by package.
//
//go:embed files
var own embed.FS

// arch is Alpine's word for what Debian calls arm64.
const arch = "aarch64"

// recipeTime is the build time of packages that hold nothing of Debian's: the
// day the files in this folder last changed.
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
	time    int64
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
func run(ctx context.Context, dir, cache string, log io.Writer) error {
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
	a, err := openArchive(ctx, filepath.Join(dir, "apt"), cache, log)
	if err != nil {
		return err
	}
	builds, err := plan(a)
	if err != nil {
		return err
	}
	stamp := stampOf(builds)
	if old, err := os.ReadFile(filepath.Join(dir, "stamp")); err == nil && string(old) == stamp {
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

// plan finds every recipe's packages in the archive.
func plan(a *archive) ([]*build, error) {
	var list []*build
	for _, r := range recipes {
		b := &build{recipe: r, version: "1-r0", time: recipeTime, files: map[string]*file{}}
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
	if self, err := os.Executable(); err == nil {
		if sum, err := fileSum(self); err == nil {
			fmt.Fprintln(&s, "starter", sum)
		}
	}
	return s.String()
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
		libs, err := a.libraries(b.debs, seen)
		if err != nil {
			return nil, err
		}
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
func (a *archive) libraries(debs []*debPackage, seen map[string]bool) ([]*debPackage, error) {
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
	return libs, nil
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
		if err == io.EOF {
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

// takeOwn adds the files of this program's own folder. What begins with #!
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

// write signs and writes the packages and the index.
func write(dir string, builds []*build, log io.Writer) error {
	key, err := signingKey(dir)
	if err != nil {
		return err
	}
	out := filepath.Join(dir, arch)
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	names := map[string]string{} // soname to package
	for _, b := range builds {
		for _, so := range b.sonames() {
			names[so] = b.name
		}
	}
	index := &apk.Index{Description: "Pikelet starter: Debian's packages under Alpine's names, for trying and testing"}
	for _, b := range builds {
		p, files, err := b.finish(names)
		if err != nil {
			return fmt.Errorf("package %s: %w", b.name, err)
		}
		f, err := os.Create(filepath.Join(out, p.FileName()))
		if err != nil {
			return err
		}
		record, err := apk.WritePackage(f, p, files, key)
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
		index.Packages = append(index.Packages, record)
	}
	b, err := apk.WriteIndex(index, key)
	if err != nil {
		return err
	}
	fmt.Fprintf(log, "%d packages in %s\n", len(index.Packages), out)
	return os.WriteFile(filepath.Join(out, "APKINDEX.tar.gz"), b, 0o644)
}

// finish turns a build into what the package writer takes.
func (b *build) finish(names map[string]string) (apk.Package, []apk.File, error) {
	p := apk.Package{Name: b.name, Version: b.version, Arch: arch, Description: b.description,
		Origin: b.origin, License: "see Debian's package", URL: "https://www.debian.org/"}
	var err error
	if p.Depends, err = apk.ParseDeps(b.depends + " " + b.needs(names)); err != nil {
		return p, nil, err
	}
	provides := b.provides
	for _, so := range b.sonames() {
		provides += " so:" + so + "=" + soVersion(so)
	}
	if p.Provides, err = apk.ParseDeps(provides); err != nil {
		return p, nil, err
	}
	if p.InstallIf, err = apk.ParseDeps(b.installIf); err != nil {
		return p, nil, err
	}
	newest := int64(0)
	for _, f := range b.files {
		if !f.ModTime.IsZero() {
			newest = max(newest, f.ModTime.Unix())
		}
	}
	if newest == 0 {
		newest = recipeTime
	}
	p.BuildTime = newest
	return p, b.apkFiles(newest), nil
}

// apkFiles returns the files with their folders before them.
func (b *build) apkFiles(at int64) []apk.File {
	for name := range b.files {
		for d := path.Dir(name); d != "."; d = path.Dir(d) {
			if b.files[d] == nil {
				b.files[d] = &file{Header: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
			}
		}
	}
	var list []apk.File
	for name, f := range b.files {
		h := f.Header
		h.Name = name
		h.Size = int64(len(f.content))
		h.ModTime = time.Unix(at, 0)
		content := f.content
		list = append(list, apk.File{Header: &h, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }})
	}
	return list
}

// sonames returns the libraries the package offers.
func (b *build) sonames() []string { return b.elfStrings(elf.DT_SONAME) }

// needs returns so: dependencies on libraries that other packages here offer.
func (b *build) needs(names map[string]string) string {
	var deps []string
	for _, so := range b.elfStrings(elf.DT_NEEDED) {
		if by := names[so]; by != "" && by != b.name {
			deps = append(deps, "so:"+so)
		}
	}
	return strings.Join(deps, " ")
}

func (b *build) elfStrings(tag elf.DynTag) []string {
	found := map[string]bool{}
	for name, f := range b.files {
		if f.Typeflag != tar.TypeReg || !bytes.HasPrefix(f.content, []byte(elf.ELFMAG)) || strings.Contains(name, ".ko") {
			continue
		}
		e, err := elf.NewFile(bytes.NewReader(f.content))
		if err != nil {
			continue
		}
		list, err := e.DynString(tag)
		if err != nil {
			continue
		}
		for _, s := range list {
			found[s] = true
		}
	}
	var list []string
	for s := range found {
		list = append(list, s)
	}
	sort.Strings(list)
	return list
}

// soVersion returns the version a soname is provided with: the number behind
// .so., or 0.
func soVersion(so string) string {
	_, v, _ := strings.Cut(so, ".so.")
	if !apk.ValidVersion(v) {
		return "0"
	}
	return v
}

// keyName is what the repository's key is called: Alpine's way, a name that
// says whose it is.
const keyName = "starter.rsa.pub"

// signingKey returns the repository's key, made on first use. It signs no
// more than this folder.
func signingKey(dir string) (*apk.Key, error) {
	name := filepath.Join(dir, "starter.rsa")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		private, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return nil, err
		}
		b = pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
		if err := os.WriteFile(name, b, 0o600); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("%s is no PEM file; remove it to have a new key made", name)
	}
	private, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w; remove it to have a new key made", name, err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		return nil, err
	}
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	if err := os.WriteFile(filepath.Join(dir, keyName), pub, 0o644); err != nil {
		return nil, err
	}
	return &apk.Key{Name: keyName, Private: private}, nil
}
