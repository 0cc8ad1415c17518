// Package schematest keeps JSON schemas and tables of fields what the types
// and their comments say, for the tests of packages that read YAML.
package schematest

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// Schema is how a type becomes a schema.
type Schema struct {
	Of      any    // a pointer to the type
	Package string // its import path
	Title   string
	// Text says which types are text in YAML, and by which pattern.
	Text map[reflect.Type]string
	// Change mends what the types alone do not say; may be nil.
	Change func(*jsonschema.Schema)
}

// JSON returns the schema, for the package in the working directory.
func (s Schema) JSON(t *testing.T) []byte {
	t.Helper()
	r := &jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, ExpandedStruct: true, DoNotReference: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			if pattern, is := s.Text[t]; is {
				return &jsonschema.Schema{Type: "string", Pattern: pattern}
			}
			return nil
		}}
	if err := r.AddGoComments(s.Package, "."); err != nil {
		t.Fatal(err)
	}
	for k, v := range r.CommentMap {
		r.CommentMap[k] = strings.Join(strings.Fields(v), " ")
	}
	out := r.Reflect(s.Of)
	out.ID, out.Title = "", s.Title
	if s.Change != nil {
		s.Change(out)
	}
	b, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// Golden compares a file with what it should hold, or writes it.
func Golden(t *testing.T, name string, want []byte, update bool) {
	t.Helper()
	got, err := os.ReadFile(name)
	if err == nil && bytes.Equal(got, want) {
		return
	}
	if !update {
		t.Fatalf("%s is not what the types say (%v); make generate writes it anew", name, err)
	}
	if err := os.WriteFile(name, want, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Fatalf("%s is written; run again without -update", name)
}

// Table is a document with the table of a schema's fields put where it says.
func Table(t *testing.T, document string, schema []byte) []byte {
	t.Helper()
	const begin, end = "<!-- fields: generated, make generate -->\n", "<!-- end of fields -->\n"
	var s jsonschema.Schema
	if err := json.Unmarshal(schema, &s); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| field | required | means |\n|---|---|---|\n")
	fields(&b, &s, "")
	old, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(old), begin)
	_, tail, found2 := strings.Cut(rest, end)
	if !found || !found2 {
		t.Fatalf("%s has no place for the fields", document)
	}
	return []byte(head + begin + b.String() + end + tail)
}

// fields writes a row for each field below s.
func fields(b *strings.Builder, s *jsonschema.Schema, prefix string) {
	if s.Properties == nil {
		return
	}
	for p := s.Properties.Oldest(); p != nil; p = p.Next() {
		required := ""
		for _, r := range s.Required {
			if r == p.Key {
				required = "yes"
			}
		}
		text := strings.ReplaceAll(p.Value.Description, "|", "\\|")
		_, text, _ = strings.Cut(text, " ") // the field's name in Go
		for _, verb := range []string{"is ", "are ", "says ", "say "} {
			text = strings.TrimPrefix(text, verb)
		}
		b.WriteString("| `" + prefix + p.Key + "` | " + required + " | " + strings.Replace(text, "Required: ", "", 1) + " |\n")
		inner := p.Value
		name := prefix + p.Key
		if inner.Items != nil {
			inner, name = inner.Items, name+"[]"
			if len(inner.OneOf) == 2 {
				inner = inner.OneOf[1]
			}
		}
		if a := inner.AdditionalProperties; a != nil && a.Properties != nil {
			inner, name = a, name+".NAME"
		}
		fields(b, inner, name+".")
	}
}

// Validator returns a function that asks another library whether YAML fits a
// schema.
func Validator(t *testing.T, schema []byte) func([]byte) error {
	t.Helper()
	doc, err := validator.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(b []byte) error {
		var v any
		if err := yaml.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		return s.Validate(v)
	}
}
