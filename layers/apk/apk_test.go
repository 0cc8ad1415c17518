package apk

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func newKey(t testing.TB, name string) (*Key, Keyring) {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := &Key{name, k}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	ring := Keyring{}
	if err := ring.Add(name, public); err != nil {
		t.Fatal(err)
	}
	return key, ring
}

func deps(t testing.TB, s string) []Dep {
	t.Helper()
	d, err := ParseDeps(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func samplePackage(t testing.TB, key *Key) (*Package, []byte) {
	t.Helper()
	files := []File{
		{Header: &tar.Header{Typeflag: tar.TypeDir, Name: "bin", Mode: 0o755}},
		{Header: &tar.Header{Typeflag: tar.TypeReg, Name: "bin/tool", Mode: 0o4755, Size: 5,
			PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}},
			Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("hello")), nil }},
		{Header: &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/link", Linkname: "tool", Mode: 0o777}},
	}
	var b bytes.Buffer
	p, err := WritePackage(&b, Package{Name: "tool", Version: "1.2-r3", Arch: "aarch64", Origin: "tool", BuildTime: 1700000000,
		Description: "A tool", ProviderPriority: 5, Depends: deps(t, "so:libc.so.6 busybox>=1.30 !other"), Provides: deps(t, "cmd:tool=1.2-r3"),
		InstallIf: deps(t, "openrc tool=1.2-r3")}, files, key)
	if err != nil {
		t.Fatal(err)
	}
	return p, b.Bytes()
}

func TestPackageRoundTrip(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	want, b := samplePackage(t, key)
	a, err := OpenArchive(bytes.NewReader(b), int64(len(b)), want, ring)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, a.Info); diff != "" {
		t.Errorf("package read back (-want +got):\n%s", diff)
	}
	var names []string
	err = a.Unpack(func(h *tar.Header, r io.Reader) error {
		body, _ := io.ReadAll(r)
		names = append(names, h.Name+" "+string(body)+h.Linkname)
		if h.Name == "bin/tool" && (h.Mode != 0o4755 || h.PAXRecords["SCHILY.xattr.user.x"] != "y") {
			t.Errorf("bin/tool came back as %o %v", h.Mode, h.PAXRecords)
		}
		return nil
	})
	if err != nil || strings.Join(names, "|") != "bin/ |bin/link tool|bin/tool hello" &&
		strings.Join(names, "|") != "bin |bin/link tool|bin/tool hello" {
		t.Errorf("%q, %v", names, err)
	}
}

// TestRealToolsReadThePackage: gunzip and tar see one archive in the three
// members, as apk-tools does.
func TestRealToolsReadThePackage(t *testing.T) {
	key, _ := newKey(t, "test.rsa.pub")
	_, b := samplePackage(t, key)
	cmd := exec.Command("tar", "-tzf", "-", "--warning=no-unknown-keyword")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	want := ".SIGN.RSA256.test.rsa.pub\n.PKGINFO\nbin\nbin/link\nbin/tool\n"
	if got := strings.ReplaceAll(string(out), "bin/\n", "bin\n"); err != nil || got != want {
		t.Errorf("tar: %v\n%s", err, out)
	}
}

// TestEveryTamperedPartIsCaught inverts bytes all over the package.
func TestEveryTamperedPartIsCaught(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	want, good := samplePackage(t, key)
	for i := range good {
		b := append([]byte(nil), good...)
		b[i] ^= 0x10
		a, err := OpenArchive(bytes.NewReader(b), int64(len(b)), want, ring)
		if err != nil {
			continue
		}
		err = a.Unpack(func(_ *tar.Header, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
		if err == nil && i >= len(good)-int(sizeOfData(t, good)) {
			t.Fatalf("byte %d of %d flipped in the data: accepted", i, len(good))
		}
		// What is left are bytes of the signature member that say nothing:
		// its gzip header and tar padding. Contents must be as signed.
		if err == nil && !cmp.Equal(a.Info, want) {
			t.Fatalf("byte %d flipped: another package is accepted", i)
		}
	}
}

func sizeOfData(t *testing.T, b []byte) int64 {
	_, rest, err := splitMember(b, maxSign)
	if err != nil {
		t.Fatal(err)
	}
	_, data, err := splitMember(rest, maxControl)
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(data))
}

func TestOpenArchiveRefuses(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	_, foreign := newKey(t, "other.rsa.pub")
	_, impostor := newKey(t, "test.rsa.pub")
	want, b := samplePackage(t, key)
	other := *want
	other.Identity = "Q1aaaaaaaaaaaaaaaaaaaaaaaaaaa="
	renamed := *want
	renamed.Name, renamed.Identity = "tools", ""
	for what, c := range map[string]struct {
		b    []byte
		want *Package
		ring Keyring
		err  string
	}{
		"foreign key":   {b, want, foreign, "signed with test.rsa.pub; the keys given are other.rsa.pub"},
		"same name":     {b, want, impostor, "was changed after it was signed"},
		"another build": {b, &other, ring, "another build of the same version"},
		"another name":  {b, &renamed, ring, "the .PKGINFO names tool-1.2-r3"},
		"no format 3":   {append([]byte("ADBd"), b...), want, ring, "reading the header: flate: corrupt input"},
		"no gzip":       {[]byte("hello, world"), want, ring, "not gzip"},
		"empty":         {nil, want, ring, "not gzip"},
		"cut":           {b[:len(b)-100], want, ring, ""},
	} {
		a, err := OpenArchive(bytes.NewReader(c.b), int64(len(c.b)), c.want, c.ring)
		if err == nil {
			err = a.Unpack(func(_ *tar.Header, r io.Reader) error { _, err := io.Copy(io.Discard, r); return err })
		}
		if err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %v, want an error with %q", what, err, c.err)
		}
	}
}

func TestIndexRoundTrip(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	p, _ := samplePackage(t, key)
	q := *p
	q.Name = "another"
	b, err := WriteIndex(&Index{Description: "about", Packages: []*Package{p, &q}}, key)
	if err != nil {
		t.Fatal(err)
	}
	x, err := ReadIndex(b, ring)
	if err != nil {
		t.Fatal(err)
	}
	if x.Description != "about" || len(x.Packages) != 2 || !cmp.Equal(x.Packages[0], &q) || !cmp.Equal(x.Packages[1], p) {
		t.Errorf("read back %+v", x)
	}
	_, impostor := newKey(t, "test.rsa.pub")
	if _, err := ReadIndex(b, impostor); err == nil || !strings.Contains(err.Error(), "changed after it was signed") {
		t.Errorf("an impostor's key: %v", err)
	}
}

func TestParseIndexRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"P:a\n\n":                  "has no name, version or identity",
		"nonsense\n":               "invalid field",
		"C:Q1\nP:../a\nV:1\n\n":    "invalid package name",
		"C:Q1\nP:a/../b\nV:1\n\n":  "invalid package name",
		"C:Q1\nP:a\nV:1/2\n\n":     "invalid package name",
		"C:Q1\nP:a\nV:1\nD:a<<1\n": "no operator",
		"C:Q1\nP:a\nV:1\nS:big\n":  "invalid syntax",
	} {
		if _, _, err := parseIndex([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", text, err, want)
		}
	}
	if list, _, err := parseIndex([]byte("C:Q1\nP:a\nV:1\np:pc:x=v2.4\n")); err != nil || list[0].Provides[0].Version != "v2.4" {
		t.Errorf("an invalid version, as Alpine's index has: %v", err)
	}
	if _, err := ParseDep("b>=banana"); err == nil {
		t.Error("a person may write such a version")
	}
	if list, _, err := parseIndex([]byte("C:Q1\nP:a\nV:1\nz:future\n")); err != nil || len(list) != 1 {
		t.Errorf("an unknown lower-case field: %v, %v", list, err)
	}
}

// TestRecordsWithUnknownFieldsAreSkipped: a record with an upper-case field that
// is not known is skipped, wherever the field stands, and the others are read.
func TestRecordsWithUnknownFieldsAreSkipped(t *testing.T) {
	list, skipped, err := parseIndex([]byte("C:Q1\nP:a\nX:new\nV:1\n\nC:Q1\nP:b\nV:1\nz:future\n\nX:new\nC:Q1\nP:c\nV:2\n"))
	if err != nil || len(list) != 1 || list[0].Name != "b" {
		t.Errorf("%v, %v", list, err)
	}
	if want := []Skipped{{"a-1", "X"}, {"c-2", "X"}}; !slices.Equal(skipped, want) {
		t.Errorf("skipped %v, want %v", skipped, want)
	}
}

// TestOtherArchitectures: the newest version is not chosen where it is for
// another architecture.
func TestOtherArchitectures(t *testing.T) {
	list, _, err := parseIndex([]byte("C:Q1\nP:a\nV:1\nA:aarch64\n\nC:Q2\nP:a\nV:2\nA:x86_64\n\nC:Q3\nP:b\nV:1\nA:noarch\n"))
	if err != nil {
		t.Fatal(err)
	}
	x, err := (&Index{Packages: list}).For("aarch64")
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := Solve([]Dep{{Name: "a"}, {Name: "b"}}, []Source{{Index: x}})
	if err != nil || len(chosen) != 2 || chosen[0].Version != "1" {
		t.Errorf("%v, %v", chosen, err)
	}
	if _, err := (&Index{Packages: list[1:2]}).For("aarch64"); err == nil || !strings.Contains(err.Error(), "such as x86_64; want aarch64") {
		t.Errorf("no package for the architecture: %v", err)
	}
	if x, err := (&Index{}).For("aarch64"); err != nil || len(x.Packages) != 0 {
		t.Errorf("an empty index: %v", err)
	}
}

// TestCompare holds versions in the order that apk-tools gives them
// (docs/platform.md 5.4).
func TestCompare(t *testing.T) {
	for _, line := range strings.Split(`1.0 = 1.0; 1.0 < 1.0.0; 1.0 < 1.1; 1.9 < 1.10; 1.01 < 1.1; 1.1 > 1.010; 1.0a > 1.0; 1.0a < 1.0b;
1.0 > 1.0_alpha; 1.0_alpha1 < 1.0_alpha2; 1.0_beta > 1.0_alpha9; 1.0_rc1 < 1.0; 1.0_rc1 < 1.0_p1;
1.0_p1 > 1.0; 1.0_git20240101 > 1.0; 1.0_git20240101 < 1.0_p1; 1.0_cvs < 1.0_svn; 1.0-r0 > 1.0;
1.0-r9 < 1.0-r10; 1.0_rc1-r0 > 1.0_rc1; 1.0.1-r0 > 1.0-r5; 1.2.3~abc > 1.2.3;
1.2.3~abc < 1.2.3~abd; 1.34.2.1-r0 < 1.34.10.1-r0; 6.12.51-r0 < 6.12.69-r0;
1.20240830-r0 < 1.20250707-r0; 10 > 9; 0.9 < 0.10; 1_pre1 < 1_rc1; 1.0_p < 1.0_p0`, ";") {
		f := strings.Fields(line)
		want := map[string]int{"<": -1, "=": 0, ">": 1}[f[1]]
		if got := Compare(f[0], f[2]); got != want {
			t.Errorf("Compare(%s, %s) = %d, want %s", f[0], f[2], got, f[1])
		}
		if got := Compare(f[2], f[0]); got != -want {
			t.Errorf("Compare(%s, %s) = %d, want the inverse of %s", f[2], f[0], got, f[1])
		}
	}
	for _, v := range []string{"", "a", "1.", "1_foo", "1-r", "1.0bb", "1~", "1-r1.2", "1 2"} {
		if ValidVersion(v) {
			t.Errorf("%q passes for a version", v)
		}
	}
}

func TestDepAllows(t *testing.T) {
	for _, line := range strings.Split(`1.6.9_p1 ~1.6 yes; 1.60 ~1.6 no; 1.6 ~1.6.1 no; 1.6.0_pre1 ~1.6 yes; 2.0 <~1.6 no; 1.5 <~1.6 yes;
1.7 >~1.6 yes; 1.6.3 >~1.6 yes; 1.34.2.1-r0 ~1.34 yes; 1.34.2.1-r0 =1.34.2.1 no;
1.34.2.1-r0 >=1.34 yes`, ";") {
		f := strings.Fields(line)
		d, err := ParseDep("x" + f[1])
		if err != nil {
			t.Fatal(err)
		}
		if got := d.allows(f[0], ""); got != (f[2] == "yes") {
			t.Errorf("%s %s: %v, want %s", f[0], f[1], got, f[2])
		}
	}
}

func FuzzCompare(f *testing.F) {
	f.Add("1.0_rc1-r0", "1.0")
	f.Add("1.2.3~abc", "1.02")
	f.Fuzz(func(t *testing.T, a, b string) {
		if Compare(a, b) != -Compare(b, a) && ValidVersion(a) && ValidVersion(b) {
			t.Fatalf("Compare(%q, %q) is not the inverse of the other way round", a, b)
		}
		if Compare(a, a) != 0 {
			t.Fatalf("%q differs from itself", a)
		}
	})
}

func FuzzParseIndex(f *testing.F) {
	f.Add([]byte("C:Q1x\nP:a\nV:1-r0\nD:b !c so:d.so.1\np:e=1\ni:f g=1\nk:5\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _, err := parseIndex(b)
		if err != nil {
			return
		}
		var again bytes.Buffer
		for _, p := range list {
			p.encode(&again)
		}
		list2, _, err := parseIndex(again.Bytes())
		if err != nil || len(list) != len(list2) {
			t.Fatalf("%d records became %d (%v)", len(list), len(list2), err)
		}
	})
}

func FuzzOpenArchive(f *testing.F) {
	key, ring := newKey(f, "test.rsa.pub")
	p, b := samplePackage(f, key)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := OpenArchive(bytes.NewReader(b), int64(len(b)), p, ring)
		if err == nil {
			a.Unpack(func(_ *tar.Header, r io.Reader) error { return errors.New("enough") })
		}
	})
}
