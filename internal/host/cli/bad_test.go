package cli

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pikelet-os/pikelet/internal/tools/full"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// maxMemory is what a build that fails may take, in KiB; one that works takes
// half of it.
const maxMemory = 500 << 10

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
	text := "name: shelf\nrelease: '1'\nboards: [vm]\nrepositories: [{url: repo, keys: [shelf.rsa.pub]}]\nkernel: {package: base}\nslot-size: 34MiB\n"
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

const (
	indexFile = "repo/aarch64/APKINDEX.tar.gz"
	baseFile  = "repo/aarch64/base-1-r0.apk"
)

// badInputs are what a build may meet. Each must end it with an error that
// says what and where, within bounded memory, and with nothing half-written.
var badInputs = []struct {
	what string
	make func(*shelf)
	want string
}{
	// The spec.
	{"no spec", func(s *shelf) { os.Remove(s.dir + "/image.yaml") }, "image.yaml: no such file"},
	{"a folder for a spec", func(s *shelf) { os.Remove(s.dir + "/image.yaml"); os.Mkdir(s.dir+"/image.yaml", 0o755) }, "is a directory"},
	{"an empty spec", func(s *shelf) { s.spoil("image.yaml", with("")) }, "image.yaml: name: \"\": want lower-case letters"},
	{"no YAML", func(s *shelf) { s.spoil("image.yaml", with("name: [x")) }, "image.yaml:1: did not find expected"},
	{"tabs", func(s *shelf) { s.spoil("image.yaml", with("name: x\nkernel:\n\tpackage: y\n")) }, "image.yaml:3: the line is indented with a tab"},
	{"binary", func(s *shelf) { s.spoil("image.yaml", with("\x00\x01\x02")) }, "control characters are not allowed"},
	{"two documents", func(s *shelf) { s.spec("---\nname: other\n") }, "more than one YAML document"},
	{"a field twice", func(s *shelf) { s.spec("name: again\n") }, "already defined at line"},
	{"an unknown field", func(s *shelf) { s.spec("pakages: [a]\n") }, "pakages: there is no such field"},
	{"a wrong type", func(s *shelf) { s.spec("layers: yes\n") }, "this is text; want a list"},
	{"a YAML bomb", func(s *shelf) {
		s.spoil("image.yaml", with("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\npackages: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"))
	}, "image.yaml"},
	{"a missing key", func(s *shelf) { os.Remove(s.dir + "/shelf.rsa.pub") }, "repositories[0].keys[0]: no file shelf.rsa.pub"},
	{"a key that is none", func(s *shelf) { s.spoil("shelf.rsa.pub", with("-----")) }, "reading the key \"shelf.rsa.pub\": want a PEM block PUBLIC KEY"},
	{"a key of another kind", func(s *shelf) {
		s.spoil("shelf.rsa.pub", with("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEnHT1bGjLsCzLNOgHk7l1m+Ai8o7Z\nu2tNDqWvDYh6S0LkkhKsFVvLYJ0AkT2YuYoZq5Zp8Xz5Xb8mS5w0vQ5T4A==\n-----END PUBLIC KEY-----\n"))
	}, "reading the key \"shelf.rsa.pub\":"},
	{"an unknown tag", func(s *shelf) { s.spec("packages: [base, x@edge]\n") }, "no repository has the tag \"edge\""},
	{"an overlay that is not there", func(s *shelf) { s.spec("overlays: [ghost]\n") }, "overlay \"ghost\": not found among the built-in ones (base, chrony, iscsi, k3s, metallb, seed-node, ssh, wifi)"},
	{"an overlay without its parameter", func(s *shelf) { s.spec("overlays: [metallb]\n") }, "overlay \"metallb\": with.chart: missing: address of the chart"},
	{"an overlay with a wrong parameter", func(s *shelf) { s.spec("overlays: [{name: ssh, with: {keys: ssh-rsa x, port: many, pot: '1'}}]\n") }, "with.pot: it has no such parameter; it has: keys, port"},
	{"overlays that clash", func(s *shelf) {
		for _, o := range []string{"one", "two"} {
			write(s.t, s.dir+"/"+o+"/overlay.yaml", "sysctls: {vm.swappiness: '"+o+"'}\n", 0o644)
			write(s.t, s.dir+"/"+o+"/files/etc/x", o, 0o644)
		}
		s.spec("overlays: [./one, ./two]\n")
	}, "the overlays ./one and ./two clash: both have the file /etc/x"},

	// Repositories and indexes.
	{"no repository", func(s *shelf) { os.RemoveAll(s.dir + "/repo") }, "repository repo: "},
	{"a repository nobody serves", func(s *shelf) {
		s.spoil("image.yaml", func(b []byte) []byte {
			return bytes.Replace(b, []byte("url: repo"), []byte("url: 'http://127.0.0.1:9'"), 1)
		})
	}, "repository http://127.0.0.1:9: "},
	{"an empty index", func(s *shelf) { s.spoil(indexFile, with("")) }, "repository repo: reading an index: not gzip"},
	{"an index that is HTML", func(s *shelf) { s.spoil(indexFile, with("<html>not found</html>")) }, "not gzip"},
	{"an index in format 3", func(s *shelf) { s.spoil(indexFile, with("ADB.indx")) }, "unsupported apk format 3 (ADB)"},
	{"a compressed index in format 3", func(s *shelf) { s.spoil(indexFile, with("ADBd0000")) }, "apk format 3 (ADB)"},
	{"a cut index", func(s *shelf) { s.spoil(indexFile, cut(40)) }, "changed after it was signed"},
	{"an index cut in its signature", func(s *shelf) { s.spoil(indexFile, func(b []byte) []byte { return b[:60] }) }, "unexpected EOF"},
	{"a changed index", func(s *shelf) { s.spoil(indexFile, invert(30)) }, "changed after it was signed"},
	{"an index without signature", func(s *shelf) {
		s.spoil(indexFile, func(b []byte) []byte { return b[bytes.LastIndex(b, []byte{0x1f, 0x8b, 8}):] })
	}, "the file is not signed"},
	{"an index of another key", func(s *shelf) {
		o := newShelf(s.t)
		s.spoil("shelf.rsa.pub", with(mustRead(s.t, o.dir+"/shelf.rsa.pub")))
	}, "changed after it was signed"},
	{"an index of an unknown key", func(s *shelf) { s.key.Name = "stranger.rsa.pub"; s.writeIndex() }, "shelf.rsa.pub is the right key under another name: rename the file to stranger.rsa.pub"},
	{"an index bomb", func(s *shelf) { s.index.Description = strings.Repeat("\x00", 65<<20); s.writeIndex() }, "reading an index: "},
	{"a package name that climbs", func(s *shelf) { s.index.Packages[0].Name = "../../etc/x"; s.writeIndex() }, "invalid package name \"../../etc/x-1-r0\""},
	{"a record without identity", func(s *shelf) { s.index.Packages[0].Identity = ""; s.writeIndex() }, "has no name, version or identity"},
	{"a negative size", func(s *shelf) { s.index.Packages[0].Size = -5; s.writeIndex() }, "base"},
	{"another architecture", func(s *shelf) { s.index.Packages[0].Arch = "x86_64"; s.writeIndex() }, "base: a repository has it for x86_64, which images for aarch64 cannot use"},

	// Choosing packages.
	{"a package nobody has", func(s *shelf) { s.spec("packages: [ghost]\n") }, "no package ghost"},
	{"a dependency nobody has", func(s *shelf) {
		s.add(apk.Package{Name: "a", Depends: deps(s.t, "so:libghost.so.1")})
		s.spec("packages: [a]\n")
	}, "no package so:libghost.so.1, needed by a"},
	{"a version nobody has", func(s *shelf) { s.spec("packages: [base>9]\n") }, "base"},
	{"packages that exclude each other", func(s *shelf) {
		s.add(apk.Package{Name: "a", Depends: deps(s.t, "!b")})
		s.add(apk.Package{Name: "b"})
		s.spec("packages: [a, b]\n")
	}, "a does not go together with b-1-r0"},
	{"a circle that excludes itself", func(s *shelf) {
		s.add(apk.Package{Name: "a", Depends: deps(s.t, "b")})
		s.add(apk.Package{Name: "b", Depends: deps(s.t, "c")})
		s.add(apk.Package{Name: "c", Depends: deps(s.t, "a !b")})
		s.spec("packages: [a]\n")
	}, "c does not go together with b-1-r0"},
	{"several could be meant", func(s *shelf) {
		s.add(apk.Package{Name: "x", Provides: deps(s.t, "editor")})
		s.add(apk.Package{Name: "y", Provides: deps(s.t, "editor")})
		s.spec("packages: [editor]\n")
	}, "editor can be had from x or y; add the one you want to packages"},

	// Packages.
	{"a package that is gone", func(s *shelf) { os.Remove(s.dir + "/" + baseFile) }, "hint: pikelet lock image.yaml chooses among the packages that are there"},
	{"a cut package", func(s *shelf) { s.spoil(baseFile, cut(50)) }, "and "},
	{"a package with more behind it", func(s *shelf) { s.spoil(baseFile, func(b []byte) []byte { return append(b, "more"...) }) }, "were announced"},
	{"changed files in a package", func(s *shelf) { s.spoil(baseFile, invert(20)) }, "package base-1-r0: "},
	{"a changed signature", func(s *shelf) { s.spoil(baseFile, func(b []byte) []byte { b[100] ^= 1; return b }) }, "package base-1-r0: "},
	{"a package of zeros", func(s *shelf) { s.spoil(baseFile, func(b []byte) []byte { return make([]byte, len(b)) }) }, "package base-1-r0: not gzip"},
	{"another build of a version", func(s *shelf) { s.index.Packages[0].Identity = "Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA="; s.writeIndex() }, "another build of the same version"},
	{"another package under the name", func(s *shelf) {
		s.add(apk.Package{Name: "othr"}, plain("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"))
		b := mustRead(s.t, s.dir+"/repo/aarch64/othr-1-r0.apk")
		write(s.t, s.dir+"/"+baseFile, b, 0o644)
		s.index.Packages[0].Identity, s.index.Packages[0].Size = s.index.Packages[2].Identity, int64(len(b))
		s.writeIndex()
	}, "the .PKGINFO names othr-1-r0"},
	{"a package that climbs", func(s *shelf) {
		s.add(apk.Package{Name: "a"}, plain("../../../etc/cron.d/x", "x"))
		s.spec("packages: [a]\n")
	}, "climbs out of the root"},
	{"a hard link that climbs", func(s *shelf) {
		s.add(apk.Package{Name: "a"}, linked(tar.TypeLink, "h", "../../../etc/shadow"))
		s.spec("packages: [a]\n")
	}, "climbs out of the root"},
	{"a hard link to nothing", func(s *shelf) {
		s.add(apk.Package{Name: "a"}, linked(tar.TypeLink, "h", "ghost"))
		s.spec("packages: [a]\n")
	}, "is a hard link to \"ghost\", which is not a file of the tree"},
	{"links in a circle", func(s *shelf) {
		s.add(apk.Package{Name: "a"}, linked(tar.TypeSymlink, "l", "l"), plain("l/x", "x"))
		s.spec("packages: [a]\n")
	}, "leads through more than 40 symbolic links"},
	{"two owners of a file", func(s *shelf) {
		s.add(apk.Package{Name: "a"}, plain("etc/passwd", "x"))
		s.spec("packages: [base, a]\n")
	}, "/etc/passwd belongs to "},
	{"a file over a folder", func(s *shelf) { s.add(apk.Package{Name: "a"}, plain("etc", "x")); s.spec("packages: [base, a]\n") }, "is a directory in one layer and not in another"},
	{"a package bomb", func(s *shelf) {
		s.add(apk.Package{Name: "a"}, apk.File{Header: &tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: 300 << 20},
			Open: func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, 300<<20)), nil }})
		s.spec("packages: [a]\n")
	}, "more than 272 MiB, more than its slots can hold"},
	{"no kernel", func(s *shelf) {}, "the packages hold 0 kernels in /boot"},

	// Layers.
	{"a folder layer that is not there", func(s *shelf) { s.spec("layers: [{folder: none}]\n") }, "layers[0].folder: directory none not found"},
	{"a socket in a folder layer", func(s *shelf) { must(s.t, s.dir, "mkdir f && mkfifo f/pipe"); s.spec("layers: [{folder: f}]\n") }, "f/pipe is neither file, directory nor link"},
	{"a tar layer that is a folder", func(s *shelf) { os.Mkdir(s.dir+"/f", 0o755); s.spec("layers: [{tar: f}]\n") }, "layers[0].tar: no file f"},
	{"an OCI layer that is none", func(s *shelf) { s.spec("layers: [{oci: 'oci:none'}]\n") }, "want a directory with an OCI layout"},
	{"an OCI reference that is none", func(s *shelf) { s.spec("layers: [{oci: 'Bad Ref'}]\n") }, "layer oci Bad Ref: "},
	{"an OCI layer for another machine", func(s *shelf) {
		must(s.t, s.dir, "mkdir -p o/blobs/sha256 && echo '{\"imageLayoutVersion\":\"1.0.0\"}' > o/oci-layout && echo '{\"schemaVersion\":2,\"manifests\":[]}' > o/index.json")
		s.spec("layers: [{oci: 'oci:o'}]\n")
	}, "0 images fit linux/arm64"},
	{"two kinds in one layer", func(s *shelf) { s.spec("layers: [{folder: a, tar: b}]\n") }, "want one of folder: PATH, tar: FILE and oci: REFERENCE"},

	// Keys, locks and vendors.
	{"a signing key the spec does not name", func(s *shelf) {
		must(s.t, s.dir, "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -out release.pub 2>/dev/null")
		s.spec("keys: [release.pub]\n")
	}, "the key that signs is none of the spec's keys (release.pub)"},
	{"a public key that is none", func(s *shelf) { write(s.t, s.dir+"/release.pub", "x", 0o644); s.spec("keys: [release.pub]\n") }, "keys: release.pub: want a PEM block PUBLIC KEY"},
	{"an empty lock", func(s *shelf) { write(s.t, s.dir+"/image.yaml.lock", "", 0o644) }, "image.yaml.lock: reading the lock: the file is empty"},
	{"a lock that is none", func(s *shelf) { write(s.t, s.dir+"/image.yaml.lock", "packages: 7\n", 0o644) }, "image.yaml.lock: reading the lock: "},
	{"a lock that climbs", func(s *shelf) {
		write(s.t, s.dir+"/image.yaml.lock", "format: 1\nepoch: 1\npackages: [{name: ../x, version: '1', arch: aarch64, repository: repo, identity: Q1x=, size: 1}]\n", 0o644)
	}, "invalid package name \"../x-1\""},
	{"a vendor that is not there", func(s *shelf) { s.spec("vendor: kept\n") }, "opening the vendor directory \"kept\": file does not exist\nhint: create it: pikelet vendor image.yaml kept"},
	{"an output that is a file", func(s *shelf) { write(s.t, s.dir+"/out", "x", 0o644) }, "out: not a directory"},
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func mustRead(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestBadInputs(t *testing.T) {
	if len(badInputs) < 60 {
		t.Errorf("only %d bad inputs", len(badInputs))
	}
	for _, c := range badInputs {
		s := newShelf(t)
		c.make(s)
		cmd := exec.Command(os.Args[0], "build", "-o", "out", "image.yaml")
		cmd.Dir = s.dir
		cmd.Env = []string{"BE_PIKELET=1", "HOME=" + s.dir, "XDG_CACHE_HOME=" + s.dir + "/cache", "PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() < 1 || cmd.ProcessState.ExitCode() > 2 || strings.Contains(string(out), "goroutine ") {
			t.Errorf("%s: %v\n%s", c.what, err, out)
		}
		if !strings.Contains(string(out), c.want) {
			t.Errorf("%s: no %q in\n%.2000s", c.what, c.want, out)
		}
		if kib := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; kib > maxMemory {
			t.Errorf("%s: it took %d MiB", c.what, kib>>10)
		}
		if left, _ := filepath.Glob(s.dir + "/out/*"); len(left) > 0 {
			t.Errorf("%s: it left %v", c.what, left)
		}
		if left, _ := filepath.Glob(s.dir + "/out/.*"); len(left) > 0 {
			t.Errorf("%s: it left %v", c.what, left)
		}
	}
}

// TestFullDisk builds on a file system that fills up.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	must(t, dir, "mkdir small")
	if err := syscall.Mount("tmpfs", dir+"/small", "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	defer syscall.Unmount(dir+"/small", 0)
	fails(t, dir, []string{"build", "-o", "small/out", "image.yaml"}, "no space left on device")
	if left, _ := filepath.Glob(dir + "/small/out/*"); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	fails(t, dir, []string{"vendor", "image.yaml", "small/kept"}, "hint: create it: pikelet lock image.yaml")
	ok(t, dir, "lock", "image.yaml")
	fails(t, dir, []string{"vendor", "image.yaml", "small/kept"}, "no space left on device")
	must(t, dir, "! find small -name '.part-*' | grep .")
}

// atLine passes on what a program says, and calls then when it said so many
// lines.
type atLine struct {
	out   bytes.Buffer
	lines int
	then  func()
}

func (a *atLine) Write(b []byte) (int, error) {
	a.out.Write(b)
	if a.then != nil && bytes.Count(a.out.Bytes(), []byte("\n")) >= a.lines {
		a.then()
		a.then = nil
	}
	return len(b), nil
}

// TestInterrupted interrupts and kills builds after many of the lines they say:
// what was there stays whole, the next build works, and nothing is left of the
// others.
func TestInterrupted(t *testing.T) {
	dir, _, _ := mirror(t)
	said := ok(t, dir, "build", "-o", "out", "image.yaml")
	digest, lines := digestLine(t, said), strings.Count(said, "\n")
	before := mustRead(t, dir+"/out/manifest.json")
	times := 6
	if full.Tests {
		times = 14
	}
	for n := range times {
		cmd := exec.Command(os.Args[0], "build", "-o", "out", "image.yaml")
		cmd.Dir = dir
		cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "PATH=" + os.Getenv("PATH")}
		signal := []os.Signal{os.Interrupt, os.Kill}[n%2]
		out := &atLine{lines: 1 + n*(lines-2)/times, then: func() { cmd.Process.Signal(signal) }}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil && signal == os.Interrupt {
			if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(out.out.String(), "interrupted") {
				t.Errorf("interrupted: exit %d\n%s", code, out.out.String())
			}
			if left, _ := filepath.Glob(dir + "/out/.*"); len(left) > 0 {
				t.Errorf("interrupted: it left %v", left)
			}
		}
		if mustRead(t, dir+"/out/manifest.json") != before {
			t.Error("what was there changed")
		}
		ok(t, dir, "inspect", "out")
	}
	if again := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml")); again != digest {
		t.Error("the build after is another image")
	}
	if left, _ := filepath.Glob(dir + "/out/.*"); len(left) > 0 {
		t.Errorf("killed builds left %v", left)
	}
	must(t, dir, "rm -rf cache/pikelet/packages/.download-*; ! ls -A cache/pikelet/packages | grep '^\\.'")
}

// TestBuildsSideBySide shares one cache between builds, and refuses to share
// one output folder.
func TestBuildsSideBySide(t *testing.T) {
	dir, _, _ := mirror(t)
	type result struct {
		out  string
		code int
	}
	results := make(chan result)
	for n := range 3 {
		go func() {
			out, code := pikelet(t, dir, []string{"XDG_CACHE_HOME=" + dir + "/cache"}, "build", "--sign-key", "key", "-o", fmt.Sprint("out", n), "image.yaml")
			results <- result{out, code}
		}()
		if n == 0 {
			if err := makeKey(dir + "/key"); err != nil {
				t.Fatal(err)
			}
		}
	}
	digests := map[string]bool{}
	for range 3 {
		r := <-results
		if r.code != 0 {
			t.Fatalf("exit %d\n%s", r.code, r.out)
		}
		digests[digestLine(t, r.out)] = true
	}
	if len(digests) != 1 {
		t.Errorf("builds side by side made %d images", len(digests))
	}
	lock, err := os.Create(dir + "/out0/.lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // as a build does
		t.Fatal(err)
	}
	fails(t, dir, []string{"build", "-o", "out0", "image.yaml"}, "another build is writing to output directory \"out0\"", "hint: choose another output directory")
}

// TestUnreadable builds as somebody who may not read a layer, write the
// output, or use the cache.
func TestUnreadable(t *testing.T) {
	if testing.Short() {
		t.Skip("it needs root, to become somebody else")
	}
	s := newShelf(t)
	must(t, s.dir, "mkdir -p files/secret shut home && echo x > files/secret/x && cp "+os.Args[0]+" pikelet && chmod 755 pikelet . .. && chmod 700 files/secret shut && chown 65534:65534 home")
	build := func(args ...string) string {
		cmd := exec.Command(s.dir+"/pikelet", append([]string{"build"}, args...)...)
		cmd.Dir = s.dir
		cmd.Env = []string{"BE_PIKELET=1", "HOME=" + s.dir + "/home", "PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%v: no error\n%s", args, out)
		}
		return string(out)
	}
	if out := build("-o", "shut/out", "image.yaml"); !strings.Contains(out, "shut/out: permission denied") {
		t.Errorf("a folder that may not be written:\n%s", out)
	}
	s.spec("layers: [{folder: files}]\n")
	if out := build("-o", "home/out", "image.yaml"); !strings.Contains(out, "layer folder files: ") || !strings.Contains(out, "files/secret: permission denied") {
		t.Errorf("a folder that may not be read:\n%s", out)
	}
	s.spoil("image.yaml", func(b []byte) []byte { return bytes.Replace(b, []byte("url: repo"), []byte("url: shut"), 1) })
	if out := build("-o", "home/out", "image.yaml"); !strings.Contains(out, "repository shut: ") || !strings.Contains(out, "permission denied") {
		t.Errorf("a repository that may not be read:\n%s", out)
	}
	if left, _ := filepath.Glob(s.dir + "/home/out/*"); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}
