package cli

import (
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/adbtest"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// addFormat3 writes a package of format 3 into the repository, and the
// repository's index in that format in place of its own: the packages of
// format 2 are in it too. The index is as old as the package.
func (s *shelf) addFormat3(text string, built int) {
	s.t.Helper()
	text += "\narch aarch64\nlicense x\nbuild-time " + strconv.Itoa(built)
	parts := adbtest.Package(text)
	keys := []crypto.Signer{s.key.Private}
	file := adbtest.Signed(adbtest.Zstd, "pckg", parts.Values, keys, parts.Data...)
	f := strings.Fields(text) // name and version come first
	write(s.t, fmt.Sprintf("%s/repo/aarch64/%s-%s.apk", s.dir, f[1], f[3]), string(file), 0o644)
	sum := sha256.Sum256(parts.Values)
	records := adbtest.Array{adbtest.Record(fmt.Sprintf("%s\nfile-size %d\nhashes %q", text, len(file), sum))}
	for _, p := range s.index.Packages {
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.Identity, "Q1"))
		if err != nil {
			s.t.Fatal(err)
		}
		records = append(records, adbtest.Record(fmt.Sprintf("name %s\nversion %s\narch %s\nfile-size %d\nbuild-time %d\nhashes %q",
			p.Name, p.Version, p.Arch, p.Size, min(p.BuildTime, int64(built)), sum)))
	}
	index := adbtest.Signed(adbtest.Deflate, "indx", adbtest.Values(adbtest.List{"a shelf", records}), keys)
	write(s.t, s.dir+"/repo/aarch64/Packages.adb", string(index), 0o644)
	if err := os.RemoveAll(s.dir + "/repo/aarch64/APKINDEX.tar.gz"); err != nil {
		s.t.Fatal(err)
	}
}

const app3 = "name app\nversion 1-r0\ndepends two\ndir srv 755 root root\nfile srv/app 640 root daemon 1600000000 app\n" +
	"link srv/link 777 root root 1600000000 app"

// TestLocksOfFormat3: a repository of format 3 with packages of both formats is
// locked, and an index that is older than the lock's is refused.
func TestLocksOfFormat3(t *testing.T) {
	s := newShelf(t)
	s.add(apk.Package{Name: "two"})
	s.spec("packages: [app]\n")
	s.addFormat3(app3, 1700000000)
	ok(t, s.dir, "lock", "image.yaml")
	pinned := mustRead(t, s.dir+"/image.yaml.lock")
	for _, want := range []string{"name: app\n", "identity: Q2", "identity: Q1", "    newest: 1700000000\n"} {
		if !strings.Contains(pinned, want) {
			t.Errorf("the lock has no %q:\n%s", want, pinned)
		}
	}
	s.addFormat3(app3, 1600000000)
	fails(t, s.dir, []string{"lock", "image.yaml"}, "repository repo: the index is older than the one the lock was made with")
	s.addFormat3(app3, 1700000001)
	if out := ok(t, s.dir, "lock", "image.yaml"); !strings.Contains(out, "~ app 1-r0: another build of the same version") {
		t.Errorf("another build of the package: the lock says\n%s", out)
	}
	if err := os.Remove(s.dir + "/repo/aarch64/Packages.adb"); err != nil {
		t.Fatal(err)
	}
	fails(t, s.dir, []string{"lock", "image.yaml"}, "APKINDEX.tar.gz is not there any more")
}

// TestBuildsOfFormat3: an image takes packages of both formats from one
// repository; it is the same from a vendor's copy, and with another file under
// the pinned name there is none.
func TestBuildsOfFormat3(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	s := newShelf(t)
	s.add(apk.Package{Name: "two"}, plain("srv/two", "two"))
	s.addFormat3(app3, 1700000000)
	spec := strings.Replace(mustRead(t, dir+"/image.yaml"), "packages: [",
		"  - {url: "+s.dir+"/repo, keys: ["+s.dir+"/shelf.rsa.pub]}\npackages: [app, ", 1)
	write(t, dir+"/image.yaml", spec, 0o644)
	ok(t, dir, "lock", "image.yaml")
	built := ok(t, dir, "build", "-o", "out", "image.yaml")
	tree := mustRead(t, dir+"/out/tree.txt")
	for _, want := range []string{"f 0640 0:2 3 1600000000 ", " /srv/app\n", " /srv/two\n", "l 0777 0:0 0 1600000000 -> app /srv/link\n"} {
		if !strings.Contains(tree, want) {
			t.Errorf("the tree has no %q:\n%s", want, tree)
		}
	}
	ok(t, dir, "vendor", "image.yaml", "kept")
	must(t, dir, "rm -rf cache")
	if out := ok(t, dir, "build", "--vendor", "kept", "--offline", "-o", "out", "image.yaml"); digestLine(t, out) != digestLine(t, built) {
		t.Error("built from a vendor's copy it is another image")
	}
	must(t, dir, "rm -rf cache")
	s.spoil("repo/aarch64/app-1-r0.apk", invert(40))
	fails(t, dir, []string{"build", "-o", "out", "image.yaml"}, "package app-1-r0: ")
}
