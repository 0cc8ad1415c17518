package patch_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
)

// imageOf returns an image of one file.
func imageOf(release, name string, b []byte) image.Image {
	m := &image.Manifest{Release: release, Files: []image.File{{Name: name, Size: int64(len(b)), Digest: image.DigestOf(b)}}}
	return image.Image{Manifest: m, Source: image.Memory{name: b}}
}

// A patch turns the files of one release into those of the next.
func Example() {
	ctx := context.Background()
	was := []byte(strings.Repeat("device tree of a board\n", 1000))
	is := append(bytes.Clone(was), "one line more\n"...)
	old, new := imageOf("1.3", "board.dtb", was), imageOf("1.4", "board.dtb", is)

	var b bytes.Buffer
	if _, err := patch.Make(ctx, &b, old, new, patch.Options{}); err != nil {
		fmt.Println(err)
		return
	}
	scratch := func(int64) (*os.File, error) { return patch.Scratch("") }
	p, err := patch.Open(bytes.NewReader(b.Bytes()), int64(b.Len()), old, new.Manifest, scratch)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Makes())
	r, err := p.Make(ctx, "board.dtb")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer r.Close()
	made, err := io.ReadAll(r)
	fmt.Println(image.DigestOf(made) == new.Manifest.Files[0].Digest, err)
	fmt.Println("smaller than the file:", b.Len() < len(is)/10)
	// Output:
	// [board.dtb]
	// true <nil>
	// smaller than the file: true
}
