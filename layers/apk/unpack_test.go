package apk

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
)

// TestDotNamesOfTheRoot: apk passes over them, so two packages may have the
// same; dot names in directories are files like any.
func TestDotNamesOfTheRoot(t *testing.T) {
	key, ring := newKey(t, "test.rsa.pub")
	var files []File
	for _, name := range []string{".gitkeep", "./.dummy", ".git/config", "usr/.keep", "./usr/tool", "usr/..odd"} {
		files = append(files, File{Header: &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644},
			Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }})
	}
	var b bytes.Buffer
	p, err := WritePackage(&b, Package{Name: "dots", Version: "1", Arch: "noarch"}, files, key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenArchive(bytes.NewReader(b.Bytes()), int64(b.Len()), p, ring)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = a.Unpack(func(h *tar.Header, _ io.Reader) error {
		got = append(got, h.Name)
		return nil
	})
	if want := "./usr/tool usr/..odd usr/.keep"; err != nil || strings.Join(got, " ") != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
}
