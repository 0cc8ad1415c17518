package layers

import (
	"archive/tar"
	"fmt"
	"io"
	"path"

	"github.com/pikelet-os/pikelet/layers/store"
)

// Part is what one package, archive or directory brings to a tree, in its order,
// with contents that are kept already. Parts are made side by side and laid
// over the tree one after the other.
type Part []*Entry

// Add keeps the contents of an entry and puts it behind the others; contents
// is read to its end where the entry is a regular file.
func (p *Part) Add(file *store.File, h tar.Header, source string, contents io.Reader) error {
	if len(*p) >= maxEntries {
		return fmt.Errorf("%s: more than %d files", source, maxEntries)
	}
	size, err := lean(&h)
	if err == nil {
		err = file.TakeHeader(size)
	}
	if err != nil {
		return fmt.Errorf("%s: entry %d: %w", source, len(*p)+1, err)
	}
	e := &Entry{Header: h, Source: source}
	if h.Typeflag == tar.TypeReg {
		if e.Content, err = file.Put(contents, h.Size); err != nil {
			return fmt.Errorf("%s: storing %q: %w", source, h.Name, err)
		}
	}
	*p = append(*p, e)
	return nil
}

// SetSource says where the part came from, in errors and listings.
func (p Part) SetSource(source string) {
	for _, e := range p {
		e.Source = source
	}
}

// Rebase moves the part below the directory to.
func (p Part) Rebase(to string) {
	for _, e := range p {
		e.Name = path.Join(to, e.Name)
		if e.Typeflag == tar.TypeLink {
			e.Linkname = path.Join(to, e.Linkname)
		}
	}
}

// Apply lays the part over a tree.
func (p Part) Apply(t *Tree) error {
	for _, e := range p {
		if err := t.Place(e); err != nil {
			return err
		}
	}
	return nil
}
