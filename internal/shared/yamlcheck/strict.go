// Package yamlcheck reads YAML that people write: all mistakes at once, each
// with file, line and field, and no key that nothing reads.
package yamlcheck

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Error is everything wrong with a file, a line each.
type Error struct {
	Problems []string
	// Unknown says that all of them are keys that nothing reads.
	Unknown bool
}

func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

// Checker gathers the mistakes of one file.
type Checker struct {
	file     string
	lines    map[string]int // field to line
	problems []problem
}

type problem struct {
	line  int
	text  string
	field string // as Add was given it; "" where the YAML itself is wrong
	// unknown marks a key that nothing reads.
	unknown bool
}

// New returns a checker whose messages name the file.
func New(file string) *Checker { return &Checker{file: file, lines: map[string]int{}} }

// Decode decodes the one YAML document of b into v. Keys that v has no field
// for and values of another type are noted as mistakes. It returns the
// document's node, and false where b is no YAML at all. An empty document
// leaves v as it is.
func (c *Checker) Decode(b []byte, v any) (*yaml.Node, bool) {
	var root yaml.Node
	if err := yaml.Unmarshal(b, &root); err != nil {
		if m := unknownAnchor.FindStringSubmatch(err.Error()); m != nil {
			c.problems = append(c.problems, problem{line: lineOf(b, "*"+m[1]), text: aliasText})
		} else if tab := tabForm.FindIndex(b); tab != nil && strings.Contains(err.Error(), "cannot start any token") {
			c.problems = append(c.problems, problem{line: 1 + bytes.Count(b[:tab[0]], []byte("\n")),
				text: "the line is indented with a tab; YAML takes blanks only"})
		} else if strings.Contains(err.Error(), "incompatible YAML document") {
			c.problems = append(c.problems, problem{line: lineOf(b, "%YAML"),
				text: "another version of YAML; remove the line that begins with %YAML"})
		} else {
			c.Decoding(err)
		}
		return nil, false
	}
	var top *yaml.Node
	if len(root.Content) > 0 {
		top = root.Content[0]
		c.Index(top)
		c.tags(top)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		c.Decoding(err)
		if twice.MatchString(err.Error()) { // the decoder leaves out all of that mapping: fields would seem to be missing
			return top, false
		}
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		c.problems = append(c.problems, problem{text: "there is more than one YAML document; want one a file"})
	}
	return top, true
}

var (
	// tabForm is a line that is indented with a tab.
	tabForm = regexp.MustCompile(`(?m)^ *\t`)
	// twice is how the YAML library words a key that a mapping has twice.
	twice = regexp.MustCompile(`mapping key .* already defined`)
)

// unknownAnchor is how the YAML library words an alias of nothing. It quotes
// what may be a secret without quotes that begins with *.
var unknownAnchor = regexp.MustCompile(`^yaml: unknown anchor '(.*)' referenced$`)

const (
	aliasText = "a value begins with *, which makes it an alias of something that is not there; put it in quotes"
	tagText   = "a value begins with !, which makes it a tag that means nothing here; put it in quotes"
)

// lineOf returns the line that first has text, from 1 on; 0 for none.
func lineOf(b []byte, text string) int {
	i := bytes.Index(b, []byte(text))
	if i < 0 {
		return 0
	}
	return 1 + bytes.Count(b[:i], []byte("\n"))
}

// tags notes tags that YAML itself does not know: the decoder passes over them,
// and what was meant as a value is lost.
func (c *Checker) tags(n *yaml.Node) {
	if n.Kind != yaml.AliasNode && strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		c.problems = append(c.problems, problem{line: n.Line, text: tagText})
	}
	for _, child := range n.Content {
		c.tags(child)
	}
}

// Index remembers the line of every field below n, in place of what it knew.
func (c *Checker) Index(n *yaml.Node) {
	c.lines = map[string]int{}
	c.index(n, "")
}

func (c *Checker) index(n *yaml.Node, field string) {
	c.lines[field] = n.Line
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := strings.TrimPrefix(field+"."+n.Content[i].Value, ".")
			c.index(n.Content[i+1], name)
			c.lines[name] = n.Content[i].Line
		}
	case yaml.SequenceNode:
		for i, e := range n.Content {
			c.index(e, fmt.Sprintf("%s[%d]", field, i))
		}
	}
}

// unknownField is how the YAML library words a key it has no field for.
var unknownField = regexp.MustCompile(`^line (\d+): field (\S+) not found in type \S+$`)

// Decoding notes what the YAML library complained of.
func (c *Checker) Decoding(err error) {
	var te *yaml.TypeError
	texts := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if errors.As(err, &te) {
		texts = te.Errors
	}
	for _, t := range texts {
		if m := unknownField.FindStringSubmatch(t); m != nil {
			line, _ := strconv.Atoi(m[1])
			c.problems = append(c.problems, problem{line: line, text: m[2] +
				": there is no such field; is it misspelt or indented wrongly?", unknown: true})
			continue
		}
		line := 0
		if rest, ok := strings.CutPrefix(t, "line "); ok {
			number, text, _ := strings.Cut(rest, ": ")
			if n, err := strconv.Atoi(number); err == nil {
				line, t = n, text
			}
		}
		c.problems = append(c.problems, problem{line: line, text: plainly(t)})
	}
}

// These are how the YAML library words a value of another kind, one of another
// kind than its tag, and two more that are wrong. It quotes values, which may
// be secrets that stand in the wrong place.
var (
	wrongKind = regexp.MustCompile("^cannot unmarshal !!?(\\S*)(?s: `.*`)? into (\\S+)$")
	wrongTag  = regexp.MustCompile(`^cannot decode (?s:.*) as a !!(\w+)$`)
	wrongKey  = regexp.MustCompile("^invalid map key: ")
	ownAnchor = regexp.MustCompile("^anchor '(?s:.*)' value contains itself$")
)

// plainly says what kind of value stands there and which one is wanted.
func plainly(text string) string {
	if m := wrongTag.FindStringSubmatch(text); m != nil {
		return "a value is not what its tag !!" + m[1] + " says"
	}
	if wrongKey.MatchString(text) {
		return "a key of a map is no text"
	}
	if ownAnchor.MatchString(text) {
		return "what an anchor names contains itself"
	}
	m := wrongKind.FindStringSubmatch(text)
	if m == nil {
		return text
	}
	is := map[string]string{"str": "text", "seq": "a list", "map": "a map of fields", "int": "a number", "float": "a number",
		"bool": "true or false"}[m[1]]
	want := "a map of fields"
	switch to := strings.TrimPrefix(m[2], "*"); {
	case strings.HasPrefix(to, "[]"):
		want = "a list"
	case to == "string":
		want = "text"
	case to == "bool":
		want = "true or false"
	case strings.HasPrefix(to, "int") || strings.HasPrefix(to, "uint") || strings.HasPrefix(to, "float"):
		want = "a number"
	}
	if is == "" {
		return "want " + want
	}
	return "this is " + is + "; want " + want
}

// Add notes a mistake in a field, written as a.b[0].c.
func (c *Checker) Add(field, format string, args ...any) {
	line := c.lines[field]
	for up := field; line == 0 && up != ""; line = c.lines[up] {
		i := strings.LastIndexAny(up, ".[")
		if i < 0 {
			break
		}
		up = up[:i]
	}
	c.problems = append(c.problems, problem{line: line, text: field + ": " + fmt.Sprintf(format, args...), field: field})
}

// Fields returns the fields that Add noted mistakes in, in the order it did.
func (c *Checker) Fields() []string {
	var list []string
	for _, p := range c.problems {
		if p.field != "" {
			list = append(list, p.field)
		}
	}
	return list
}

// Err returns an *Error with all mistakes in the order of their lines, or nil.
func (c *Checker) Err() error {
	if len(c.problems) == 0 {
		return nil
	}
	sort.SliceStable(c.problems, func(i, j int) bool { return c.problems[i].line < c.problems[j].line })
	e := &Error{Unknown: true}
	for _, p := range c.problems {
		e.Unknown = e.Unknown && p.unknown
		place := c.file
		if p.line > 0 {
			place += ":" + strconv.Itoa(p.line)
		}
		if text := place + ": " + p.text; len(e.Problems) == 0 || e.Problems[len(e.Problems)-1] != text {
			e.Problems = append(e.Problems, text)
		}
	}
	return e
}

// TypeError is the error of an UnmarshalYAML that does not like a value.
func TypeError(n *yaml.Node, format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: "+format, append([]any{n.Line}, args...)...)}}
}

// Fields notes, from within an UnmarshalYAML, keys of a mapping that are not
// known: the decoder's own check does not reach in there.
func Fields(n *yaml.Node, known ...string) error {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, found := n.Content[i], false
		for _, k := range known {
			found = found || key.Value == k
		}
		if !found {
			return TypeError(key, "field %s not found in type map", key.Value)
		}
	}
	return nil
}

// Include takes over another checker's mistakes; what both found counts once.
func (c *Checker) Include(other *Checker) {
	for _, p := range other.problems {
		known := false
		for _, q := range c.problems {
			known = known || p == q
		}
		if !known {
			c.problems = append(c.problems, p)
		}
	}
}
