package tarball

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// entry returns the blocks of one entry, as V7 tar and GNU tar write it: Go's
// writer makes neither GNU's kinds nor unknown ones.
func entry(kind byte, name, body string) []byte {
	b := make([]byte, 512, 1024)
	copy(b, name)
	copy(b[100:], "0000644\x000000000\x000000000\x00")
	copy(b[124:], fmt.Sprintf("%011o\x00%011o\x00        ", len(body), 0))
	b[156] = kind
	copy(b[257:], "ustar  \x00")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	b = append(b, body...)
	return append(b, make([]byte, -len(body)&511)...)
}

// sparse returns an entry of GNU's old sparse format: a hole of 512 bytes, and
// then body.
func sparse(name, body string) []byte {
	b := entry(tar.TypeGNUSparse, name, body)
	copy(b[386:], fmt.Sprintf("%011o\x00%011o\x00", 512, len(body)))
	copy(b[483:], fmt.Sprintf("%011o\x00", 512+len(body)))
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func globalHeader(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader,
		PAXRecords: map[string]string{"comment": strings.Repeat("0", 40)}}); err != nil {
		t.Fatal(err)
	}
	tw.Flush()
	return b.Bytes()
}

// TestTarDialects: what git archive and GNU tar -S, -V and -g write is read
// (golang/go#28843, plougher/squashfs-tools#401, systemd/systemd#998), and
// what no root can hold is refused by name.
func TestTarDialects(t *testing.T) {
	for what, c := range map[string]struct {
		archive []byte
		want    string // kind, name, size and length of contents; or the error
	}{
		"regular file":   {entry('0', "f", "hi"), "0 f 2 2"},
		"V7 file":        {entry(0, "f", "hi"), "0 f 2 2"},
		"contiguous":     {entry('7', "f", "hi"), "0 f 2 2"},
		"sparse file":    {sparse("f", "hi"), "0 f 514 514"},
		"dump directory": {entry('D', "d/", "Yf\x00\x00"), "5 d/ 0 0"},
		"volume label":   {entry('V', "backup", ""), ""},
		"global header":  {globalHeader(t), ""},
		"continued file": {entry('M', "f", "hi"), `tar x: "f" continues a file of another volume`},
		"unknown kind":   {entry('X', "f", "hi"), `tar x: "f": unsupported kind of tar entry 'X'`},
		"climbing path":  {entry('0', "a/../../f", ""), `tar x: the path "a/../../f" climbs out of the root`},
	} {
		var got []string
		archive := slices.Concat(c.archive, entry('0', "last", ""), make([]byte, 1024))
		err := Each(bytes.NewReader(archive), "tar x", func(h *tar.Header, r io.Reader) error {
			n, err := io.Copy(io.Discard, r)
			if h.Typeflag == tar.TypeDir {
				n = 0 // a directory has no contents
			}
			got = append(got, fmt.Sprintf("%c %s %d %d", h.Typeflag, h.Name, h.Size, n))
			return err
		})
		if err != nil {
			if c.want == "" || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", what, err, c.want)
			}
			continue
		}
		want := []string{"0 last 0 0"}
		if c.want != "" {
			want = []string{c.want, "0 last 0 0"}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}
