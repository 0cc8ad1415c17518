package nodeconfig

import (
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"

	"github.com/invopop/jsonschema"

	"github.com/pikelet-os/pikelet/internal/testing/schematest"
)

var update = flag.Bool("update", false, "write the golden files")

const importPath = "github.com/pikelet-os/pikelet/internal/shared/nodeconfig"

func schemaOf(t *testing.T, of any, title string) []byte {
	t.Helper()
	return schematest.Schema{Of: of, Package: importPath, Title: title,
		Text: map[reflect.Type]string{reflect.TypeFor[Duration](): `^([0-9]+d|([0-9.]+(ms|s|m|h))+)$`}}.JSON(t)
}

// both is a schema that an inventory fits, and a node's own file too.
func both(t *testing.T) []byte {
	var inventory, node jsonschema.Schema
	for s, of := range map[*jsonschema.Schema]any{&inventory: &Inventory{}, &node: &Config{}} {
		if err := json.Unmarshal(schemaOf(t, of, ""), s); err != nil {
			t.Fatal(err)
		}
		s.Version = ""
	}
	inventory.PatternProperties = map[string]*jsonschema.Schema{"^x-": {}}
	b, err := json.MarshalIndent(jsonschema.Schema{Version: jsonschema.Version, Title: "Pikelet node config or inventory",
		If:   &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Required: []string{"nodes"}}, {Required: []string{"defaults"}}}},
		Then: &inventory, Else: &node}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(b, '\n')
}

func TestSchemaIsFresh(t *testing.T) { schematest.Golden(t, "nodes.schema.json", both(t), *update) }

func TestReferenceIsFresh(t *testing.T) {
	const name = "../../../docs/nodes.md"
	schematest.Golden(t, name, schematest.Table(t, name, schemaOf(t, &Config{}, "")), *update)
}

// TestSchemaFits lets another library judge: what we take fits the schema, and
// mistakes editors should see do not.
func TestSchemaFits(t *testing.T) {
	check := schematest.Validator(t, Schema())
	starting, err := os.ReadFile("../../../internal/host/cli/nodes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(starting), string(full), "hostname: attic\n", "{}", "x-a: {b: c}\nnodes: [{hostname: attic}]"} {
		if err := check([]byte(text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	for _, text := range []string{"hostnam: attic", "hostname: Attic", "users: [{name: a}]", "console: yes please",
		"nodes: [{serial: xyz}]", "volume: {on: floppy}", "time: {wait: soon}", "y-a: {}\nnodes: [{hostname: attic}]"} {
		if err := check([]byte(text)); err == nil {
			t.Errorf("%q fits the schema", text)
		}
	}
}
