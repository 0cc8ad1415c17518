package spec

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/pikelet-os/pikelet/internal/testing/schematest"
)

var update = flag.Bool("update", false, "write the golden files")

func TestSchemaIsFresh(t *testing.T) {
	want := schematest.Schema{Of: &Image{}, Package: "github.com/pikelet-os/pikelet/builder/spec", Title: "Pikelet image spec",
		Text: map[reflect.Type]string{
			reflect.TypeFor[Size]():     `^[1-9][0-9]* ?(MiB|GiB)$`,
			reflect.TypeFor[Duration](): `^([0-9.]+(ms|s|m|h))+$`,
			reflect.TypeFor[Time]():     `^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(Z|[+-]\d{2}:\d{2})$`,
		},
		Change: func(s *jsonschema.Schema) {
			overlays, _ := s.Properties.Get("overlays")
			overlays.Items = &jsonschema.Schema{OneOf: []*jsonschema.Schema{{Type: "string"}, overlays.Items}}
		}}.JSON(t)
	schematest.Golden(t, "image.schema.json", want, *update)
}

// TestSchemaFitsSpecs lets another library judge: specs that we take fit the
// schema, and mistakes editors should see do not.
func TestSchemaFitsSpecs(t *testing.T) {
	check := schematest.Validator(t, Schema())
	files := []string{"../../examples/demo.yaml", "../../examples/pi.yaml", "../../internal/host/cli/init.yaml"}
	for _, name := range files {
		b, err := os.ReadFile(filepath.FromSlash(name))
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
	const name = "../../docs/spec.md"
	schematest.Golden(t, name, schematest.Table(t, name, Schema()), *update)
}
