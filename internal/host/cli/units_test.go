package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestServiceUnitsUseExistingFlags checks the unit and the init script that start a
// boot server.
func TestServiceUnitsUseExistingFlags(t *testing.T) {
	files, err := filepath.Glob("../../../docs/units/*")
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	c := newServe(quietApp())
	for _, file := range append(files, "../../../overlays/seed-node/files/etc/init.d/pikelet-serve.tmpl") {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`--([a-z-]+)`).FindAllStringSubmatch(string(b), -1)
		if len(found) < 3 {
			t.Errorf("%s has %d flags", file, len(found))
		}
		for _, f := range found {
			if c.Flags().Lookup(f[1]) == nil {
				t.Errorf("%s: pikelet serve has no --%s", file, f[1])
			}
		}
	}
}
