package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// module is a module with one check and its test.
var module = map[string]string{
	"go.mod": "module example.test/m\n\ngo 1.24\n",
	"a/a.go": `package a

// Check reports whether n may pass.
func Check(n int) bool {
	if n > 3 {
		return false
	}
	return n != 2
}
`,
	"a/a_test.go": `package a

import "testing"

func TestCheck(t *testing.T) {
	if Check(4) || !Check(3) {
		t.Error("4 passes, or 3 does not")
	}
}

func TestBroken(t *testing.T) { t.Error("by itself") }
`,
}

func diff(test, hunk string) string {
	return "# promise: what is too large is refused\n# package: ./a\n# test: " + test + "\n--- a/a/a.go\n+++ b/a/a.go\n" + hunk
}

func fill(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// judged tries mutants on the module, and returns what was printed.
func judged(t *testing.T, mutants map[string]string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	fill(t, dir, module)
	for name, text := range mutants {
		fill(t, dir, map[string]string{"testdata/mutants/" + name + ".patch": text})
	}
	list, err := load(filepath.Join(dir, "testdata/mutants"), regexp.MustCompile(""), 0)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	err = trial{root: dir, hang: 3 * time.Second, workers: 2, out: &out}.judge(context.Background(), list)
	for name, text := range module {
		if b, rerr := os.ReadFile(filepath.Join(dir, name)); rerr != nil || string(b) != text {
			t.Errorf("the tree itself was changed: %s (%v)", name, rerr)
		}
	}
	return out.String(), err
}

func TestMutantOutcome(t *testing.T) {
	const weak = "@@ -4,3 +4,3 @@\n func Check(n int) bool {\n-\tif n > 3 {\n+\tif n > 4 {\n \t\treturn false\n"
	const loop = "@@ -4,2 +4,4 @@\n func Check(n int) bool {\n+\tfor n > 3 {\n+\t}\n \tif n > 3 {\n"
	out, err := judged(t, map[string]string{
		"killed":   diff("TestCheck", weak),
		"loops":    "# hangs: it never returns\n" + diff("TestCheck", loop),
		"slow":     diff("TestCheck", loop),
		"survives": diff("TestCheck", "@@ -7,3 +7,3 @@\n \t}\n-\treturn n != 2\n+\treturn true\n }\n"),
		"old":      diff("TestCheck", "@@ -4,3 +4,3 @@\n func Other(n int) bool {\n-\tif n > 3 {\n+\tif n > 4 {\n \t\treturn false\n"),
		"no-go":    diff("TestCheck", "@@ -4,3 +4,3 @@\n func Check(n int) bool {\n-\tif n > 3 {\n+\tif nn > 3 {\n \t\treturn false\n"),
	})
	for _, want := range []string{
		`killed    killed  .* what is too large is refused`,
		`killed    loops  `,
		`TIMEOUT   slow  .* no test failed within 3s`,
		`SURVIVED  survives  .* what is too large is refused`,
		`ERROR     old  .* it does not apply: git apply`,
		`(?s)ERROR     no-go  .* it does not compile:.*undefined: nn`,
		`mutants: 6, killed: 2, survived: 1\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if err == nil || !strings.HasPrefix(err.Error(), "1 survived: ") || !strings.HasSuffix(err.Error(), "; 3 could not be tried") {
		t.Errorf("%v", err)
	}
}

// TestBaseline: a test that is missing, or fails by itself, shows nothing.
func TestBaseline(t *testing.T) {
	const hunk = "@@ -4,3 +4,3 @@\n func Check(n int) bool {\n-\tif n > 3 {\n+\tif n > 4 {\n \t\treturn false\n"
	for test, want := range map[string]string{
		"TestNone":             "m: no test TestNone passes in ./a",
		"TestCheck|TestBroken": "without a mutant, tests of ./a fail",
	} {
		if out, err := judged(t, map[string]string{"m": diff(test, hunk)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q\n%s", test, err, want, out)
		}
	}
}

func TestParse(t *testing.T) {
	good := diff("TestA|TestB", "@@ -1 +1 @@\n-a\n+b\n")
	m, err := parse("m", []byte(good))
	if err != nil || m.promise != "what is too large is refused" || strings.Join(m.packages, " ") != "./a" ||
		strings.Join(m.tests, " ") != "TestA TestB" {
		t.Errorf("%+v, %v", m, err)
	}
	for what, change := range map[string][2]string{
		"no promise":    {"# promise: what is too large is refused\n", ""},
		"no package":    {"./a\n", "\n"},
		"another's":     {"./a\n", "example.test/m\n"},
		"no test":       {"# test: TestA|TestB\n", ""},
		"a pattern":     {"TestA|", "Test.*|"},
		"an empty name": {"TestA|", "|"},
		"a typing slip": {"# promise", "# promises"},
		"no diff":       {"@@ -1 +1 @@", ""},
	} {
		if _, err := parse("m", []byte(strings.Replace(good, change[0], change[1], 1))); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestSample: some of the project's own mutants, so that every run of the
// tests sees the tool and its files work. make mutants tries all.
func TestSample(t *testing.T) {
	list, err := load("../../../testdata/mutants", regexp.MustCompile(""), 3)
	if err != nil || len(list) != 3 {
		t.Fatal(len(list), err)
	}
	var out bytes.Buffer
	if err := (trial{root: "../../..", hang: time.Minute, workers: 1, out: &out}).judge(context.Background(), list); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
}
