package pikelet

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// words are what our texts do not say, each with what to write instead. They
// are looked for in comments and strings of Go files, and in all of Markdown,
// YAML and the Makefile.
var words = []struct {
	not     *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b[Ff]olders?\b`), "directory"},
	{regexp.MustCompile(`\b(say|says|tell|tells) whether\b`), "reports whether"},
	{regexp.MustCompile(`\b[Kk]ernel('s)? words?\b`), "kernel command line"},
	{regexp.MustCompile(`\bFACTS\b|\bPEERS\b|\bQEMU\.md\b`), "docs/platform.md N.M, or a public URL"},
	{regexp.MustCompile(`\b[Nn]obody\b`), "no one, or a sentence about the thing itself"},
	{regexp.MustCompile(`\b(that|which) (is|are) none\b`), "invalid X"},
	{regexp.MustCompile(`\b(of|in) another life\b`), "of an earlier installation"},
	{regexp.MustCompile(`\b(does|do) not count\b`), "is ignored, or invalid"},
}

// keys are words of a format rather than of ours: the YAML key folder, the
// Unix user nobody.
var keys = regexp.MustCompile("\\bfolder:|[`\"'.\\[]folder[`\"'\\]]|-folder\\b|\\bnobody:|[`\"]nobody[`\"]")

// generated is a table that make generate writes from comments of Go types,
// which are looked at themselves.
var generated = regexp.MustCompile(`(?s)<!-- fields: generated.*?<!-- end of fields -->`)

// pronoun begins the text of an error that names no subject.
var pronoun = regexp.MustCompile(`(errors\.New|fmt\.Errorf)\(["` + "`" + `]its? `)

// Limits of what can be read at one go.
const (
	maxLine     = 140 // characters, a tab being one
	maxFunction = 80  // lines
	maxFile     = 450 // lines
)

// unswept are directories whose texts still break these rules, but for those
// about sources. Take an entry out as soon as its directory keeps them; the
// test tells when.
var unswept []string

func TestTextsKeepToTheWordList(t *testing.T) {
	sections := map[string]bool{}
	platform, err := os.ReadFile("docs/platform.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)^##+ (\d+(?:\.\d+)?)\.? `).FindAllStringSubmatch(string(platform), -1) {
		sections[m[1]] = true
	}
	cited := regexp.MustCompile(`docs/platform\.md (\d+(?:\.\d+)?)`)
	broken := map[string]int{} // entries of unswept
	err = filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (p == "build" || p == ".git" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || p == "words_test.go" {
			return nil
		}
		findings, text, err := findingsIn(p)
		if err != nil {
			return err
		}
		for _, m := range cited.FindAllStringSubmatch(text, -1) {
			if !sections[m[1]] {
				findings = append(findings, p+" cites section "+m[1]+" of docs/platform.md, which has no such section")
			}
		}
		if i := slices.IndexFunc(unswept, func(dir string) bool { return strings.HasPrefix(p, dir+"/") }); i >= 0 {
			cites := func(finding string) bool { return strings.Contains(finding, "docs/platform.md") }
			broken[unswept[i]] += len(findings)
			findings = slices.DeleteFunc(findings, func(f string) bool { return !cites(f) })
		}
		for _, f := range findings {
			t.Error(f)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range unswept {
		t.Logf("%s: %d findings left", dir, broken[dir])
		if broken[dir] == 0 {
			t.Errorf("%s keeps the rules: take it out of unswept", dir)
		}
	}
}

// findingsIn returns what breaks the rules in a file, and the file's prose.
func findingsIn(p string) (findings []string, prose string, err error) {
	ext := filepath.Ext(p)
	if !slices.Contains([]string{".go", ".md", ".yaml", ".yml"}, ext) && p != "Makefile" {
		return nil, "", nil
	}
	b, err := os.ReadFile(p)
	if err != nil {
		return nil, "", err
	}
	report := func(line int, text string) {
		findings = append(findings, (token.Position{Filename: p, Line: line}).String()+": "+text)
	}
	prose = generated.ReplaceAllStringFunc(string(b), func(table string) string { return strings.Repeat("\n", strings.Count(table, "\n")) })
	if ext == ".go" {
		prose = goProse(b)
		sizes(p, b, report)
	}
	for i, line := range strings.Split(prose, "\n") {
		line = keys.ReplaceAllString(line, "")
		for _, w := range words {
			if bad := w.not.FindString(line); bad != "" {
				report(i+1, "says "+bad+": write "+w.instead)
			}
		}
	}
	return findings, prose, nil
}

// goProse returns a Go file with all but its comments and strings blanked, so
// that lines keep their numbers.
func goProse(b []byte) string {
	prose := slices.Repeat([]byte{' '}, len(b))
	for i, c := range b {
		if c == '\n' {
			prose[i] = c
		}
	}
	set := token.NewFileSet()
	var s scanner.Scanner
	f := set.AddFile("", set.Base(), len(b))
	s.Init(f, b, nil, scanner.ScanComments)
	for {
		pos, tok, lit := s.Scan()
		switch tok {
		case token.EOF:
			return string(prose)
		case token.COMMENT, token.STRING:
			copy(prose[f.Offset(pos):], lit)
		}
	}
}

// sizes reports lines, functions and a file that are too long, and errors
// that begin with a pronoun.
func sizes(p string, b []byte, report func(line int, text string)) {
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	for i, line := range lines {
		if utf8.RuneCountInString(line) > maxLine && !strings.Contains(line, "`yaml:") { // a tag cannot be split
			report(i+1, "the line is too long")
		}
		if pronoun.MatchString(line) {
			report(i+1, "the error begins with a pronoun: name its subject")
		}
	}
	if len(lines) > maxFile {
		report(maxFile, "the file is too long")
	}
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, p, b, parser.SkipObjectResolution)
	if err != nil {
		report(1, err.Error())
		return
	}
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && set.Position(fn.End()).Line-set.Position(fn.Pos()).Line >= maxFunction {
			report(set.Position(fn.Pos()).Line, "the function "+fn.Name.Name+" is too long")
		}
	}
}
