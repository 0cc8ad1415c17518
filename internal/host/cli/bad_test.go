package cli

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pikelet-os/pikelet/layers/apk"
)

// maxMemory is what a build that fails may take, in KiB; one that works takes
// half of it.
const maxMemory = 500 << 10

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
	{"a directory for a spec", func(s *shelf) { os.Remove(s.dir + "/image.yaml"); os.Mkdir(s.dir+"/image.yaml", 0o755) }, "is a directory"},
	{"an empty spec", func(s *shelf) { s.spoil("image.yaml", with("")) }, "image.yaml: name: \"\": want lower-case letters"},
	{"no YAML", func(s *shelf) { s.spoil("image.yaml", with("name: [x")) }, "image.yaml:1: did not find expected"},
	{"tabs", func(s *shelf) { s.spoil("image.yaml", with("name: x\nkernel:\n\tpackage: y\n")) },
		"image.yaml:3: the line is indented with a tab"},
	{"binary", func(s *shelf) { s.spoil("image.yaml", with("\x00\x01\x02")) }, "control characters are not allowed"},
	{"two documents", func(s *shelf) { s.spec("---\nname: other\n") }, "more than one YAML document"},
	{"a field twice", func(s *shelf) { s.spec("name: again\n") }, "already defined at line"},
	{"an unknown field", func(s *shelf) { s.spec("pakages: [a]\n") }, "pakages: there is no such field"},
	{"a wrong type", func(s *shelf) { s.spec("layers: yes\n") }, "this is text; want a list"},
	{"a YAML bomb", func(s *shelf) {
		s.spoil("image.yaml", with("a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d "+
			"[*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\npackages: "+
			"[*f,*f,*f,*f,*f,*f,*f,*f,*f]\n"))
	}, "image.yaml"},
	{"a missing key", func(s *shelf) { os.Remove(s.dir + "/shelf.rsa.pub") }, "repositories[0].keys[0]: no file shelf.rsa.pub"},
	{"an invalid key", func(s *shelf) { s.spoil("shelf.rsa.pub", with("-----")) },
		"reading the key \"shelf.rsa.pub\": want a PEM block PUBLIC KEY"},
	{"a key of another kind", func(s *shelf) {
		s.spoil("shelf.rsa.pub", with("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEnHT1bGjLsCzLNOgHk7l1m+Ai8o7Z\n"+
			"u2tNDqWvDYh6S0LkkhKsFVvLYJ0AkT2YuYoZq5Zp8Xz5Xb8mS5w0vQ5T4A==\n-----END PUBLIC KEY-----\n"))
	}, "reading the key \"shelf.rsa.pub\":"},
	{"an unknown tag", func(s *shelf) { s.spec("packages: [base, x@edge]\n") }, "no repository has the tag \"edge\""},
	{"an unknown overlay", func(s *shelf) { s.spec("overlays: [ghost]\n") },
		"overlay \"ghost\": not found among the built-in ones (backup, base, chrony, iscsi, k3s, luks, metallb, rollout, seed-node, ssh, wifi)"},
	{"an overlay without its parameter", func(s *shelf) { s.spec("overlays: [metallb]\n") },
		"overlay \"metallb\": with.chart: missing: address of the chart"},
	{"an overlay with a wrong parameter", func(s *shelf) {
		s.spec("overlays: [{name: ssh, with: {keys: ssh-rsa x, port: many, " +
			"pot: '1'}}]\n")
	}, "with.pot: it has no such parameter; it has: keys, port"},
	{"overlays that clash", func(s *shelf) {
		for _, o := range []string{"one", "two"} {
			write(s.t, s.dir+"/"+o+"/overlay.yaml", "sysctls: {vm.swappiness: '"+o+"'}\n", 0o644)
			write(s.t, s.dir+"/"+o+"/files/etc/x", o, 0o644)
		}
		s.spec("overlays: [./one, ./two]\n")
	}, "the overlays ./one and ./two clash: both have the file /etc/x"},

	// Repositories and indexes.
	{"no repository", func(s *shelf) { os.RemoveAll(s.dir + "/repo") }, "repository repo: "},
	{"an unreachable repository", func(s *shelf) {
		s.spoil("image.yaml", func(b []byte) []byte {
			return bytes.Replace(b, []byte("url: repo"), []byte("url: 'http://127.0.0.1:9'"), 1)
		})
	}, "repository http://127.0.0.1:9: "},
	{"an empty index", func(s *shelf) { s.spoil(indexFile, with("")) }, "repository repo: reading an index: not gzip"},
	{"an index that is HTML", func(s *shelf) { s.spoil(indexFile, with("<html>not found</html>")) }, "not gzip"},
	{"an empty index of format 3", func(s *shelf) { s.spoil(indexFile, with("ADB.indx")) }, "no block of values in the file"},
	{"a cut index of format 3", func(s *shelf) { s.spoil(indexFile, with("ADBd0000")) }, "reading an index: reading the header: "},
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
	{"an index of an unknown key", func(s *shelf) { s.key.Name = "stranger.rsa.pub"; s.writeIndex() },
		"shelf.rsa.pub is the right key under another name: rename the file to stranger.rsa.pub"},
	{"an index bomb", func(s *shelf) { s.index.Description = strings.Repeat("\x00", 65<<20); s.writeIndex() }, "reading an index: "},
	{"a package name that climbs", func(s *shelf) { s.index.Packages[0].Name = "../../etc/x"; s.writeIndex() },
		"invalid package name \"../../etc/x-1-r0\""},
	{"a record without identity", func(s *shelf) { s.index.Packages[0].Identity = ""; s.writeIndex() }, "has no name, version or identity"},
	{"a negative size", func(s *shelf) { s.index.Packages[0].Size = -5; s.writeIndex() }, "base"},
	{"another architecture", func(s *shelf) { s.index.Packages[0].Arch = "x86_64"; s.writeIndex() },
		"base: a repository has it for x86_64, which images for aarch64 cannot use"},

	// Choosing packages.
	{"a missing package", func(s *shelf) { s.spec("packages: [ghost]\n") }, "no package ghost"},
	{"a missing dependency", func(s *shelf) {
		s.add(apk.Package{Name: "a", Depends: deps(s.t, "so:libghost.so.1")})
		s.spec("packages: [a]\n")
	}, "no package so:libghost.so.1, needed by a"},
	{"a missing version", func(s *shelf) { s.spec("packages: [base>9]\n") }, "base"},
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
	{"a package that was removed", func(s *shelf) { os.Remove(s.dir + "/" + baseFile) },
		"hint: pikelet lock image.yaml chooses among the packages that are there"},
	{"a cut package", func(s *shelf) { s.spoil(baseFile, cut(50)) }, "and "},
	{"a package with more behind it", func(s *shelf) { s.spoil(baseFile, func(b []byte) []byte { return append(b, "more"...) }) },
		"were announced"},
	{"changed files in a package", func(s *shelf) { s.spoil(baseFile, invert(20)) }, "package base-1-r0: "},
	{"a changed signature", func(s *shelf) { s.spoil(baseFile, func(b []byte) []byte { b[100] ^= 1; return b }) }, "package base-1-r0: "},
	{"a package of zeros", func(s *shelf) { s.spoil(baseFile, func(b []byte) []byte { return make([]byte, len(b)) }) },
		"package base-1-r0: not gzip"},
	{"another build of a version", func(s *shelf) { s.index.Packages[0].Identity = "Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA="; s.writeIndex() },
		"another build of the same version"},
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
	{"a file over a directory", func(s *shelf) { s.add(apk.Package{Name: "a"}, plain("etc", "x")); s.spec("packages: [base, a]\n") },
		"is a directory in one layer and not in another"},
	{"a package bomb", func(s *shelf) {
		s.add(apk.Package{Name: "a"}, apk.File{Header: &tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: 300 << 20},
			Open: func() (io.ReadCloser, error) { return io.NopCloser(io.LimitReader(zeros{}, 300<<20)), nil }})
		s.spec("packages: [a]\n")
	}, "more than 272 MiB, more than its slots can hold"},
	{"no kernel", func(s *shelf) {}, "the packages hold 0 kernels in /boot"},

	// Layers.
	{"a missing directory layer", func(s *shelf) { s.spec("layers: [{folder: none}]\n") },
		"layers[0].folder: directory none not found"},
	{"a socket in a directory layer", func(s *shelf) { must(s.t, s.dir, "mkdir f && mkfifo f/pipe"); s.spec("layers: [{folder: f}]\n") },
		"f/pipe is neither file, directory nor link"},
	{"a tar layer that is a directory", func(s *shelf) { os.Mkdir(s.dir+"/f", 0o755); s.spec("layers: [{tar: f}]\n") },
		"layers[0].tar: no file f"},
	{"a missing OCI layer", func(s *shelf) { s.spec("layers: [{oci: 'oci:none'}]\n") }, "want a directory with an OCI layout"},
	{"an invalid OCI reference", func(s *shelf) { s.spec("layers: [{oci: 'Bad Ref'}]\n") }, "layer oci Bad Ref: "},
	{"an OCI layer for another machine", func(s *shelf) {
		must(s.t, s.dir, "mkdir -p o/blobs/sha256 && echo '{\"imageLayoutVersion\":\"1.0.0\"}' > o/oci-layout && echo "+
			"'{\"schemaVersion\":2,\"manifests\":[]}' > o/index.json")
		s.spec("layers: [{oci: 'oci:o'}]\n")
	}, "0 images fit linux/arm64"},
	{"two kinds in one layer", func(s *shelf) { s.spec("layers: [{folder: a, tar: b}]\n") },
		"want one of folder: PATH, tar: FILE and oci: REFERENCE"},

	// Keys, locks and vendors.
	{"a signing key the spec does not name", func(s *shelf) {
		must(s.t, s.dir, "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -out release.pub 2>/dev/null")
		s.spec("keys: [release.pub]\n")
	}, "the key that signs is none of the spec's keys (release.pub)"},
	{"an invalid public key", func(s *shelf) { write(s.t, s.dir+"/release.pub", "x", 0o644); s.spec("keys: [release.pub]\n") },
		"keys: release.pub: reading a public key: want a PEM block PUBLIC KEY"},
	{"an empty lock", func(s *shelf) { write(s.t, s.dir+"/image.yaml.lock", "", 0o644) },
		"image.yaml.lock: reading the lock: the file is empty"},
	{"an invalid lock", func(s *shelf) { write(s.t, s.dir+"/image.yaml.lock", "packages: 7\n", 0o644) },
		"image.yaml.lock: reading the lock: "},
	{"a lock that climbs", func(s *shelf) {
		write(s.t, s.dir+"/image.yaml.lock", "format: 1\nepoch: 1\npackages: [{name: ../x, version: '1', arch: aarch64, repository: repo, "+
			"identity: Q1x=, size: 1}]\n", 0o644)
	}, "invalid package name \"../x-1\""},
	{"a missing vendor directory", func(s *shelf) { s.spec("vendor: kept\n") },
		"opening the vendor directory \"kept\": file does not exist\nhint: create it: pikelet vendor image.yaml kept"},
	{"an output that is a file", func(s *shelf) { write(s.t, s.dir+"/out", "x", 0o644) }, "out: not a directory"},
}

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
