package patch

import (
	"archive/tar"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// TestBases: what a file is made of, by its name and its contents.
func TestBases(t *testing.T) {
	b := &bases{old: &squashfs.Reader{}, byName: map[string]int{}, byContents: map[sum]int{}, byBase: map[string][]int{}}
	add := func(name string, size int64, s byte) {
		i := len(b.old.Entries)
		b.old.Entries = append(b.old.Entries, squashfs.Entry{Header: &tar.Header{Name: name, Size: size}})
		b.sums, b.byName[name] = append(b.sums, sum{s}), i
		if _, ok := b.byContents[sum{s}]; !ok {
			b.byContents[sum{s}] = i
		}
		b.byBase[stem(name)] = append(b.byBase[stem(name)], i)
	}
	add("lib/modules/6.12.1/net/veth.ko", 1000, 1)
	add("lib/modules/6.12.1/fs/veth.ko", 1000, 2)
	add("usr/lib/libssl.so.3.0.20", 500, 3)
	add("usr/lib/old/libssl.so.1.1.9", 480, 4)
	for _, c := range []struct {
		name           string
		size           int64
		sum            byte
		at             int
		moved, changed bool
	}{
		{"lib/modules/6.12.1/net/veth.ko", 1000, 1, 0, false, false},
		{"lib/modules/6.12.1/net/veth.ko", 1000, 9, 0, false, true},
		{"lib/modules/6.12.1/net/veth.ko", 1000, 2, 1, true, true},
		{"lib/modules/6.12.2/fs/veth.ko", 1001, 9, 1, false, true},
		{"lib/modules/6.12.2/fs/veth.ko", 1000, 1, 0, true, true},
		{"usr/lib/libssl.so.3.0.22", 501, 9, 2, false, true},
		{"usr/lib/old/libssl.so.1.1.10", 501, 9, 3, false, true},
		{"usr/lib/libcrypto.so.3", 501, 9, -1, false, true},
	} {
		at, moved, changed := b.of(squashfs.Entry{Header: &tar.Header{Name: c.name, Size: c.size}}, sum{c.sum})
		if changed != c.changed || changed && (at != c.at || moved != c.moved) {
			t.Errorf("%s with contents %d: %d, moved %v, changed %v; want %+v", c.name, c.sum, at, moved, changed, c)
		}
	}
}
