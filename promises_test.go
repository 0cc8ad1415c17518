package pikelet

import (
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPromisesNameExistingTests: make test runs each test that docs/security.md names.
func TestPromisesNameExistingTests(t *testing.T) {
	there := map[string]bool{}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (p == "build" || p == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil || !builtByMakeTest(f) {
			return err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				there[fn.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`(Test[A-Za-z0-9]+)`").FindAllStringSubmatch(string(text), -1)
	if len(names) < 30 {
		t.Errorf("docs/security.md names %d tests, want at least 30", len(names))
	}
	for _, m := range names {
		if !there[m[1]] {
			t.Errorf("docs/security.md names %s, which make test does not run", m[1])
		}
	}
}

// TestContributingNamesExistingPaths: files, directories and make targets
// that CONTRIBUTING.md names exist.
func TestContributingNamesExistingPaths(t *testing.T) {
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	makefile, err := os.ReadFile("Makefile")
	if err != nil {
		t.Fatal(err)
	}
	fenced := regexp.MustCompile("`([^`\\n]+)`|\\]\\(([^)#]+)\\)").FindAllStringSubmatch(string(text), -1)
	file := regexp.MustCompile(`^[a-z][\w.*/-]*(/[\w.*/-]*|\.(go|md|yaml|txt))$`)
	paths := 0
	for _, m := range fenced {
		name := m[1] + m[2]
		if target, ok := strings.CutPrefix(name, "make "); ok && !strings.Contains(string(makefile), "\n"+target+":") {
			t.Errorf("CONTRIBUTING.md names %s, which the Makefile does not have", name)
		}
		pattern := strings.ReplaceAll(name, "NAME", "*")
		if !file.MatchString(pattern) || name == "log/slog" {
			continue
		}
		paths++
		if found, err := filepath.Glob(pattern); err != nil || len(found) == 0 {
			t.Errorf("CONTRIBUTING.md names %s, which does not exist", name)
		}
	}
	if paths < 30 {
		t.Errorf("CONTRIBUTING.md names %d paths, want at least 30: the pattern misses some", paths)
	}
}

// builtByMakeTest reports whether a file is built on Linux without tags.
func builtByMakeTest(f *ast.File) bool {
	for _, g := range f.Comments {
		for _, c := range g.List {
			if x, err := constraint.Parse(c.Text); err == nil && c.Pos() < f.Package {
				return x.Eval(func(tag string) bool { return tag == "linux" || tag == "unix" || tag == "amd64" })
			}
		}
	}
	return true
}
