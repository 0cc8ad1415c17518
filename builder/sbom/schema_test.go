//go:build clients

package sbom

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

var (
	schemaFile = flag.String("spdx-schema", "", "SPDX's JSON schema of version 2.3, a file")
	billFile   = flag.String("document", "", "another bill of materials that must fit the schema, a file")
)

// TestSchema: what is written fits the schema that SPDX publishes, and a document
// that lacks what SPDX requires does not.
func TestSchema(t *testing.T) {
	s, err := jsonschema.NewCompiler().Compile(*schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	check := func(b []byte) error {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return s.Validate(v)
	}
	ours, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(*billFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{ours, other} {
		if err := check(b); err != nil {
			t.Error(err)
		}
		for _, field := range []string{`"spdxVersion"`, `"licenseId"`, `"relationshipType"`, `"checksumValue"`} {
			if bytes.Contains(b, []byte(field)) && check(bytes.Replace(b, []byte(field), []byte(`"other"`), 1)) == nil {
				t.Errorf("without %s it fits the schema all the same", field)
			}
		}
	}
}
