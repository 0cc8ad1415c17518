// Package importer reads what people have of a k3s cluster in other projects'
// formats, and makes an inventory of it. What an inventory has no place for is
// named, with the line that it stands in: nothing is left out silently, and no
// template is evaluated.
package importer

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Formats are what Read knows, by the names that the command line has for them.
func Formats() []string { return []string{"k3s-ansible", "raspi-alpine", "k3os", "cloud-init"} }

// Options are what the files themselves do not say.
type Options struct {
	// Seal encrypts a secret. Nil leaves secrets out of the inventory.
	Seal func(secret string) (string, error)
	// Keys are public keys for users that a format names without any, as
	// k3s-ansible does with ansible_user.
	Keys []string
	// Country is where wireless networks stand, as two letters, where a file does
	// not say.
	Country string
}

// Note is a line of a source that the inventory does not hold, or holds in another
// way.
type Note struct {
	File string `json:"file"`
	Line int    `json:"line"` // from 1 on; 0 for the file as a whole
	What string `json:"what"` // the setting's name; never a value that may be secret
	Why  string `json:"why"`  // and what to do
}

// String returns the note as one line.
func (n Note) String() string {
	at := n.File
	if n.Line > 0 {
		at = fmt.Sprintf("%s:%d", n.File, n.Line)
	}
	return at + ": " + n.What + ": " + n.Why
}

// Result is what became of a source.
type Result struct {
	Inventory []byte // as pikelet node check takes it, but for the secrets left out
	Nodes     int
	Notes     []Note // in the order of files and lines
	LeftOut   []string
}

// ErrNothing is returned for a source without any machine.
var ErrNothing = errors.New("the file names no machine")

// Read reads a source, and those beside it that belong to it, from a file system.
// Errors are those of reading it, ErrNothing, and those of the inventory's check.
func Read(fsys fs.FS, format, name string, o Options) (*Result, error) {
	d := &draft{files: reader{fsys: fsys}, options: o, sealed: map[string]string{}}
	var err error
	switch format {
	case "k3s-ansible":
		err = d.ansible(name)
	case "raspi-alpine":
		err = d.raspiAlpine(name)
	case "k3os":
		err = d.k3os(name)
	case "cloud-init":
		err = d.cloudInit(name)
	default:
		return nil, fmt.Errorf("%q: unknown format; want one of %s", format, strings.Join(Formats(), ", "))
	}
	if err != nil {
		return nil, err
	}
	if d.err != nil {
		return nil, d.err
	}
	if len(d.nodes) == 0 {
		return nil, hint.With(fmt.Errorf("%s: %w", name, ErrNothing), "check that it is a file of "+format)
	}
	return d.result(name)
}

// result returns what became of a source.
func (d *draft) result(name string) (*Result, error) {
	if d.err != nil {
		return nil, d.err
	}
	d.complete(name)
	text, err := d.encode(name)
	if err != nil {
		return nil, err
	}
	if err := check(text, len(d.leftOut) > 0); err != nil {
		return nil, hint.With(fmt.Errorf("what %s says makes no valid inventory: %w", name, err), "change that line there, and import it again")
	}
	slices.SortStableFunc(d.notes, func(a, b Note) int {
		if a.File != b.File {
			return strings.Compare(a.File, b.File)
		}
		return a.Line - b.Line
	})
	seen := map[Note]bool{} // what is said of several machines is said once
	d.notes = slices.DeleteFunc(d.notes, func(n Note) bool {
		twice := seen[n]
		seen[n] = true
		return twice
	})
	return &Result{Inventory: text, Nodes: len(d.nodes), Notes: d.notes, LeftOut: d.leftOut}, nil
}

// check reads an inventory as pikelet node check does. incomplete says that
// secrets are left out of it.
func check(text []byte, incomplete bool) error {
	doc, err := nodeconfig.Load("nodes.yaml", text, boards.Names(), incomplete)
	if err != nil {
		return err
	}
	_, err = doc.CheckK3s()
	return err
}
