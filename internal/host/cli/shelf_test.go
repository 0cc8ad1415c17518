package cli

import (
	"archive/tar"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/layers/apk"
)

// shelf is a small repository that a bad one is made of.
type shelf struct {
	t     *testing.T
	dir   string
	key   *apk.Key
	index apk.Index
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	private, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{t: t, dir: t.TempDir(), key: &apk.Key{Name: "shelf.rsa.pub", Private: private}}
	public, err := s.key.Public()
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.dir+"/shelf.rsa.pub", string(public), 0o644)
	s.spec("")
	s.add(apk.Package{Name: "base"}, plain("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"))
	s.add(apk.Package{Name: "e2fsprogs"}) // the base overlay wants it
	return s
}

// spec writes the spec, with more in it.
func (s *shelf) spec(more string) {
	text := "name: shelf\nrelease: '1'\nboards: [vm]\nrepositories: [{url: repo, keys: [shelf.rsa.pub]}]\nkernel: {package: base}\n" +
		"slot-size: 34MiB\n"
	if !strings.Contains(more, "packages:") {
		text += "packages: [base]\n"
	}
	write(s.t, s.dir+"/image.yaml", text+more, 0o644)
}

func plain(name, text string) apk.File {
	return apk.File{Header: &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))},
		Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil }}
}

func linked(kind byte, name, to string) apk.File {
	return apk.File{Header: &tar.Header{Typeflag: kind, Name: name, Linkname: to, Mode: 0o777}}
}

// add writes a package and puts it into the index.
func (s *shelf) add(p apk.Package, files ...apk.File) {
	s.t.Helper()
	if p.Version == "" {
		p.Version = "1-r0"
	}
	p.Arch, p.BuildTime, p.License = "aarch64", 1700000000, "x"
	name := filepath.Join(s.dir, "repo/aarch64", p.FileName())
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		s.t.Fatal(err)
	}
	f, err := os.Create(name)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	record, err := apk.WritePackage(f, p, files, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.index.Packages = append(s.index.Packages, record)
	s.writeIndex()
}

func (s *shelf) writeIndex() {
	s.t.Helper()
	b, err := apk.WriteIndex(&s.index, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, s.dir+"/repo/aarch64/APKINDEX.tar.gz", string(b), 0o644)
}

// spoil changes a file of the repository.
func (s *shelf) spoil(name string, change func([]byte) []byte) {
	s.t.Helper()
	name = s.dir + "/" + name
	b, err := os.ReadFile(name)
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, name, string(change(b)), 0o644)
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:max(0, len(b)-n)] } }

func invert(fromEnd int) func([]byte) []byte {
	return func(b []byte) []byte { b[len(b)-fromEnd] ^= 0x55; return b }
}

func with(text string) func([]byte) []byte { return func([]byte) []byte { return []byte(text) } }

// deps reads a list of dependencies.
func deps(t *testing.T, text string) []apk.Dep {
	t.Helper()
	list, err := apk.ParseDeps(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}
