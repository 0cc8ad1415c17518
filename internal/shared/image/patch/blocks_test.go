package patch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
	"github.com/pikelet-os/pikelet/internal/shared/verity"
)

// place is where a root is published. It counts.
type place struct {
	b        []byte
	bytes    int64
	requests int
}

func (p *place) part(_ context.Context, at, n int64) (io.ReadCloser, error) {
	if at < 0 || n <= 0 || at+n > int64(len(p.b)) {
		return nil, fmt.Errorf("bytes %d to %d of %d", at, at+n, len(p.b))
	}
	p.requests++
	return io.NopCloser(io.TeeReader(bytes.NewReader(p.b[at:at+n]), p)), nil
}

// Write counts what was read.
func (p *place) Write(b []byte) (int, error) { p.bytes += int64(len(b)); return len(b), nil }

func byBlocks(t *testing.T, old, new image.Image, p *place) ([]byte, *Blocks, error) {
	t.Helper()
	b, done, err := PlanBlocks(context.Background(), old, new.Manifest, p.part)
	if err != nil {
		return nil, nil, err
	}
	defer done()
	r := b.Root(context.Background())
	defer r.Close()
	got, err := io.ReadAll(r)
	return got, b, err
}

// TestBlocks makes a root of another's blocks, and fetches only those of files
// that changed.
func TestBlocks(t *testing.T) {
	for _, c := range []squashfs.Compression{squashfs.Fast(), squashfs.Small()} {
		old, new, _, files := pair(t, c)
		p := &place{b: files[image.RootFile]}
		got, b, err := byBlocks(t, old, new, p)
		if err != nil || !bytes.Equal(got, files[image.RootFile]) {
			t.Fatalf("%s: %d bytes of %d, %v", c.Name, len(got), len(p.b), err)
		}
		if p.bytes != b.Fetch {
			t.Errorf("%s: %d bytes were fetched, and it said %d", c.Name, p.bytes, b.Fetch)
		}
		t.Logf("%s: %d of %d bytes, in %d requests", c.Name, p.bytes, len(p.b), p.requests)
	}
}

// big is a pair in which one large file of several changed.
func big(t *testing.T) (old, new image.Image, oldFiles, newFiles memory) {
	tree := files{}
	for i := range 8 {
		tree[fmt.Sprintf("usr/bin/p%d", i)] = string(program(uint64(20+i), 700_000))
	}
	old, oldFiles = newImage(t, "1", 1_700_000_000, squashfs.Fast(), tree, nil)
	tree["usr/bin/p3"] = string(release([]byte(tree["usr/bin/p3"]), 5))
	tree["usr/bin/moved"] = tree["usr/bin/p5"]
	delete(tree, "usr/bin/p5")
	new, newFiles = newImage(t, "2", 1_700_086_400, squashfs.Fast(), tree, nil)
	return
}

func TestBlocksOfLargeFiles(t *testing.T) {
	old, new, _, files := big(t)
	p := &place{b: files[image.RootFile]}
	got, b, err := byBlocks(t, old, new, p)
	if err != nil || !bytes.Equal(got, p.b) {
		t.Fatalf("%d bytes of %d, %v", len(got), len(p.b), err)
	}
	// One file of eight, the fragments that its tail is in, the tables and the tree.
	if most := int64(len(p.b)) * 2 / 5; p.bytes > most || p.bytes != b.Fetch || p.requests > 10 {
		t.Errorf("%d of %d bytes in %d requests; said %d, want at most %d", p.bytes, len(p.b), p.requests, b.Fetch, most)
	}
}

// TestCorruptOldBlocksAreFetched: corrupt blocks of the old root are fetched;
// with corrupt tables, no patch is used.
func TestCorruptOldBlocksAreFetched(t *testing.T) {
	old, new, oldFiles, files := big(t)
	rotten := oldFiles[image.RootFile]
	p := &place{b: files[image.RootFile]}
	_, b, err := byBlocks(t, old, new, p)
	if err != nil {
		t.Fatal(err)
	}
	for at := 5000; at < len(rotten)/2; at += 100_000 {
		rotten[at] ^= 1
	}
	p.bytes = 0
	got, _, err := byBlocks(t, old, new, p)
	if err != nil || !bytes.Equal(got, p.b) {
		t.Errorf("%d bytes of %d, %v", len(got), len(p.b), err)
	}
	if p.bytes <= b.Fetch {
		t.Errorf("%d bytes were fetched, as if nothing were rotten", p.bytes)
	}
	rotten[int(old.Root.DataBlocks-1)*verity.BlockSize] ^= 1
	if _, _, err := byBlocks(t, old, new, p); !errors.Is(err, verity.ErrCorrupt) {
		t.Errorf("with rotten tables: %v", err)
	}
}

// TestBlocksFromAnotherPlace: what is published with other bytes is found.
func TestBlocksFromAnotherPlace(t *testing.T) {
	old, new, _, files := big(t)
	good := files[image.RootFile]
	for at := 0; at < len(good); at += len(good) / 30 {
		p := &place{b: bytes.Clone(good)}
		p.b[at] ^= 8
		got, _, err := byBlocks(t, old, new, p)
		if err == nil && !bytes.Equal(got, good) {
			t.Errorf("byte %d is wrong where it comes from, and what was made is too", at)
		}
	}
	p := &place{b: good[:len(good)/2]}
	if _, _, err := byBlocks(t, old, new, p); err == nil {
		t.Error("half of it is published, and there is no error")
	}
}

// TestBlocksSmallChange: a digit in a small file, whose fragment then may be as
// long as it was, is seen.
func TestBlocksSmallChange(t *testing.T) {
	for i := range 10 {
		x := string(program(3, 5000))
		before := files{"etc/release": "VERSION=1.2.0\n", "etc/x": x}
		after := files{"etc/release": fmt.Sprintf("VERSION=1.2.%d\n", i), "etc/x": x}
		old, _ := newImage(t, "1", 1_700_000_000, squashfs.Fast(), before, nil)
		new, is := newImage(t, "2", 1_700_000_000, squashfs.Fast(), after, nil)
		got, _, err := byBlocks(t, old, new, &place{b: is[image.RootFile]})
		if err != nil || !bytes.Equal(got, is[image.RootFile]) {
			t.Errorf("%d: %v", i, err)
		}
	}
}
