package apk

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestSolveAsApkDoes replays what the real apk chose (make oracle asks it
// afresh).
func TestSolveAsApkDoes(t *testing.T) {
	b, err := os.ReadFile("testdata/apk-choices.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := strings.Split(string(b), "\ncase ")[1:]
	if len(cases) < 40 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, c := range cases {
		lines := strings.Split(strings.TrimSpace(c), "\n")
		var from []Source
		var world, want string
		possible := true
		for _, line := range lines[1:] {
			if tag, ok := strings.CutPrefix(line, "-- repository @"); ok {
				from = append(from, Source{Index: &Index{}, Tag: tag})
			} else if w, ok := strings.CutPrefix(line, "world "); ok {
				world = w
			} else if w, ok := strings.CutPrefix(line, "chosen"); ok {
				want = strings.TrimSpace(w)
			} else if line == "impossible" {
				possible = false
			} else {
				x := from[len(from)-1].Index
				x.Packages = append(x.Packages, goldenPackage(t, line, len(from)))
			}
		}
		got, err := Solve(deps(t, world), from)
		var names []string
		for _, p := range got {
			names = append(names, p.Name+" "+p.Version)
		}
		if text := strings.Join(names, ", "); text != want || (err == nil) != possible {
			t.Errorf("case %s: %s\ngot  %s (%v)\nwant %s", lines[0], world, text, err, want)
		}
	}
}

func goldenPackage(t *testing.T, line string, repository int) *Package {
	t.Helper()
	f := strings.Split(line, "|")
	p := &Package{Depends: deps(t, f[1]), Provides: deps(t, f[2]), InstallIf: deps(t, f[3])}
	if _, err := fmt.Sscan(f[0], &p.Name, &p.Version); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	if _, err := fmt.Sscan(f[4], &p.ProviderPriority); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	p.Identity = fmt.Sprint("Q1", p, repository)
	return p
}
