package apk

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/testing/adbtest"
)

// shapes are packages by what is particular about them, each in the form of
// adbtest.Package. Listed by list3 they read the same.
var shapes = map[string]string{
	"no files": `
name virtual
version 1-r0
arch noarch`,
	"all fields": `
name tool
version 1.2-r3
description A tool
arch aarch64
license MIT AND Apache-2.0
origin tool-src
maintainer A Person <a@example.org>
url https://example.org
repo-commit "\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67"
build-time 1700000000
installed-size 5000000000
provider-priority 5
depends !other busybox>=1.30 libx~1.2 liby<2 libz=3 same><Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA= so:libc.so.6
provides cmd:tool=1.2-r3 virtual
replaces old<1
install-if openrc tool=1.2-r3
replaces-priority 7`,
	"files": `
name tool
version 1
arch x86_64
build-time 1600000000
dir etc 755 root root
file etc/empty 644 root root 1600000001 ""
file etc/shadow 640 root shadow 1600000002 secret
dir home 755 root root
dir home/user 700 user users
dir usr 755 root root
dir usr/bin 755 root root
file usr/bin/su 4755 root root 1600000003 "#!/bin/sh\n"
file usr/bin/tool 755 root root 1600000003 "\x7fELF\x00\x01"`,
	"links": `
name tool
version 1
arch x86_64
dir usr 755 root root
dir usr/bin 755 root root
file usr/bin/a 755 root root 1600000000 hello
hard usr/bin/b 755 root root 1600000000 usr/bin/a
link usr/bin/c 777 root root 1600000000 ../../etc/c
link usr/bin/d 777 root root 1600000000 /nowhere
dir usr/lib 755 root root
hard usr/lib/e 755 root root 1600000000 usr/bin/a
file usr/lib/f 755 root root 1600000000 f`,
	"devices": `
name devs
version 1
arch noarch
dir dev 755 root root
char dev/null 666 root root 1600000000 1:3
block dev/sda 660 root disk 1600000000 8:0
block dev/huge 660 root disk 1600000000 4095:1048575
fifo dev/initctl 600 root root 1600000000`,
	"attributes": `
name caps
version 1
arch noarch
dir bin 755 root root
xattr user.dir d
file bin/ping 755 root root 1600000000 ping
xattr security.capability "\x01\x00\x00\x02\x00\x1f\x00\x00"
xattr user.empty ""
xattr user.x y`,
	"scripts": `
name scripted
version 1
arch noarch
script trigger "#!/bin/sh\ntrigger\n"
script pre-install "#!/bin/sh\npre\n"
script post-install "#!/bin/sh\npost\n"
script pre-deinstall "#!/bin/sh\nprede\n"
script post-deinstall "#!/bin/sh\npostde\n"
script pre-upgrade "#!/bin/sh\npreup\n"
script post-upgrade "#!/bin/sh\npostup\n"
trigger /usr/share/*
trigger /lib/modules`,
	"the root": `
name dots
version 1
arch noarch
dir . 755 root root
file .hidden 644 root root 1600000000 x
file top 644 root root 1600000000 y
dir .git 755 root root`,
	"long names": `
name long
version 1
description ` + strings.Repeat("long ", 60) + `word
arch noarch
dir ` + strings.Repeat("d", 255) + ` 755 root root
file ` + strings.Repeat("d", 255) + "/" + strings.Repeat("f", 255) + ` 644 root root 1600000000 ` + strings.Repeat("x", 70000) + `
script post-install ` + strings.Repeat("y", 70000),
}

// list3 writes an open package down as adbtest reads it.
func list3(t testing.TB, a *Archive) string {
	t.Helper()
	var b strings.Builder
	p := a.Info
	add := func(key string, value any) {
		if s := fmt.Sprint(value); s != "" && s != "0" {
			fmt.Fprintf(&b, "%s %s\n", key, s)
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
	if p.Commit != "" {
		b.WriteString(`repo-commit "`)
		for i := 0; i < len(p.Commit); i += 2 {
			b.WriteString(`\x` + p.Commit[i:i+2])
		}
		b.WriteString("\"\n")
	}
	add("build-time", p.BuildTime)
	add("installed-size", p.Installed)
	add("provider-priority", p.ProviderPriority)
	add("depends", joinDeps(p.Depends))
	add("provides", joinDeps(p.Provides))
	add("replaces", joinDeps(p.Replaces))
	add("install-if", joinDeps(p.InstallIf))
	err := a.Unpack(func(h *tar.Header, r io.Reader) error {
		body, err := io.ReadAll(r)
		kind := map[byte]string{tar.TypeReg: "file", tar.TypeDir: "dir", tar.TypeSymlink: "link", tar.TypeLink: "hard", tar.TypeChar: "char",
			tar.TypeBlock: "block", tar.TypeFifo: "fifo"}[h.Typeflag]
		fmt.Fprintf(&b, "%s %s %o %s %s", kind, h.Name, h.Mode, h.Uname, h.Gname)
		if kind != "dir" {
			fmt.Fprintf(&b, " %d", h.ModTime.Unix())
		} else if !h.ModTime.Equal(time.Unix(p.BuildTime, 0)) {
			t.Errorf("%s: the directory has the time %v", h.Name, h.ModTime)
		}
		switch kind {
		case "file":
			b.WriteString(" " + quote(string(body)))
		case "link", "hard":
			b.WriteString(" " + h.Linkname)
		case "char", "block":
			fmt.Fprintf(&b, " %d:%d", h.Devmajor, h.Devminor)
		}
		b.WriteString("\n")
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			fmt.Fprintf(&b, "xattr %s %s\n", strings.TrimPrefix(k, "SCHILY.xattr."), quote(h.PAXRecords[k]))
		}
		if want := map[bool]int{true: 0, false: 65534}[h.Uname == "root"]; h.Uid != want {
			t.Errorf("%s: uid %d", h.Name, h.Uid)
		}
		return err
	})
	if err != nil {
		t.Errorf("unpacking: %v", err)
	}
	for _, name := range scripts3[1:] {
		if s, there := a.Scripts[name]; there {
			fmt.Fprintf(&b, "script %s %s\n", name[1:], quote(string(s)))
		}
	}
	for _, trigger := range p.Triggers {
		b.WriteString("trigger " + trigger + "\n")
	}
	add("replaces-priority", p.ReplacesPriority)
	return b.String()
}

// quote writes a string as a Go one where that is needed.
func quote(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' }) {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// newECKey returns a key of ECDSA and a ring with it.
func newECKey(t testing.TB, name string) (*ecdsa.PrivateKey, Keyring) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ring := Keyring{}
	if err := ring.Add(name, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	return key, ring
}

// package3 encodes a package and returns what an index knows of it.
func package3(text string, c adbtest.Compression, keys ...crypto.Signer) (*Package, []byte) {
	parts := adbtest.Package(text)
	sum := sha256.Sum256(parts.Values)
	f := strings.Fields(text)
	want := &Package{Name: f[slices.Index(f, "name")+1], Version: f[slices.Index(f, "version")+1], Identity: identityOf(sum[:])}
	return want, adbtest.Signed(c, "pckg", parts.Values, keys, parts.Data...)
}

func open3(b []byte, want *Package, ring Keyring) (*Archive, error) {
	return OpenArchive(bytes.NewReader(b), int64(len(b)), want, ring)
}

func TestPackagesOfFormat3(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	ec, ecRing := newECKey(t, "test.ec.pub")
	for name, text := range shapes {
		t.Run(name, func(t *testing.T) {
			for _, c := range []adbtest.Compression{adbtest.None, adbtest.Deflate, adbtest.DeflateLevel, adbtest.Zstd} {
				want, b := package3(text, c, key.Private)
				a, err := open3(b, want, ring)
				if err != nil {
					t.Fatalf("%s: %v", c, err)
				}
				first, again := list3(t, a), list3(t, a)
				// The root is no package's.
				if diff := cmp.Diff(strings.Replace(strings.TrimSpace(text), "\ndir . 755 root root", "", 1)+"\n", first); diff != "" {
					t.Errorf("%s (-want +got):\n%s", c, diff)
				}
				if first != again {
					t.Errorf("%s: unpacked twice it differs", c)
				}
				if a.Info.Size != int64(len(b)) || a.Info.Identity != want.Identity {
					t.Errorf("%s: size %d of %d, identity %s", c, a.Info.Size, len(b), a.Info.Identity)
				}
			}
			want, b := package3(text, adbtest.Deflate, ec)
			if _, err := open3(b, want, ecRing); err != nil {
				t.Errorf("signed with ECDSA: %v", err)
			}
		})
	}
}

// TestHardLinksToTheRoot: apk mkpkg calls a file in the root "./NAME" in a link to
// it.
func TestHardLinksToTheRoot(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	want, b := package3("name a\nversion 1\ndir . 755 root root\nfile f 644 root root 0 x\ndir d 755 root root\nhard d/l 644 root root 0 ./f",
		adbtest.None, key.Private)
	a, err := open3(b, want, ring)
	if err != nil {
		t.Fatal(err)
	}
	target := ""
	if err := a.Unpack(func(h *tar.Header, _ io.Reader) error { target += h.Linkname; return nil }); err != nil || target != "f" {
		t.Errorf("the target is %q, %v", target, err)
	}
}

// TestIdentitiesOfPackages: an index of either format knows packages of both, by a
// SHA-1, a SHA-256 or the beginning of one.
func TestIdentitiesOfPackages(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	want3, b3 := package3(shapes["files"], adbtest.Deflate, key.Private)
	want2, b2 := samplePackage(t, key)
	_, rest, err := splitMember(b2, maxSign)
	if err != nil {
		t.Fatal(err)
	}
	control, _, err := splitMember(rest, maxControl)
	if err != nil {
		t.Fatal(err)
	}
	sum2 := sha256.Sum256(control)
	for _, c := range []struct {
		what     string
		b        []byte
		want     *Package
		identity string
		err      string
	}{
		{"2, SHA-1", b2, want2, want2.Identity, ""},
		{"2, SHA-256", b2, want2, identityOf(sum2[:]), ""},
		{"2, short SHA-256", b2, want2, identityOf(sum2[:20]), ""},
		{"3, SHA-256", b3, want3, want3.Identity, ""},
		{"3, short SHA-256", b3, want3, shortIdentity(want3.Identity), ""},
		{"3 for 2", b3, want3, want2.Identity, "identity mismatch: got Q1"},
		{"2 for 3", b2, want2, want3.Identity, "identity mismatch: got Q2"},
		{"other 3", b3, want3, identityOf(sum2[:]), "another build of the same version"},
	} {
		want := *c.want
		want.Identity = c.identity
		a, err := open3(c.b, &want, ring)
		if err == nil && c.err == "" {
			if a.Info.Identity != c.identity {
				t.Errorf("%s: the package is called %s, want %s", c.what, a.Info.Identity, c.identity)
			}
			continue
		}
		if err == nil || c.err == "" || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %v, want %q", c.what, err, c.err)
		}
	}
	want3.Identity = ""
	if a, err := open3(b3, want3, ring); err != nil || !strings.HasPrefix(a.Info.Identity, "Q2") {
		t.Errorf("any identity: %v", err)
	}
	if d := (Dep{Name: "x", Op: "><", Version: identityOf(sum2[:20])}); !d.allows("1", identityOf(sum2[:])) || d.allows("1", want2.Identity) {
		t.Error("a dependency on an identity: the short form does not meet the long one")
	}
}
