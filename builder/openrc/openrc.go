// Package openrc computes what the services of an image depend on, as OpenRC's
// gendepends.sh would on a node, by evaluating the image's own gendepends.sh over
// the tree. Nothing of the image is executed.
//
// What was computed is left in the image, and its gendepends.sh is told to use it in
// the first run of a boot (docs/decisions/0017-dependencies.md).
package openrc

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pikelet-os/pikelet/builder/script"
	"github.com/pikelet-os/pikelet/internal/shared/depends"
	"github.com/pikelet-os/pikelet/layers"
)

// gendepends are the places of the script: Debian's package, Alpine's, and what OpenRC
// itself has for an installation below /usr.
var gendepends = []string{"usr/lib/rc/sh/gendepends.sh", "lib/rc/sh/gendepends.sh", "usr/libexec/rc/sh/gendepends.sh"}

// maxScript is what builder/script reads of a script.
const maxScript = 64 << 10

// scriptDirs are where OpenRC looks for scripts beside /etc; Pikelet's images
// have none there.
var scriptDirs = []string{"usr/etc/init.d", "usr/local/etc/init.d"}

// Left is a service that is not computed: its node does it.
type Left struct {
	Service string // "" for all
	Reason  string
}

// Result is what came of it.
type Result struct {
	// Services are what the services say, in the order of gendepends.sh.
	Services []Service
	Left     []Left
	record   *depends.Record
	script   string // the path of gendepends.sh, without a slash before it
	text     []byte
}

// Compute evaluates the depend functions of all scripts in the tree's /etc/init.d.
// The error is one of ctx, or of a tree that cannot be read.
func Compute(ctx context.Context, t *layers.Tree) (*Result, error) {
	r := &Result{}
	name, text, err := find(t)
	if err != nil || name == "" {
		return r, err
	}
	r.script, r.text = name, text
	for _, dir := range scriptDirs {
		if len(t.Children(dir)) > 0 {
			r.Left = append(r.Left, Left{Reason: "there are scripts in /" + dir})
			return r, nil
		}
	}
	libexec := "/" + path.Dir(path.Dir(name))
	// What OpenRC sets before it runs the script (setup_environment of librc-depend.c, and
	// env_config of src/shared/misc.c).
	environment := map[string]string{"RC_SCRIPTDIRS": "/etc", "RC_UNAME": "Linux", "RC_LIBEXECDIR": libexec, "RC_RUNLEVEL": "sysinit",
		"PATH": libexec + "/sbin:" + libexec + "/bin:/bin:/sbin:/usr/bin:/usr/sbin"}
	parts, err := script.Evaluate(ctx, t, text, script.Inquiry{Name: "/" + name, Part: "RC_SVCNAME", Environment: environment,
		Commands: commands(t)})
	if err != nil {
		return nil, err
	}
	scan := parts[len(parts)-1]
	switch {
	case scan.Refusal != nil:
		r.Left = append(r.Left, Left{Reason: scan.Refusal.String()})
		return r, nil
	case scan.Output != "":
		r.Left = append(r.Left, Left{Reason: "/" + name + " prints more than services"})
		return r, nil
	}
	return r, r.take(t, parts[:len(parts)-1], scan)
}

// find returns the script, or "" where there is none.
func find(t *layers.Tree) (name string, text []byte, err error) {
	for _, name := range gendepends {
		text, err := t.ReadFile(name, maxScript)
		if err == nil {
			at, err := t.Resolve(name, true)
			return at, text, err
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", nil, err
		}
	}
	return "", nil, nil
}

// take makes a record of what was evaluated.
func (r *Result) take(t *layers.Tree, parts []script.Part, scan script.Part) error {
	in := inputs{tree: t, at: map[string]int{}}
	record := &depends.Record{Complete: true}
	var err error
	if record.Scan, err = in.of(scan); err != nil {
		return err
	}
	for _, p := range parts {
		reason := ""
		s := depends.Service{Name: p.Name, Text: p.Output, Variables: p.Variables}
		switch {
		case p.Refusal != nil:
			reason = p.Refusal.String()
		case !depends.Quotable(s):
			reason = "it prints unusual characters"
		}
		if reason == "" {
			var services []Service
			if services, err = Parse([]byte(s.Text)); err != nil || len(services) > 1 || len(services) == 1 && services[0].Name != p.Name {
				reason = "it prints more than its own dependencies"
			}
			r.Services = append(r.Services, services...)
		}
		if reason != "" {
			record.Complete = false
			r.Left = append(r.Left, Left{p.Name, reason})
			continue
		}
		if s.Inputs, err = in.of(p); err != nil {
			return err
		}
		record.Services = append(record.Services, s)
	}
	record.Inputs = in.list
	r.record = record
	return nil
}

// inputs are the files that were looked at, each once.
type inputs struct {
	tree *layers.Tree
	list []depends.Input
	at   map[string]int
}

// of returns the inputs of a part that a node may change.
func (in *inputs) of(p script.Part) ([]int, error) {
	var list []int
	for _, name := range p.Looked {
		if fixed(name) {
			continue
		}
		i, err := in.add("/"+name, in.state)
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	for _, dir := range p.Listed {
		if fixed(dir) {
			continue
		}
		i, _ := in.add("/"+dir+"/", func(string) (depends.Input, error) {
			return depends.Input{State: depends.NamesState(in.tree.Children(dir))}, nil
		})
		list = append(list, i)
	}
	return list, nil
}

// fixed reports whether a name is in a directory that is read-only on a node: all but
// those of node.WritablePaths.
func fixed(name string) bool {
	top, _, _ := strings.Cut(name, "/")
	return slices.Contains([]string{"bin", "lib", "sbin", "usr"}, top) && !strings.HasPrefix(name, "usr/libexec/kubernetes/")
}

func (in *inputs) add(path string, state func(name string) (depends.Input, error)) (int, error) {
	if i, there := in.at[path]; there {
		return i, nil
	}
	one, err := state(strings.Trim(path, "/"))
	if err != nil {
		return 0, err
	}
	one.Path = path
	in.at[path] = len(in.list)
	in.list = append(in.list, one)
	return len(in.list) - 1, nil
}

func (in *inputs) state(name string) (depends.Input, error) {
	e := in.tree.At(name)
	switch {
	case e == nil:
		return depends.Input{State: depends.Absent}, nil
	case e.Typeflag == tar.TypeDir:
		return depends.Input{State: depends.DirState}, nil
	case e.Typeflag == tar.TypeSymlink:
		return depends.Input{State: depends.LinkState(e.Linkname)}, nil
	case e.Typeflag != tar.TypeReg:
		return depends.Input{State: "other"}, nil // no node has that state
	}
	b, err := in.tree.ReadFile(name, maxInput)
	if err != nil {
		return depends.Input{}, err
	}
	one := depends.Input{State: depends.FileState(b, e.Mode&0o111 != 0)}
	if path.Dir(name) == "etc/conf.d" {
		one.Sets, one.Plain = depends.Sets(b)
	}
	return one, nil
}

// maxInput is the size of the largest file that builder/script reads.
const maxInput = 8 << 20

// The lines of gendepends.sh behind which ours come.
const (
	loop  = "\tfor RC_SERVICE in *; do\n"
	known = "\t\t" + depends.Function + " \"$RC_SERVICE\" && continue\n"
)

// begin is what a gendepends.sh does first: see depends.ScriptFile.
const begin = `
# Pikelet computed dependencies when it built this image. The first run of a boot
# takes those from ` + depends.ScriptFile + ` whose files have not changed.
` + depends.Function + `() { return 1; }
` + depends.AllFunction + `() { return 1; }
if [ -s ` + depends.ScriptFile + ` ]; then
	. ` + depends.ScriptFile + `
	: >` + depends.ScriptFile + `
	` + depends.AllFunction + ` && exit 0
fi
`

// Install leaves what was computed in the tree, and has its gendepends.sh use it. It
// does nothing where nothing could be computed.
func (r *Result) Install(t *layers.Tree, source string, epoch time.Time) error {
	if r.record == nil {
		return nil
	}
	first, rest, is := strings.Cut(string(r.text), "\n")
	if !is || !strings.HasPrefix(first, "#!") || strings.Count(rest, loop) != 1 {
		r.Left = append(r.Left, Left{Reason: "/" + r.script + " is not like those that are known"})
		return nil
	}
	b, err := r.record.Encode()
	if err != nil {
		return err
	}
	if err := t.AddFile(tar.Header{Name: strings.Trim(depends.File, "/"), Mode: 0o644, ModTime: epoch}, source, b); err != nil {
		return err
	}
	text := first + "\n" + begin + strings.Replace(rest, loop, loop+known, 1)
	old := t.At(r.script)
	if old == nil {
		return fmt.Errorf("/%s: %w", r.script, fs.ErrNotExist)
	}
	return t.AddFile(tar.Header{Name: r.script, Mode: old.Mode, ModTime: epoch}, source, []byte(text))
}

// Record returns what Install leaves, nil where that is nothing.
func (r *Result) Record() *depends.Record { return r.record }
