package provision

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/boards"
	"github.com/pikelet-os/pikelet/internal/shared/atomicfile"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Board is what tells one board from another in an inventory.
type Board struct {
	Serial string // 8 or 16 hexadecimal digits
	MAC    string // "" where the entry of the node names none
}

// ErrByHand is returned for an entry of an inventory that cannot be edited without
// touching what else its YAML is for.
var ErrByHand = errors.New("the entry has to be edited by hand")

// SetBoard gives a node of an inventory another board, in the text of it: serial, MAC
// where there is one, and the next generation. All the rest of the text stays as it
// is, comments included. changed is false where the node has that board already. The
// error is ErrByHand for an entry made of anchors and the like.
func SetBoard(file string, text []byte, name string, b Board) (edited []byte, changed bool, err error) {
	before, err := nodeconfig.Load(file, text, boards.Names(), false)
	if err != nil {
		return nil, false, err
	}
	if before.Inventory == nil {
		return nil, false, fmt.Errorf("%s is no inventory", file)
	}
	i, err := before.Find(nodeconfig.Machine{Name: name})
	if err != nil {
		return nil, false, err
	}
	entry := before.Inventory.Nodes[i]
	if SameBoard(entry.Serial, b.Serial) {
		return text, false, nil
	}
	switch {
	case entry.MAC != "" && b.MAC == "":
		return nil, false, hint.With(fmt.Errorf("%s: %s has a mac too, that of the old board", file, name), "name the new one with --mac")
	case entry.MAC == "" && b.MAC != "":
		b.MAC = ""
	}
	e, err := newEntry(text, i)
	if err != nil {
		return nil, false, fmt.Errorf("%s: %s: %w", file, name, err)
	}
	generation := entry.Generation + 1
	for _, f := range []struct{ key, value string }{
		{"generation", fmt.Sprint(generation)}, {"mac", b.MAC}, {"serial", "'" + b.Serial + "'"},
	} {
		if f.value == "" {
			continue
		}
		if err := e.set(f.key, f.value); err != nil {
			return nil, false, fmt.Errorf("%s: %s: %s: %w", file, name, f.key, err)
		}
	}
	edited = e.text()
	after, err := nodeconfig.Load(file, edited, boards.Names(), false)
	if err != nil {
		return nil, false, fmt.Errorf("with the new board: %w", err)
	}
	// Nothing else may have changed, whatever the YAML is.
	want := *before.Inventory
	want.Nodes = append([]nodeconfig.Node(nil), want.Nodes...)
	want.Nodes[i].Serial, want.Nodes[i].Generation = b.Serial, generation
	if b.MAC != "" {
		want.Nodes[i].MAC = b.MAC
	}
	if !reflect.DeepEqual(&want, after.Inventory) {
		return nil, false, fmt.Errorf("%s: %s: %w", file, name, ErrByHand)
	}
	return edited, true, nil
}

// SameBoard reports whether two serial numbers are of one board: the last eight digits
// tell boards apart.
func SameBoard(a, b string) bool {
	short := func(s string) string { return s[max(0, len(s)-8):] }
	return a != "" && short(a) == short(b)
}

// ReplaceBoard is SetBoard of a file, which is the old one or the new one, and on the
// disk when it returns.
func ReplaceBoard(file, name string, b Board) (changed bool, err error) {
	edited, mode, changed, err := edit(file, name, b)
	if err != nil || !changed {
		return false, err
	}
	real, err := filepath.EvalSymlinks(file) // a link stays one
	if err != nil {
		return false, err
	}
	return true, atomicfile.Write(real, edited, mode)
}

// TrySetBoard reports whether ReplaceBoard would change a file, and why it could not.
func TrySetBoard(file, name string, b Board) (changes bool, err error) {
	_, _, changes, err = edit(file, name, b)
	return changes, err
}

// edit is SetBoard of a file, and returns its mode too.
func edit(file, name string, b Board) (edited []byte, mode fs.FileMode, changed bool, err error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, 0, false, err
	}
	if st.Size() > maxInventory {
		return nil, 0, false, fmt.Errorf("reading the inventory: %s is too large: got %d bytes, want at most %d", file, st.Size(), maxInventory)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, 0, false, err
	}
	edited, changed, err = SetBoard(file, text, name, b)
	return edited, st.Mode().Perm(), changed, err
}

// entry is the text of an inventory, and what is to change in an entry of it.
type entry struct {
	lines [][]rune // without their ends
	end   string   // of lines
	node  *yaml.Node
	edits []change
}

// change puts text in the place of some characters.
type change struct {
	line, column, length int // from 0, in characters
	text                 string
}

func newEntry(text []byte, i int) (*entry, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	e := &entry{end: "\n"}
	if bytes.Contains(text, []byte("\r\n")) {
		e.end = "\r\n"
	}
	for _, line := range strings.Split(string(text), e.end) {
		e.lines = append(e.lines, []rune(line))
	}
	_, nodes := pair(doc.Content[0], "nodes")
	if nodes == nil || nodes.Kind != yaml.SequenceNode || i >= len(nodes.Content) || nodes.Content[i].Kind != yaml.MappingNode {
		return nil, ErrByHand
	}
	e.node = nodes.Content[i]
	return e, nil
}

// pair returns the key and the value of a mapping that has one.
func pair(n *yaml.Node, key string) (k, v *yaml.Node) {
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i], n.Content[i+1]
		}
	}
	return nil, nil
}

// text returns the text with all edits made: the last one in it first, so that the
// places of the others stay what they are.
func (e *entry) text() []byte {
	slices.SortStableFunc(e.edits, func(a, b change) int { return cmp.Or(b.line-a.line, b.column-a.column) })
	for _, d := range e.edits {
		line := e.lines[d.line]
		e.lines[d.line] = slices.Concat(line[:d.column], []rune(d.text), line[d.column+d.length:])
	}
	var lines []string
	for _, l := range e.lines {
		lines = append(lines, string(l))
	}
	return []byte(strings.Join(lines, e.end))
}

// set gives a key of the entry a value, or adds it before the hostname.
func (e *entry) set(key, value string) error {
	if _, v := pair(e.node, key); v != nil {
		return e.replace(v, value)
	}
	at, name := pair(e.node, "hostname")
	if at == nil || name.Kind != yaml.ScalarNode || !e.has(at) {
		return ErrByHand
	}
	// On a line of its own, as deep as the hostname.
	rest := e.end + strings.Repeat(" ", at.Column-1)
	if e.node.Style&yaml.FlowStyle != 0 {
		rest = ", "
	}
	e.edits = append(e.edits, change{at.Line - 1, at.Column - 1, 0, key + ": " + value + rest})
	return nil
}

// has reports whether a node lies in the text where it says.
func (e *entry) has(n *yaml.Node) bool {
	return n.Line >= 1 && n.Line <= len(e.lines) && n.Column >= 1 && n.Column <= len(e.lines[n.Line-1])
}

// replace puts a value in the place of a scalar.
func (e *entry) replace(v *yaml.Node, value string) error {
	length := len([]rune(v.Value))
	switch v.Style {
	case yaml.SingleQuotedStyle, yaml.DoubleQuotedStyle: // digits, colons: nothing that is escaped
		length += 2
	case 0:
	default:
		return ErrByHand
	}
	if v.Kind != yaml.ScalarNode || v.Anchor != "" || !e.has(v) || v.Column-1+length > len(e.lines[v.Line-1]) {
		return ErrByHand
	}
	e.edits = append(e.edits, change{v.Line - 1, v.Column - 1, length, value})
	return nil
}
