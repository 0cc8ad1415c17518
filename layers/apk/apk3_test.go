//go:build oracle

package apk

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/testing/adbtest"
)

// The real apk judges format 3, both what we read and what adbtest writes: make
// oracle-adb APK=FILE, as root, where FILE is apk of apk-tools 3.
var apk3 = flag.String("apk3", "", "apk of apk-tools 3, to make and read packages of format 3")

// judge is apk with keys of ours in a directory.
type judge struct {
	t       *testing.T
	dir     string
	rsa, ec crypto.Signer
	key     *Key
	ring    Keyring
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	if *apk3 == "" {
		t.Fatal("no -apk3")
	}
	j := &judge{t: t, dir: t.TempDir(), ring: Keyring{}}
	key, ring := newKey(t, "rsa.pub")
	ec, ecRing := newECKey(t, "ec.pub")
	j.key, j.rsa, j.ec = key, key.Private, ec
	for name, public := range map[string]crypto.PublicKey{"rsa.pub": ring["rsa.pub"], "ec.pub": ecRing["ec.pub"]} {
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		j.ring[name] = public
		j.write("keys/"+name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	for name, private := range map[string]any{"rsa.key": j.rsa, "ec.key": j.ec} {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		j.write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	return j
}

// write returns the path of a file in the judge's directory.
func (j *judge) write(name string, b []byte) string {
	j.t.Helper()
	name = j.dir + "/" + name
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		j.t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o644); err != nil {
		j.t.Fatal(err)
	}
	return name
}

// try runs apk.
func (j *judge) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, *apk3, append([]string{"--keys-dir", j.dir + "/keys"}, args...)...).CombinedOutput()
	return string(out), err
}

func (j *judge) run(args ...string) string {
	j.t.Helper()
	out, err := j.try(args...)
	if err != nil {
		j.t.Fatalf("apk %q: %v\n%s", args, err, out)
	}
	return out
}

// extracted leaves out what apk extract does not set: attributes of directories,
// and those that the owner's change takes away.
func extracted(all map[string]seen) map[string]seen {
	for name, s := range all {
		delete(s.xattrs, "security.capability")
		if s.kind == "dir" {
			s.xattrs = nil
		}
		all[name] = s
	}
	return all
}

func (j *judge) same(what string, want, got map[string]seen) {
	j.t.Helper()
	if diff := cmp.Diff(twins(want), twins(got), cmp.AllowUnexported(seen{})); diff != "" {
		j.t.Errorf("%s (-apk +ours):\n%.2000s", what, diff)
	}
}

// TestEncoderAsApk3: apk accepts the packages that the tests of the reader are
// made of, and unpacks the files from them that we do.
func TestEncoderAsApk3(t *testing.T) {
	j := newJudge(t)
	n := 0
	for name, text := range shapes {
		for _, c := range []adbtest.Compression{adbtest.None, adbtest.Deflate, adbtest.DeflateLevel, adbtest.Zstd} {
			for kind, key := range map[string]crypto.Signer{"rsa": j.rsa, "ec": j.ec} {
				what := strings.ReplaceAll(fmt.Sprint(name, "-", c, "-", kind), " ", "-")
				want, b := package3(text, c, key)
				file := j.write(what+".apk", b)
				j.run("verify", file)
				dir := j.dir + "/" + what
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				j.run("extract", "--destination", dir, file)
				a, err := open3(b, want, j.ring)
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				j.same(what, onDisk(t, dir), extracted(inArchive(t, a)))
				n++
			}
		}
	}
	// What apk itself writes of large blocks alone: headers of 16 bytes.
	p := adbtest.Package(shapes["files"])
	long := [][]byte{adbtest.LongBlock(0, p.Values), adbtest.Sign(j.rsa, "pckg", p.Values)}
	for _, d := range p.Data {
		long = append(long, adbtest.LongBlock(2, d[4:binary.LittleEndian.Uint32(d)&0xffff]))
	}
	b := adbtest.File(adbtest.Deflate, "pckg", long...)
	j.run("verify", j.write("long.apk", b))
	if err := read3(b, &Package{Name: "tool", Version: "1"}, j.ring); err != nil {
		t.Errorf("long headers: %v", err)
	}
	stranger, _ := newECKey(t, "stranger")
	_, b = package3(shapes["files"], adbtest.None, stranger)
	if out, err := j.try("verify", j.write("stranger.apk", b)); err == nil || !strings.Contains(out, "UNTRUSTED") {
		t.Errorf("apk trusts a stranger's signature: %s", out)
	}
	t.Logf("%d files of adbtest", n)
}

// read opens a package that apk made.
func (j *judge) read(file string, want *Package) *Archive {
	j.t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		j.t.Fatal(err)
	}
	a, err := OpenArchive(bytes.NewReader(b), int64(len(b)), want, j.ring)
	if err != nil {
		j.t.Fatalf("%s: %v", filepath.Base(file), err)
	}
	return a
}

// dump writes a record down as apk adbdump does.
func dump(p *Package) string {
	var b strings.Builder
	add := func(key, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(&b, "  %s: %s\n", key, value)
		}
	}
	list := func(key string, deps []Dep) {
		if len(deps) > 0 {
			fmt.Fprintf(&b, "  %s: # %d items\n", key, len(deps))
		}
		for _, d := range deps {
			text := d.String()
			if d.Conflict {
				text = "'" + text + "'"
			}
			fmt.Fprintf(&b, "    - %s\n", text)
		}
	}
	add("name", p.Name)
	add("version", p.Version)
	add("description", p.Description)
	add("arch", p.Arch)
	add("license", p.License)
	add("origin", p.Origin)
	add("maintainer", p.Maintainer)
	add("url", p.URL)
	add("repo-commit", p.Commit)
	add("build-time", strconv.FormatInt(p.BuildTime, 10))
	add("installed-size", strconv.FormatInt(p.Installed, 10))
	add("provider-priority", strconv.Itoa(p.ProviderPriority))
	list("depends", p.Depends)
	list("provides", p.Provides)
	list("replaces", p.Replaces)
	list("install-if", p.InstallIf)
	return b.String()
}

// sameRecord compares a package's record with apk's dump of it.
func (j *judge) sameRecord(file string, a *Archive) {
	j.t.Helper()
	_, info, _ := strings.Cut(strings.Replace(j.run("adbdump", file), "description: |\n    ", "description: ", 1), "\ninfo:\n")
	var lines []string
	useless := false // to an image
	for line := range strings.Lines(info) {
		if !strings.HasPrefix(line, "  ") {
			break
		}
		if key, _, found := strings.Cut(line, ":"); found && !strings.HasPrefix(line, "   ") {
			useless = slices.Contains([]string{"  hashes", "  recommends", "  tags"}, key)
		}
		if !useless {
			lines = append(lines, line)
		}
	}
	if diff := cmp.Diff(strings.Join(lines, ""), dump(a.Info)); diff != "" {
		j.t.Errorf("%s: the record (-apk +ours):\n%s", filepath.Base(file), diff)
	}
}

// made is a package that apk made, and the tree it was made of.
type made struct {
	file, dir     string
	name, version string
	scripts       map[string]string
	triggers      []string
	priority      int
}

// TestPackagesAsApk3: what apk makes of random trees and records is read as it was,
// alone and by indexes that apk makes of them.
func TestPackagesAsApk3(t *testing.T) {
	j := newJudge(t)
	var all []made
	for seed := range uint64(48) {
		m := j.make(seed)
		want := &Package{Name: m.name, Version: m.version}
		a := j.read(m.file, want)
		j.same(m.name, onDisk(t, m.dir), inArchive(t, a))
		j.sameRecord(m.file, a)
		scripts := map[string]string{}
		for name, b := range a.Scripts {
			scripts[name[1:]] = string(b)
		}
		diff := cmp.Diff(m.scripts, scripts)
		if diff != "" || !slices.Equal(m.triggers, a.Info.Triggers) || m.priority != a.Info.ReplacesPriority {
			t.Errorf("%s: triggers %q, priority %d, scripts (-apk +ours):\n%s", m.name, a.Info.Triggers, a.Info.ReplacesPriority, diff)
		}
		all = append(all, m)
	}
	two, b2 := samplePackage(t, &Key{Name: "rsa.pub", Private: j.key.Private})
	all = append(all, made{file: j.write("two.apk", b2), name: two.Name, version: two.Version})
	for _, hash := range []string{"sha256", "sha256-160"} {
		for _, c := range []string{"none", "deflate", "deflate:9", "zstd", "zstd:22"} {
			args := []string{"mkndx", "--output", j.dir + "/Packages.adb", "--hash", hash, "--compression", c, "--sign-key", j.dir + "/ec.key",
				"--description", "made by apk"}
			for _, m := range all {
				args = append(args, m.file)
			}
			j.run(args...)
			b, err := os.ReadFile(j.dir + "/Packages.adb")
			if err != nil {
				t.Fatal(err)
			}
			x, err := ReadIndex(b, j.ring)
			if err != nil || len(x.Packages) != len(all) || x.Description != "made by apk" || len(x.Skipped) > 0 {
				t.Fatalf("%s, %s: %+v, %v", hash, c, x, err)
			}
			for _, p := range x.Packages {
				i := slices.IndexFunc(all, func(m made) bool { return m.name == p.Name })
				a := j.read(all[i].file, p)
				record := *a.Info
				record.Triggers, record.ReplacesPriority = nil, 0 // an index has neither
				slices.SortFunc(record.Depends, func(a, b Dep) int { return strings.Compare(a.Name, b.Name) })
				if diff := cmp.Diff(p, &record); diff != "" {
					t.Errorf("%s, %s: %s in the index (-) and alone (+):\n%s", hash, c, p, diff)
				}
			}
		}
	}
	t.Logf("%d packages, of format 3 but one, in 10 indexes", len(all))
}

// TestIndexesAsApk3: apk installs packages of both formats by an index of either
// that we write, and knows them by the identities that our database has.
func TestIndexesAsApk3(t *testing.T) {
	j := newJudge(t)
	two, b2 := samplePackage(t, &Key{Name: "rsa.pub", Private: j.key.Private})
	two.Depends, two.InstallIf = nil, nil
	three, b3 := package3("name app\nversion 1\narch aarch64\ndepends tool>1\ninstalled-size 5\ndir srv 755 root root\n"+
		"file srv/app 644 root root 1600000000 app", adbtest.Zstd, j.ec)
	three.Arch, three.Size, three.Installed, three.Depends = "aarch64", int64(len(b3)), 3, deps(t, "tool>1")
	old, err := WriteIndex(&Index{Packages: []*Package{two, three}}, &Key{Name: "rsa.pub", Private: j.key.Private})
	if err != nil {
		t.Fatal(err)
	}
	const form = "arch aarch64\ninstalled-size 5\nfile-size %d\nhashes %q\n" // of nothing, apk unpacks nothing
	records := adbtest.Array{
		adbtest.Record(fmt.Sprintf(form+"name app\nversion 1\ndepends tool>1", len(b3), decodeIdentity(t, three.Identity))),
		adbtest.Record(fmt.Sprintf(form+"name tool\nversion 1.2-r3", len(b2), decodeIdentity(t, two.Identity)))}
	young := index3(adbtest.Deflate, j.ec, adbtest.List{nil, records})
	for index, b := range map[string][]byte{"APKINDEX.tar.gz": old, "Packages.adb": young} {
		j.write("repo/aarch64/app-1.apk", b3)
		j.write("repo/aarch64/tool-1.2-r3.apk", b2)
		file := j.write("repo/aarch64/"+index, b)
		root := j.dir + "/root-" + index
		out := j.run("--root", root, "--arch", "aarch64", "--initdb", "--no-network", "--repositories-file", "/dev/null",
			"-X", file, "add", "app")
		db, err := os.ReadFile(root + "/lib/apk/db/installed")
		if err != nil {
			t.Fatal(err)
		}
		known := []string{"C:" + shortIdentity(three.Identity) + "\nP:app\n", "C:" + two.Identity + "\nP:tool\n"}
		for _, want := range known {
			if !strings.Contains(string(db), want) {
				t.Errorf("%s: apk's database has no %q:\n%s", index, want, db)
			}
		}
		for name, want := range map[string]string{"srv/app": "app", "bin/tool": "hello"} {
			if got, err := os.ReadFile(root + "/" + name); err != nil || string(got) != want {
				t.Errorf("%s: %s is %q, %v\n%s", index, name, got, err, out)
			}
		}
	}
}
