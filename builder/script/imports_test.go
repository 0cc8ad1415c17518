package script

import (
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestNothingOfTheHostIsReached: the package imports nothing by which a script could
// look at the computer that builds, or change it.
func TestNothingOfTheHostIsReached(t *testing.T) {
	allowed := strings.Fields(`archive/tar bytes context crypto/md5 crypto/sha1 crypto/sha256 crypto/sha512 encoding/hex errors fmt hash/fnv
		io maps path regexp slices strconv strings time unicode/utf8 mvdan.cc/sh/v3/syntax github.com/pikelet-os/pikelet/layers
		github.com/pikelet-os/pikelet/internal/shared/hint`)
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if p, _ := strconv.Unquote(i.Path.Value); !slices.Contains(allowed, p) {
				t.Errorf("%s imports %s", name, p)
			}
		}
	}
}
