//go:build pairs

package delta

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var programs = flag.String("programs", "", "directory of programs that several releases of Go built")

// TestKnownReleases: the tables of every program there are found, and its
// functions by their names.
func TestKnownReleases(t *testing.T) {
	list, err := filepath.Glob(*programs + "/*/*")
	if err != nil || len(list) < 4 {
		t.Fatalf("%d programs, %v", len(list), err)
	}
	for _, name := range list {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		p, ok := programOf(b)
		if !ok || p.tables == nil {
			t.Errorf("%s: its tables are not known", name)
			continue
		}
		f, ok := functionsOf(b, p)
		if !ok {
			t.Errorf("%s: its functions are not found", name)
			continue
		}
		found := map[string]bool{}
		for i := range f.d.funcs {
			found[f.name(i)] = true
		}
		for _, want := range []string{"runtime.main", "main.main", "net/http.(*Server).Serve"} {
			if !found[want] {
				t.Errorf("%s: there is no %s among %d functions", name, want, len(found))
			}
		}
	}
}
