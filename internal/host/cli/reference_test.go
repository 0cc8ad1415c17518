package cli

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var update = flag.Bool("update", false, "rewrite the generated reference of the command")

// referenceDate is on the man pages, which must not change with the day they are
// generated on.
var referenceDate = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

// TestReferenceIsFresh: docs/cli and docs/man are what the commands say of
// themselves. make generate rewrites them.
func TestReferenceIsFresh(t *testing.T) {
	for dir, write := range map[string]func(c *cobra.Command, dir string) error{
		"docs/cli": doc.GenMarkdownTree,
		"docs/man": func(c *cobra.Command, dir string) error {
			return doc.GenManTree(c, &doc.GenManHeader{Section: "1", Date: &referenceDate, Source: "Pikelet", Manual: "Pikelet Manual"}, dir)
		},
	} {
		root := newRoot(newApp("", nil, io.Discard, io.Discard))
		root.DisableAutoGenTag = true // its date is that of the day
		made := t.TempDir()
		if err := write(root, made); err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join("../../..", dir)
		if *update {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, os.DirFS(made)); err != nil {
				t.Fatal(err)
			}
			t.Errorf("%s is rewritten; run the test again without -update", dir)
		}
		want, got := filesOf(t, made), filesOf(t, dir)
		for name, text := range want {
			if !bytes.Equal(got[name], text) {
				t.Errorf("%s/%s is not fresh; make generate rewrites it", dir, name)
			}
		}
		for name := range got {
			if want[name] == nil {
				t.Errorf("%s/%s describes no command; make generate removes it", dir, name)
			}
		}
	}
}

// TestCommandsAreDocumented: each command that does something has an example,
// and each one of the top level has a group.
func TestCommandsAreDocumented(t *testing.T) {
	root := newRoot(newApp("", nil, io.Discard, io.Discard))
	each(root, func(c *cobra.Command) {
		if c.Example == "" && !c.HasSubCommands() {
			t.Errorf("%s has no example", c.CommandPath())
		}
		if c.Parent() == root && c.GroupID == "" {
			t.Errorf("%s is in no group", c.CommandPath())
		}
	})
}

func filesOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range list {
		b, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name()] = b
	}
	return files
}
