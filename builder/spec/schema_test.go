package spec

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	validator "github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the golden files")

func reflectSchema(t *testing.T) []byte {
	t.Helper()
	text := func(description, pattern string) *jsonschema.Schema {
		return &jsonschema.Schema{Type: "string", Description: description, Pattern: pattern}
	}
	r := &jsonschema.Reflector{FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true, ExpandedStruct: true, DoNotReference: true,
		Mapper: func(t reflect.Type) *jsonschema.Schema {
			switch t {
			case reflect.TypeFor[Size]():
				return text("", `^[1-9][0-9]* ?(MiB|GiB)$`)
			case reflect.TypeFor[Duration]():
				return text("", `^([0-9.]+(ms|s|m|h))+$`)
			case reflect.TypeFor[Time]():
				return text("", `^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:\d{2})$`)
			}
			return nil
		}}
	if err := r.AddGoComments("github.com/pikelet-os/pikelet/builder/spec", "."); err != nil {
		t.Fatal(err)
	}
	r.CommentMap = oneLine(r.CommentMap)
	s := r.Reflect(&Image{})
	s.ID, s.Title = "", "Pikelet image spec"
	overlays, _ := s.Properties.Get("overlays")
	overlays.Items = &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, overlays.Items}}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

// oneLine joins the lines of comments.
func oneLine(m map[string]string) map[string]string {
	for k, v := range m {
		m[k] = strings.Join(strings.Fields(v), " ")
	}
	return m
}

func TestSchemaIsFresh(t *testing.T) {
	got := reflectSchema(t)
	if *update {
		if err := os.WriteFile("image.schema.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatal("written; run again without -update")
	}
	if !bytes.Equal(got, Schema()) {
		t.Error("image.schema.json is not what the types say; go test ./builder/spec -update writes it anew")
	}
}

// TestSchemaFitsSpecs lets another library judge: specs that we take fit the
// schema, and mistakes editors should see do not.
func TestSchemaFitsSpecs(t *testing.T) {
	doc, err := validator.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := validator.NewCompiler()
	if err := c.AddResource("image.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("image.json")
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte) error {
		var v any
		if err := yaml.Unmarshal(b, &v); err != nil {
			t.Fatal(err)
		}
		return s.Validate(v)
	}
	files, _ := filepath.Glob("../../examples/*.yaml")
	files = append(files, "../../cmd/pikelet/init.yaml")
	if len(files) < 3 {
		t.Fatalf("only %v", files)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := check(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, change := range [][2]string{{"name: lab", "nome: lab"}, {"name: lab", ""}, {"packages: [alpine-base]", "packages: alpine-base"},
		{"packages:", "slot-size: big\npackages:"}, {"packages:", "overlays: [{nam: ssh}]\npackages:"}} {
		if err := check([]byte(strings.Replace(good, change[0], change[1], 1))); err == nil {
			t.Errorf("%q for %q fits the schema", change[1], change[0])
		}
	}
}

// TestReferenceIsFresh: the table in docs/spec.md is made of the same comments.
func TestReferenceIsFresh(t *testing.T) {
	const begin, end = "<!-- fields: generated, make generate -->\n", "<!-- end of fields -->\n"
	var s jsonschema.Schema
	if err := json.Unmarshal(Schema(), &s); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("| field | required | means |\n|---|---|---|\n")
	fields(&b, &s, "")
	old, err := os.ReadFile("../../docs/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(old), begin)
	_, tail, found2 := strings.Cut(rest, end)
	if !found || !found2 {
		t.Fatal("docs/spec.md has no place for the fields")
	}
	now := head + begin + b.String() + end + tail
	if *update {
		if err := os.WriteFile("../../docs/spec.md", []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Fatal("written; run again without -update")
	}
	if now != string(old) {
		t.Error("docs/spec.md is not what the types say; make generate writes it anew")
	}
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
		for _, verb := range []string{"is ", "are ", "says "} {
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
