package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"testing"
)

func TestOpen(t *testing.T) {
	ctx := context.Background()
	good, other := []byte("the kernel"), []byte("the kernal")
	f := File{Name: "vmlinuz", Size: int64(len(good)), Digest: DigestOf(good)}
	blobs := Blobs(t.TempDir())
	if err := os.WriteFile(blobs.Path(f.Digest), good, 0o600); err != nil {
		t.Fatal(err)
	}
	img := Image{Manifest: &Manifest{Stream: "lab", Release: "1.0", Files: []File{f}}}
	read := func(r io.ReadCloser, err error) (string, error) {
		if err != nil {
			return "", err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return string(b), err
	}
	for name, c := range map[string]struct {
		source Source
		name   string
		want   error
	}{
		"in memory":                     {Memory{"vmlinuz": good}, "vmlinuz", nil},
		"in a layout":                   {blobs, "vmlinuz", nil},
		"changed bytes":                 {Memory{"vmlinuz": other}, "vmlinuz", ErrDigestMismatch},
		"a file of no manifest":         {Memory{"vmlinuz": good, "other": good}, "other", fs.ErrNotExist},
		"a file that the place lacks":   {Memory{}, "vmlinuz", fs.ErrNotExist},
		"no source":                     {nil, "vmlinuz", fs.ErrNotExist},
		"a preferred source":            {Prefer(Image{Source: Memory{}}, blobs).Source, "vmlinuz", nil},
		"a preferred source without it": {Prefer(Image{Source: blobs}, Memory{}).Source, "vmlinuz", nil},
		"a preferred source that lies":  {Prefer(Image{Source: blobs}, Memory{"vmlinuz": other}).Source, "vmlinuz", ErrDigestMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			img.Source = c.source
			got, err := read(img.Open(ctx, c.name))
			if !errors.Is(err, c.want) || err == nil && got != string(good) {
				t.Errorf("Open(%q) = %q, %v; want %v", c.name, got, err, c.want)
			}
		})
	}
	img.Source = blobs
	if got, err := read(img.OpenPart(ctx, "vmlinuz", 4, 3)); err != nil || got != "ker" {
		t.Errorf("OpenPart = %q, %v; want ker", got, err)
	}
	for _, part := range [][2]int64{{-1, 2}, {0, 11}, {11, 0}, {5, -1}, {10, 1 << 62}} {
		if _, err := img.OpenPart(ctx, "vmlinuz", part[0], part[1]); err == nil {
			t.Errorf("bytes %d+%d of 10 were opened", part[0], part[1])
		}
	}
	if err := os.Truncate(blobs.Path(f.Digest), 3); err != nil {
		t.Fatal(err)
	}
	if _, err := img.OpenAt("vmlinuz"); err == nil {
		t.Error("a file of another size was opened")
	}
}
