package apk

import (
	"archive/tar"
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pikelet-os/pikelet/internal/testing/adbtest"
	"github.com/pikelet-os/pikelet/layers/apk/adb"
	"github.com/pikelet-os/pikelet/layers/tarball"
)

// digest20 and digest32 are what an index may have for an identity.
var digest20, digest32 = strings.Repeat("a", 20), strings.Repeat("b", 32)

// index3 returns a signed index with records.
func index3(c adbtest.Compression, key crypto.Signer, root adbtest.List) []byte {
	return adbtest.Signed(c, "indx", adbtest.Values(root), []crypto.Signer{key})
}

func TestIndexesOfFormat3(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	text := shapes["all fields"] + "\nfile-size 1234\nrecommends other\ntags a=1 b\nhashes " + digest32
	records := adbtest.Array{
		adbtest.Record(text),
		adbtest.Record("name old\nversion 1\nhashes " + digest20),
		adbtest.Record("name unhashed\nversion 1"),
		adbtest.Record("name odd\nversion 1\nhashes " + digest20 + "x"),
		adbtest.Record("name layered\nversion 1\nlayer 1\nhashes " + digest32),
		adbtest.Record("name described\nversion 1\ndescription \"two\\nlines\"\nhashes " + digest32),
	}
	for _, c := range []adbtest.Compression{adbtest.None, adbtest.Deflate, adbtest.Zstd} {
		x, err := ReadIndex(index3(c, key.Private, adbtest.List{"about", records}), ring)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		want := &Index{Description: "about", Skipped: []Skipped{{"unhashed-1", "hashes"}, {"odd-1", "hashes"}, {"layered-1", "layer"}},
			Packages: []*Package{{Name: "tool", Version: "1.2-r3", Arch: "aarch64", Identity: identityOf([]byte(digest32)), Size: 1234,
				Installed: 5000000000, Description: "A tool", URL: "https://example.org", License: "MIT AND Apache-2.0", Origin: "tool-src",
				Maintainer: "A Person <a@example.org>", Commit: "0123456789abcdef0123456789abcdef01234567", BuildTime: 1700000000,
				ProviderPriority: 5, Depends: deps(t, "!other busybox>=1.30 libx~1.2 liby<2 libz=3 same><Q1AAAAAAAAAAAAAAAAAAAAAAAAAAA= so:libc.so.6"),
				Provides: deps(t, "cmd:tool=1.2-r3 virtual"), Replaces: deps(t, "old<1"), InstallIf: deps(t, "openrc tool=1.2-r3")},
				{Name: "old", Version: "1", Identity: identityOf([]byte(digest20))},
				{Name: "described", Version: "1", Description: "two lines", Identity: identityOf([]byte(digest32))}}}
		if diff := cmp.Diff(want, x); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c, diff)
		}
	}
	for _, spec := range []string{"${name}-${version}.apk", "${arch}/${name}-${version}.apk"} {
		if _, err := ReadIndex(index3(adbtest.None, key.Private, adbtest.List{nil, records, spec}), ring); err != nil {
			t.Errorf("files called %s: %v", spec, err)
		}
	}
	if x, err := ReadIndex(index3(adbtest.None, key.Private, adbtest.List{"no packages"}), ring); err != nil || len(x.Packages) != 0 {
		t.Errorf("an index without packages: %v", err)
	}
}

func TestOperatorsOfFormat3(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	for match, want := range map[int]string{0: "=", 1: "=", 2: "<", 3: "<=", 4: ">", 5: ">=", 6: "><", 8: "~", 9: "~", 11: "<~", 13: ">~",
		16: "!=", 18: "!<", 25: "!~"} {
		text := "a" + strings.TrimPrefix(want, "!") + "1"
		if want[0] == '!' {
			text = "!" + text
		}
		root := adbtest.List{nil, adbtest.Array{adbtest.List{"p", "1", digest20, 15: nil}}}
		root[1].(adbtest.Array)[0].(adbtest.List)[14] = adbtest.Array{adbtest.List{"a", "1", match}}
		x, err := ReadIndex(index3(adbtest.None, key.Private, root), ring)
		if err != nil || joinDeps(x.Packages[0].Depends) != text {
			t.Errorf("operator %d: %+v, %v, want %s", match, x, err, text)
		}
	}
}

func TestDamagedIndexesOfFormat3(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	_, impostor := newKey(t, "test.rsa.pub")
	good := adbtest.List{"about", adbtest.Array{adbtest.Record("name a\nversion 1\nhashes " + digest32)}}
	sign := func(root adbtest.List, more ...[]byte) []byte {
		return adbtest.Signed(adbtest.None, "indx", adbtest.Values(root), []crypto.Signer{key.Private}, more...)
	}
	record := func(text string) []byte {
		return sign(adbtest.List{nil, adbtest.Array{good[1].(adbtest.Array)[0], adbtest.Record(text)}})
	}
	for what, c := range map[string]struct {
		b    []byte
		ring Keyring
		want string
	}{
		"impostor": {sign(good), impostor, "signed with the key of id"},
		"a package": {adbtest.Signed(adbtest.None, "pckg", adbtest.Values(good), nil), ring,
			"the file has the schema \"pckg\", want \"indx\""},
		"database":    {adbtest.Signed(adbtest.None, "idb\x00", adbtest.Values(good), nil), ring, "the file has the schema \"idb\\x00\""},
		"not signed":  {adbtest.Signed(adbtest.None, "indx", adbtest.Values(good), nil), ring, "the file is not signed"},
		"data":        {sign(good, adbtest.Block(2, adbtest.Data(1, 1, "x"))), ring, "a block of kind data behind the signatures"},
		"root":        {sign(adbtest.List{nil, 5}), ring, "packages: the value 0x10000005 is not an object"},
		"description": {sign(adbtest.List{5}), ring, "description: the value"},
		"file names": {sign(adbtest.List{nil, nil, "${name}_${version}.apk"}), ring,
			"pkgname-spec: packages are called \"${name}_${version}.apk\""},
		"no file names":   {sign(adbtest.List{nil, nil, 5}), ring, "pkgname-spec: the value"},
		"record":          {sign(adbtest.List{nil, adbtest.Array{"x"}}), ring, "packages[1]: the value"},
		"no version":      {record("name b"), ring, "packages[2]: the record has no name or version"},
		"climbing name":   {record("name ../b\nversion 1"), ring, "packages[2]: invalid package name \"../b-1\""},
		"hidden name":     {record("name .b\nversion 1"), ring, "packages[2]: invalid package name \".b-1\""},
		"lines in a name": {record("name \"b\\nP:c\"\nversion 1"), ring, "packages[2]: name: a control character in \"b\\nP:c\""},
		"lines in a URL":  {record("name b\nversion 1\nurl \"x\\ny\""), ring, "packages[2]: url: a control character"},
		"large size": {record("name b\nversion 1\nfile-size 18446744073709551615"), ring,
			"packages[2]: file-size: 18446744073709551615 is more"},
		"hashes": {sign(adbtest.List{nil, adbtest.Array{adbtest.List{"b", "1", 5}}}), ring, "packages[1]: hashes: the value"},
	} {
		x, err := ReadIndex(c.b, c.ring)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "reading an index: ") {
			t.Errorf("%s: %+v, %v, want %q", what, x, err, c.want)
		}
	}
	if _, err := ReadIndex(sign(good), impostor); !errors.Is(err, ErrSignature) {
		t.Errorf("an impostor's key: %v is not ErrSignature", err)
	}
	whole := index3(adbtest.Deflate, key.Private, good)
	for i := range whole {
		if x, err := ReadIndex(whole[:i], ring); err == nil {
			t.Errorf("cut after %d of %d bytes: %+v", i, len(whole), x)
		}
	}
}

// TestFormatsInOneRepository: an index of either format lists packages of both,
// and the database of installed packages knows all under short identities.
func TestFormatsInOneRepository(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	want3, b3 := package3("name app\nversion 1\narch noarch\ndepends tool>1\ndir srv 755 root root\n"+
		"file srv/app 644 root root 1600000000 app", adbtest.Deflate, key.Private)
	want2, b2 := samplePackage(t, key)
	want3.Depends = deps(t, "tool>1")
	want2.Depends = nil
	old, err := WriteIndex(&Index{Packages: []*Package{want2, want3}}, key)
	if err != nil {
		t.Fatal(err)
	}
	sum2, sum3 := decodeIdentity(t, want2.Identity), decodeIdentity(t, want3.Identity)
	records := adbtest.Array{adbtest.Record("name app\nversion 1\ndepends tool>1\nhashes " + quote(sum3)),
		adbtest.Record("name tool\nversion 1.2-r3\nhashes " + quote(sum2))}
	for what, b := range map[string][]byte{"2": old, "3": index3(adbtest.Zstd, key.Private, adbtest.List{nil, records})} {
		x, err := ReadIndex(b, ring)
		if err != nil {
			t.Fatalf("index of format %s: %v", what, err)
		}
		chosen, err := Solve([]Dep{{Name: "app"}}, []Source{{Index: x}})
		if err != nil || len(chosen) != 2 {
			t.Fatalf("index of format %s: %v, %v", what, chosen, err)
		}
		var installed []*Installed
		var names []string
		for _, p := range InstallOrder([]Dep{{Name: "app"}}, chosen) {
			file := map[string][]byte{"app": b3, "tool": b2}[p.Name]
			a, err := OpenArchive(bytes.NewReader(file), int64(len(file)), p, ring)
			if err != nil {
				t.Fatalf("index of format %s: %v", what, err)
			}
			if err := a.Unpack(func(h *tar.Header, r io.Reader) error {
				names = append(names, strings.Trim(h.Name, "/"))
				return nil
			}); err != nil {
				t.Errorf("index of format %s: %v", what, err)
			}
			installed = append(installed, &Installed{Package: a.Info, Scripts: a.Scripts})
		}
		if want := []string{"bin", "bin/link", "bin/tool", "srv", "srv/app"}; !slices.Equal(names, want) {
			t.Errorf("index of format %s: installed %q, want %q", what, names, want)
		}
		files, err := Database(installed, time.Unix(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		text := string(files["installed"])
		if !strings.Contains(text, "C:"+shortIdentity(want3.Identity)+"\nP:app\n") || strings.Contains(text, "C:Q2") {
			t.Errorf("index of format %s: the database is\n%s", what, text)
		}
	}
}

func decodeIdentity(t *testing.T, s string) string {
	t.Helper()
	sum, err := base64.StdEncoding.DecodeString(s[2:])
	if err != nil {
		t.Fatal(err)
	}
	return string(sum)
}

func FuzzADBIndex(f *testing.F) {
	records := adbtest.Array{adbtest.Record(shapes["all fields"] + "\nhashes " + digest32),
		adbtest.Record("name b\nversion 1\nhashes " + digest20)}
	f.Add(adbtest.Values(adbtest.List{"about", records, "${name}-${version}.apk"}))
	f.Add(adbtest.Values(adbtest.List{nil, adbtest.Word(0xd0000004)}))
	f.Add(circle())
	f.Fuzz(func(t *testing.T, values []byte) {
		db, err := adb.NewDB(values, 1<<20)
		if err != nil {
			return
		}
		root, err := db.Root().List()
		if err != nil {
			return
		}
		x, err := parseIndex3(root)
		if err != nil {
			return
		}
		// What is read can be written in format 2, and is as many packages there.
		var text bytes.Buffer
		for _, p := range x.Packages {
			p.encode(&text)
		}
		again, _, err := parseIndex(text.Bytes())
		if err != nil || len(again) != len(x.Packages) {
			t.Fatalf("%d packages became %d (%v):\n%s", len(x.Packages), len(again), err, text.Bytes())
		}
	})
}

func FuzzADBPackage(f *testing.F) {
	_, ring := newECKey(f, "test.ec.pub")
	for name, text := range shapes {
		if name == "long names" { // which only take time
			continue
		}
		p := adbtest.Package(text)
		f.Add(p.Values, slices.Concat(p.Data...), true)
		f.Add(slices.Concat(adbtest.Block(0, p.Values), slices.Concat(p.Data...)), []byte{}, false)
	}
	f.Add(circle(), []byte{}, true)
	f.Fuzz(func(t *testing.T, values, data []byte, trusted bool) {
		if len(values) > 1<<16 {
			return
		}
		if !trusted {
			if err := read3(append([]byte("ADB.pckg"), values...), &Package{Name: "tool", Version: "1"}, ring); err == nil {
				t.Fatal("accepted without a signature")
			}
			return
		}
		b := adbtest.File(adbtest.None, "pckg", adbtest.Block(0, values), data)
		a := &Archive{name: "fuzzed", Scripts: map[string][]byte{}, values: values,
			data: io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))}
		if err := a.parse3(); err != nil {
			return
		}
		n := 0
		a.Unpack(func(h *tar.Header, r io.Reader) error {
			if n++; n > 1000 {
				return errors.New("enough")
			}
			if tarball.Climbs(h.Name) || h.Typeflag == tar.TypeLink && tarball.Climbs(h.Linkname) {
				t.Errorf("the path %q climbs", h.Name)
			}
			_, err := io.Copy(io.Discard, r)
			return err
		})
	})
}
