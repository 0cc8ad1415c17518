package script

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/store"
)

const (
	judgeDir  = "judge"     // of a judge's root, for what runs its shell
	judgeMark = ".unjudged" // file that a command makes which the judge does not have
)

// judge is a real busybox in a root of its own, which scripts run in too.
type judge struct {
	name string // in testdata/differing.txt
	base string // directory that the root is copied from
	part layers.Part
	kept *store.File
	// shared are files of judgeDir, which no script writes to: copies of the root
	// have links to them.
	shared map[string]string
}

// fill puts the files of testdata/root.txtar into the judge's root, and reads it.
func (j *judge) fill(t *testing.T) {
	t.Helper()
	for _, f := range rootFiles(t) {
		name := filepath.Join(j.base, f.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch f.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			os.Remove(name)
			err = os.Symlink(f.Linkname, name)
		default:
			err = os.WriteFile(name, []byte(f.body), 0o644)
		}
		if err == nil {
			err = os.Lchown(name, f.Uid, f.Gid)
		}
		if err == nil && f.Typeflag != tar.TypeSymlink {
			err = syscall.Chmod(name, uint32(f.Mode))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mknod(filepath.Join(j.base, "dev/null"), syscall.S_IFCHR|0o666, 1<<8|3); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Chmod(filepath.Join(j.base, "dev/null"), 0o666); err != nil {
		t.Fatal(err)
	}
	archive, err := exec.Command("tar", "--exclude=./dev/null", "-cf", "-", "-C", j.base, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	j.kept = storetest.File(t, 4<<30)
	if j.part, err = layers.ReadTar(bytes.NewReader(archive), j.kept, j.name); err != nil {
		t.Fatal(err)
	}
}

// tree returns the judge's root as a tree.
func (j *judge) tree(t *testing.T) *layers.Tree {
	t.Helper()
	tree := layers.NewTree(j.kept)
	for _, e := range j.part {
		copied := *e
		if err := tree.Place(&copied); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

// verdict is what a judge did with a script.
type verdict struct {
	status int
	output string
	tree   map[string]string
	unable bool // the judge has no command that the script calls
}

// run runs a script with the real busybox in a copy of the root.
func (j *judge) run(t *testing.T, script []byte) verdict {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if out, err := exec.Command("cp", "-a", j.base, root).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	defer os.RemoveAll(dir)
	for name, from := range j.shared {
		if err := os.Link(from, filepath.Join(root, judgeDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/"+options().Name, script, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	// The script gets its name as apk gives it, and no environment but the path.
	cmd := exec.CommandContext(ctx, "unshare", "-m", "-p", "-f", "-n", "--kill-child", "env", "-i", "PATH="+searchPath, "chroot", root,
		"/bin/sh")
	if first, _, _ := bytes.Cut(script, []byte("\n")); bytes.HasPrefix(first, []byte("#!")) && bytes.Contains(first, []byte(" -e")) {
		cmd.Args = append(cmd.Args, "-e")
	}
	cmd.Args = append(cmd.Args, options().Name, "2.0", "1.0")
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	v := verdict{status: cmd.ProcessState.ExitCode(), output: string(out), tree: realTree(t, root)}
	_, err = os.Lstat(filepath.Join(root, judgeMark))
	v.unable = err == nil
	return v
}

// named is a script with what it is called.
type named struct {
	file, name string
	text       []byte
}

// tableScripts are the scripts of testdata.
func tableScripts(t *testing.T) []named {
	t.Helper()
	files, err := filepath.Glob("testdata/scripts/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	var list []named
	for _, name := range files {
		a, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range a.Files {
			if what, is := strings.CutSuffix(f.Name, ".sh"); is {
				list = append(list, named{filepath.Base(name), what, f.Data})
			}
		}
	}
	return list
}

// differing reads testdata/differing.txt: the scripts that do something else here
// than with a judge, each with the reason.
func differing(t *testing.T, judge string) map[string]string {
	t.Helper()
	b, err := os.ReadFile("testdata/differing.txt")
	if err != nil {
		t.Fatal(err)
	}
	list := map[string]string{}
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.SplitN(line, " | ", 3)
		if len(f) != 3 || f[2] == "" {
			t.Fatalf("testdata/differing.txt: %q: want judges | script | reason", line)
		}
		if slices.Contains(strings.Fields(f[0]), judge) {
			list[f[1]] = f[2]
		}
	}
	return list
}

// tally counts what became of scripts.
type tally struct{ same, intended, refused, unsupported, different, unable int }

// share is how many of the scripts that a judge could run are done with the same
// tree and status, or refused for a good reason.
func (n tally) share() float64 {
	right := n.same + n.intended + n.refused
	return float64(right) / float64(right+n.unsupported+n.different)
}

func (n tally) String() string {
	return fmt.Sprintf("%d the same, %d different on purpose, %d rightly refused, %d not supported, %d differ, %d not judged; "+
		"share done: %.4f",
		n.same, n.intended, n.refused, n.unsupported, n.different, n.unable, n.share())
}

// rightly reports whether a refusal is right: for what a build cannot do, or what the
// real shell takes for no script either.
func rightly(r *Refusal, v verdict) bool {
	switch r.Kind {
	case Foreign, Secret, Background, Machine, Limit, Unfit:
		return true
	case Unsupported, Syntax:
		said := strings.Contains(v.output, "syntax error") || strings.Contains(v.output, "bad substitution")
		return v.status == 2 && said
	}
	return false
}

// judged runs scripts both ways and compares the trees and the statuses.
func (j *judge) judged(t *testing.T, scripts []named) tally {
	t.Helper()
	var n tally
	expected := differing(t, j.name)
	for _, f := range scripts {
		tree := j.tree(t)
		o := options("2.0", "1.0")
		o.Epoch = time.Now()
		before := string(tree.Listing())
		res, err := Run(context.Background(), tree, NewAccounts(nil, o.Epoch), f.text, o)
		if err != nil {
			t.Fatalf("%s: %s: %v", f.file, f.name, err)
		}
		v := verdict{}
		if res.Refusal == nil || res.Refusal.Kind == Unsupported || res.Refusal.Kind == Syntax {
			v = j.run(t, f.text)
		}
		if res.Refusal != nil {
			if string(tree.Listing()) != before {
				t.Errorf("%s: %s: refused, and the tree has changed", f.file, f.name)
			}
			if !rightly(res.Refusal, v) {
				n.unsupported++
				t.Logf("%s: not supported: %v", f.name, res.Refusal)
				continue
			}
			n.refused++
			continue
		}
		if v.unable {
			n.unable++
			continue
		}
		why := differs(ourTree(t, tree), v.tree)
		if v.status != res.Status {
			why += fmt.Sprintf("status: %d, busybox' is %d\n", res.Status, v.status)
		}
		reason, listed := expected[f.name]
		switch {
		case why == "" && listed:
			t.Errorf("%s is the same: take it out of testdata/differing.txt", f.name)
			n.same++
		case why == "":
			n.same++
		case listed:
			n.intended++
			t.Logf("%s: different: %s", f.name, reason)
		default:
			n.different++
			t.Errorf("%s: %s:\n%s\n%sours wrote:\n%s\nbusybox wrote:\n%s", f.file, f.name, f.text, why, res.Output, v.output)
		}
	}
	t.Logf("%d scripts: %v", len(scripts), n)
	return n
}
