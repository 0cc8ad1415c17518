package importer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// What is read at most. Inventories of hundreds of machines have some hundred
// kilobytes.
const (
	maxFile  = 1 << 20 // bytes of one file
	maxFiles = 500
	maxDepth = 40      // of YAML, aliases resolved
	maxVisit = 100_000 // values of all YAML, aliases resolved
	maxNodes = 500     // machines
)

// ErrTooLarge is returned for what is larger than any inventory.
var ErrTooLarge = errors.New("the source is too large")

// reader reads files, a bounded number of them.
type reader struct {
	fsys  fs.FS
	count int
}

// read returns a file.
func (r *reader) read(name string) ([]byte, error) {
	if r.count++; r.count > maxFiles {
		return nil, fmt.Errorf("%w: more than %d files", ErrTooLarge, maxFiles)
	}
	f, err := r.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrTooLarge, name, maxFile)
	}
	return bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), nil
}

// place is a line of a file.
type place struct {
	file string
	line int
}

// hole stands in a text for what only another program would fill in: a template of
// Ansible's, a variable of a shell's or of Terraform's.
const hole = "\x00"

var templates = regexp.MustCompile(`(?s)\{\{.*?\}\}|\{%.*?%\}|\$\{[^}]*\}`)

// holes returns a text with a hole for each template.
func holes(text string) string {
	return templates.ReplaceAllString(strings.ReplaceAll(text, hole, ""), hole)
}

// value is a value of a YAML file.
type value struct {
	*yaml.Node
	d    *draft
	file string
	base int // added to lines: a document inside another file
	deep int
}

// parse reads the first document of a YAML file, which is inside another one below
// line base, or 0. A document that is empty gives a null.
func (d *draft) parse(file string, b []byte, base int) (value, error) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&doc); err != nil && err != io.EOF {
		text := strings.TrimPrefix(err.Error(), "yaml: ")
		if strings.Contains(string(b), "{{") || strings.Contains(string(b), "{%") {
			err = hint.With(errors.New(text), "a value that begins with {{ stands in quotes; a file that a template makes is imported as it "+
				"comes out")
		} else {
			err = errors.New(text)
		}
		return value{}, fmt.Errorf("%s: reading YAML: %w", file, err)
	}
	v := value{Node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null"}, d: d, file: file, base: base}
	if len(doc.Content) > 0 {
		v.Node = doc.Content[0]
	}
	var second yaml.Node
	if dec.Decode(&second) == nil && len(second.Content) > 0 {
		d.note(place{file, base + second.Content[0].Line}, "a second document",
			"only the first one of a file is read; import the others as files of their own")
	}
	return v, nil
}

// with returns a value inside this one.
func (v value) with(n *yaml.Node) value {
	out := v
	out.deep++
	for n.Kind == yaml.AliasNode && out.deep <= maxDepth {
		n = n.Alias
		out.deep++
	}
	if v.d.visited++; out.deep > maxDepth || v.d.visited > maxVisit {
		v.d.fail(fmt.Errorf("%w: %s:%d: too many values, or too deep ones", ErrTooLarge, v.file, v.base+n.Line))
		n = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: n.Line}
	}
	out.Node = n
	return out
}

func (v value) at() place { return place{v.file, v.base + v.Line} }

// vault reports whether a value is encrypted by Ansible.
func (v value) vault() bool {
	return v.Tag == "!vault" || v.Kind == yaml.ScalarNode && strings.HasPrefix(strings.TrimSpace(v.Value), "$ANSIBLE_VAULT")
}

// entry is a key of a mapping, with its value.
type entry struct {
	key string
	at  place
	value
}

// entries returns what is in a mapping, keys that are merged into it (<<) after
// its own. What is no mapping has none.
func (v value) entries() (list []entry) {
	if v.Kind != yaml.MappingNode {
		return nil
	}
	seen := map[string]bool{}
	var merged []entry
	for i := 0; i+1 < len(v.Content); i += 2 {
		key, val := v.Content[i], v.with(v.Content[i+1])
		if key.Tag == "!!merge" {
			merged = append(merged, val.entries()...)
			for _, e := range val.items() {
				merged = append(merged, e.entries()...)
			}
			continue
		}
		seen[key.Value] = true
		list = append(list, entry{key.Value, place{v.file, v.base + key.Line}, val})
	}
	for _, e := range merged {
		if !seen[e.key] {
			seen[e.key] = true
			list = append(list, e)
		}
	}
	return list
}

// items returns the values of a list; a scalar is a list of itself, as programs
// that read such files take it.
func (v value) items() (list []value) {
	switch {
	case v.Kind == yaml.SequenceNode:
		for _, n := range v.Content {
			list = append(list, v.with(n))
		}
	case v.Kind == yaml.ScalarNode && v.Tag != "!!null":
		return []value{v}
	}
	return list
}

// get returns the value of a key, a null where there is none.
func (v value) get(key string) value {
	for _, e := range v.entries() {
		if e.key == key {
			return e.value
		}
	}
	return value{Node: &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: v.Line}, d: v.d, file: v.file, base: v.base}
}

// text returns a scalar, with holes; "" for anything else.
func (v value) text() string {
	if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
		return ""
	}
	return holes(v.Value)
}

// texts returns the scalars of a list without holes, and notes the others.
func (v value) texts(what string) (list []string) {
	for _, e := range v.items() {
		if s, ok := e.plain(what); ok && s != "" {
			list = append(list, s)
		}
	}
	return list
}

// plain returns a scalar that needs no other program to be read. It notes what does.
func (v value) plain(what string) (string, bool) {
	switch {
	case v.vault():
		v.d.note(v.at(), what, "encrypted by ansible-vault; ansible-vault view shows it, and pikelet node encrypt makes an "+
			"inventory's secret of it")
	case v.Kind == yaml.MappingNode || v.Kind == yaml.SequenceNode:
		v.d.note(v.at(), what, "not a single value; write it into the inventory by hand")
	case strings.Contains(v.text(), hole):
		v.d.note(v.at(), what, "a template, which is not evaluated; put the value in its place, or into the inventory")
	default:
		return strings.TrimSpace(v.text()), true
	}
	return "", false
}

// inner returns the line before the first one of a scalar's own text: of a block
// that begins below its key, or of one on the key's line.
func (v value) inner() int {
	if v.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		return v.base + v.Line
	}
	return v.base + v.Line - 1
}
