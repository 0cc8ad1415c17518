package script

import (
	"archive/tar"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/store"
)

var update = flag.Bool("update", false, "write what scripts do to testdata")

// epoch is 20000 days after 1970.
var epoch = time.Unix(20000*86400, 0).UTC()

// rootFile is one file of testdata/root.txtar.
type rootFile struct {
	tar.Header
	body string
}

func rootFiles(t testing.TB) []rootFile {
	t.Helper()
	a, err := txtar.ParseFile("testdata/root.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var list []rootFile
	for _, f := range a.Files {
		var kind byte
		var mode int64
		var uid, gid int
		var name string
		if _, err := fmt.Sscanf(f.Name, "%c%o %d:%d %s", &kind, &mode, &uid, &gid, &name); err != nil {
			t.Fatalf("%q: %v", f.Name, err)
		}
		h := tar.Header{Typeflag: map[byte]byte{'d': tar.TypeDir, 'f': tar.TypeReg, 'l': tar.TypeSymlink}[kind], Name: name, Mode: mode,
			Uid: uid, Gid: gid, ModTime: time.Unix(1e9, 0)}
		body := string(f.Data)
		if kind == 'l' {
			h.Linkname, body = strings.TrimSpace(body), ""
		}
		h.Size = int64(len(body))
		list = append(list, rootFile{h, body})
	}
	return list
}

// newTree returns the tree of testdata/root.txtar.
func newTree(t testing.TB, file *store.File) *layers.Tree {
	t.Helper()
	tree := layers.NewTree(file)
	for _, f := range rootFiles(t) {
		if err := tree.Add(f.Header, "root", strings.NewReader(f.body)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// options are those of all tests.
func options(args ...string) Options {
	return Options{Name: "test.post-install", Args: args, Epoch: epoch, Source: "test", Elsewhere: map[string]bool{"depmod": true}}
}

// runCase runs a script over a new tree and describes what came of it.
func runCase(t *testing.T, file *store.File, script string) string {
	t.Helper()
	tree := newTree(t, file)
	before := string(tree.Listing())
	old := contents(t, tree)
	res, err := Run(context.Background(), tree, NewAccounts(nil, epoch), []byte(script), options("2.0", "1.0"))
	if err != nil {
		return "error: " + err.Error() + "\n"
	}
	if res.Refusal != nil {
		if after := string(tree.Listing()); after != before {
			t.Errorf("%q was refused and changed the tree to\n%s", script, after)
		}
		return "refused: " + res.Refusal.String() + "\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "status %d\n", res.Status)
	for line := range strings.Lines(res.Output) {
		b.WriteString("> " + strings.TrimSuffix(line, "\n") + "\n")
	}
	now := contents(t, tree)
	for _, name := range res.Changed {
		e := tree.At(name)
		if e == nil {
			fmt.Fprintf(&b, "gone /%s\n", name)
			continue
		}
		fmt.Fprintf(&b, "%c%04o %d:%d /%s", map[byte]rune{tar.TypeDir: 'd', tar.TypeReg: 'f', tar.TypeSymlink: 'l'}[e.Typeflag], e.Mode, e.Uid,
			e.Gid, name)
		if e.Typeflag == tar.TypeSymlink {
			b.WriteString(" -> " + e.Linkname)
		}
		b.WriteString("\n")
		for _, line := range difference(old[name], now[name]) {
			b.WriteString("\t" + line + "\n")
		}
	}
	return b.String()
}

// contents returns the texts of a tree's files.
func contents(t *testing.T, tree *layers.Tree) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, e := range tree.Entries() {
		if e.Typeflag != tar.TypeReg {
			continue
		}
		r, err := e.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name] = string(b)
	}
	return all
}

// difference returns the lines that one text lost and another gained.
func difference(old, now string) []string {
	was, is := strings.SplitAfter(old, "\n"), strings.SplitAfter(now, "\n")
	var list []string
	quote := func(sign, line string) string {
		text, ended := strings.CutSuffix(line, "\n")
		if !ended {
			text += "\\"
		}
		if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			text = strconv.Quote(text)
		}
		return sign + text
	}
	for _, line := range was {
		if line != "" && !slices.Contains(is, line) {
			list = append(list, quote("- ", line))
		}
	}
	for _, line := range is {
		if line != "" && !slices.Contains(was, line) {
			list = append(list, quote("+ ", line))
		}
	}
	return list
}

// TestScripts runs the scripts of testdata and compares what they do with what is
// written down there. The oracle compares the same scripts with a real busybox.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/scripts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	kept := storetest.File(t, 1<<30)
	for _, name := range files {
		a, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var out txtar.Archive
		out.Comment = a.Comment
		wants := map[string]string{}
		for _, f := range a.Files {
			if what, is := strings.CutSuffix(f.Name, ".want"); is {
				wants[what] = string(f.Data)
			}
		}
		for _, f := range a.Files {
			what, is := strings.CutSuffix(f.Name, ".sh")
			if !is {
				continue
			}
			got := runCase(t, kept, string(f.Data))
			if strings.HasPrefix(got, "refused: "+string(Bug)) || !*update && got != wants[what] {
				t.Errorf("%s: %s:\n%s\ngot\n%swant\n%s", filepath.Base(name), what, f.Data, got, wants[what])
			}
			out.Files = append(out.Files, f, txtar.File{Name: what + ".want", Data: []byte(got)})
		}
		if *update {
			if err := os.WriteFile(name, txtar.Format(&out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}
