package patch

import (
	"archive/tar"
	"cmp"
	"context"
	"path"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

// bases are the files of the old root, by what finds them.
type bases struct {
	old        *squashfs.Reader
	sums       []sum // by number
	byName     map[string]int
	byContents map[sum]int
	byBase     map[string][]int
}

func (m *maker) findBases(ctx context.Context, old *squashfs.Reader) (*bases, error) {
	b := &bases{old: old, sums: make([]sum, len(old.Entries)), byName: map[string]int{}, byContents: map[sum]int{}, byBase: map[string][]int{}}
	for i, e := range old.Entries {
		switch e.Typeflag {
		case tar.TypeLink:
			b.byName[e.Name] = b.byName[e.Linkname]
		case tar.TypeReg:
			s, err := sumOf(ctx, e.From)
			if err != nil {
				return nil, err
			}
			b.sums[i], b.byName[e.Name] = s, i
			if _, there := b.byContents[s]; !there {
				b.byContents[s] = i
			}
			stem := stem(e.Name)
			b.byBase[stem] = append(b.byBase[stem], i)
		}
	}
	return b, nil
}

// of returns what a new file is made of: nothing where it did not change, another
// that has its contents, or the old file that is most like it, by its name; -1
// for none.
func (b *bases) of(e squashfs.Entry, s sum) (at int, moved, changed bool) {
	at, there := b.byName[e.Name]
	if there && b.sums[at] == s {
		return at, false, false
	}
	if i, ok := b.byContents[s]; ok {
		return i, true, true
	}
	if there {
		return at, false, true
	}
	list := b.byBase[stem(e.Name)]
	if len(list) == 0 || e.Size == 0 {
		return -1, false, true
	}
	return slices.MinFunc(list, func(i, k int) int {
		x, y := b.old.Entries[i], b.old.Entries[k]
		return cmp.Or(
			-cmp.Compare(common(x.Name, e.Name), common(y.Name, e.Name)),
			cmp.Compare(distance(x.Size, e.Size), distance(y.Size, e.Size)),
			cmp.Compare(i, k))
	}), false, true
}

// stem is the name of a file without the numbers of its version: libz.so.1.3.1
// and libz.so.1.3.2 have the same.
func stem(name string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, path.Base(name)), ".-_")
}

// common returns how many directories two paths have in common, from both ends.
func common(a, b string) int {
	x, y := strings.Split(path.Dir(a), "/"), strings.Split(path.Dir(b), "/")
	n := min(len(x), len(y))
	i := 0
	for i < n && x[i] == y[i] {
		i++
	}
	k := 0
	for k < n-i && x[len(x)-1-k] == y[len(y)-1-k] {
		k++
	}
	return i + k
}

func distance(a, b int64) int64 { return max(a-b, b-a) }
