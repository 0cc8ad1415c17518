// Package startertest reads the packages of the starter repository, which make starter
// makes, for tests. A test that finds none fails and says so.
package startertest

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// dir is the repository's from the directory of a package two levels below the
// module's root, where the tests of builder's packages run.
const dir = "../../build/starter/aarch64"

// Packages returns the files of all packages, sorted.
func Packages(t testing.TB) []string {
	t.Helper()
	all, err := filepath.Glob(dir + "/*.apk")
	if err != nil || len(all) == 0 {
		t.Fatalf("no packages in %s (%v); make starter makes them", dir, err)
	}
	return all
}

// Package returns the file of the package with that name.
func Package(t testing.TB, name string) string {
	t.Helper()
	version := regexp.MustCompile(`^` + regexp.QuoteMeta(name) + `-[0-9][^-]*-r[0-9]+\.apk$`)
	for _, file := range Packages(t) {
		if version.MatchString(filepath.Base(file)) {
			return file
		}
	}
	t.Fatalf("no package %s in %s; make starter makes it", name, dir)
	return ""
}

// Members calls f for each member of a package's file: its signature, what it says of
// itself and its scripts, whose names begin with a dot, and its files. The file is several
// archives of gzip, one behind the other (docs/platform.md 5.2).
func Members(t testing.TB, file string, f func(h *tar.Header, r io.Reader)) {
	t.Helper()
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		f(h, r)
	}
}
