package openrc

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/pikelet-os/pikelet/internal/shared/depends"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
)

var update = flag.Bool("update", false, "write the goldens anew")

// archive returns the files of a testdata archive by name.
func archive(t *testing.T, name string) map[string]string {
	t.Helper()
	a, err := txtar.ParseFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range a.Files {
		files[f.Name] = string(f.Data)
	}
	return files
}

// plant returns a tree with files. Those with #! at their start can be executed.
func plant(t *testing.T, files map[string]string) *layers.Tree {
	t.Helper()
	tree := layers.NewTree(storetest.File(t, 1<<26))
	for name, text := range files {
		mode := int64(0o644)
		if strings.HasPrefix(text, "#!") || strings.HasPrefix(name, "usr/lib/rc/bin/") || strings.HasPrefix(name, "sbin/") {
			mode = 0o755
		}
		put(t, tree, name, mode, text)
	}
	return tree
}

func compute(t *testing.T, tree *layers.Tree) *Result {
	t.Helper()
	r, err := Compute(context.Background(), tree)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// summary is a result as text.
func summary(r *Result) string {
	var b strings.Builder
	if r.record != nil {
		b.WriteString(texts(r))
	}
	for _, l := range r.Left {
		fmt.Fprintf(&b, "left %s: %s\n", l.Service, l.Reason)
	}
	return b.String()
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	name = "testdata/" + name
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant what %s has\n%s", got, name, want)
	}
}

// TestKeywords: every way in which a service says something, one service each.
func TestKeywords(t *testing.T) {
	golden(t, "services.golden", summary(compute(t, plant(t, archive(t, "services.txtar")))))
}

// TestStarter computes what OpenRC of the starter repository does: see also
// TestSameAsOpenRC.
func TestStarter(t *testing.T) {
	r := compute(t, starterTree(t))
	if len(r.Left) > 0 {
		t.Errorf("left: %v", r.Left)
	}
	golden(t, "starter.golden", summary(r))
}

// TestChangesNothing: the tree is as it was, whatever a script wants to do.
func TestChangesNothing(t *testing.T) {
	tree := plant(t, archive(t, "services.txtar"))
	before := string(tree.Listing())
	compute(t, tree)
	if after := string(tree.Listing()); after != before {
		t.Errorf("the tree is now\n%s", after)
	}
}

// node is what a tree would be on a node.
func node(t *testing.T, tree *layers.Tree) fstest.MapFS {
	t.Helper()
	fs := fstest.MapFS{}
	for _, e := range tree.Entries() {
		f := &fstest.MapFile{Mode: e.FileInfo().Mode()}
		switch {
		case e.FileInfo().Mode().IsRegular():
			b, err := tree.ReadFile(e.Name, 1<<28)
			if err != nil {
				t.Fatal(err)
			}
			f.Data = b
		case e.Linkname != "":
			f.Data = []byte(e.Linkname)
		}
		fs[e.Name] = f
	}
	return fs
}

// TestStale: what is changed on a node makes stale those services that it may
// decide about, and no others.
func TestStale(t *testing.T) {
	tree := plant(t, archive(t, "services.txtar"))
	r := compute(t, tree)
	all := []string{}
	for _, s := range r.record.Services {
		all = append(all, s.Name)
	}
	for name, c := range map[string]struct{ path, text, stale string }{
		"nothing":                          {"etc/other", "x", ""},
		"a value that is for start only":   {"etc/conf.d/plain", "opts=\"-o 4711\"\n", ""},
		"a value that an argument is of":   {"etc/conf.d/plain", "plain_args='-x'\n", ""},
		"a value with a default":           {"etc/conf.d/plain", "keygen=yes\n", ""},
		"a need":                           {"etc/conf.d/plain", "rc_need=net\n", "plain"},
		"a value that decides":             {"etc/conf.d/decides", "mode=b\n", "decides"},
		"a value that is made of one":      {"etc/conf.d/decides", "base=x\n", "decides"},
		"a command":                        {"etc/conf.d/plain", "opts=$(cat /etc/x)\n", "plain"},
		"a value gone":                     {"etc/conf.d/configured", "", "configured"},
		"another value":                    {"etc/conf.d/configured", "rc_after=other\n", "configured"},
		"a value more":                     {"etc/conf.d/configured", "rc_need=\"configured-first\"\nx=1\n", "configured"},
		"a script":                         {"etc/init.d/plain", "#!/sbin/openrc-run\n", "plain star"},
		"rc.conf":                          {"etc/rc.conf", "rc_need=x\n", "all"},
		"rc.conf.d":                        {"etc/rc.conf.d/x.conf", "rc_need=x\n", "all"},
		"a file that a script reads":       {"etc/ssh/sshd_config", "ListenAddress 10.0.0.1\n", "listens"},
		"a file that a script looks for":   {"etc/looked-for", "", "looks"},
		"a script that another looks for":  {"etc/init.d/maybe", "#!/sbin/openrc-run\n", "exists star"},
		"a new script":                     {"etc/init.d/zz", "#!/sbin/openrc-run\n", "star"},
		"the file that all of net.* reads": {"etc/conf.d/net", "rc_use=x\n", "net.eth0"},
	} {
		t.Run(name, func(t *testing.T) {
			root := node(t, tree)
			mode := os.FileMode(0o644)
			if strings.HasPrefix(c.text, "#!") {
				mode = 0o755
			}
			root[c.path] = &fstest.MapFile{Data: []byte(c.text), Mode: mode}
			if dir := path.Dir(c.path); root[dir] == nil {
				root[dir] = &fstest.MapFile{Mode: os.ModeDir | 0o755}
			}
			good := r.record.On(root)
			var stale []string
			for _, name := range all {
				if good.Stale[name] != "" {
					stale = append(stale, name)
				}
			}
			want := strings.Fields(c.stale)
			if c.stale == "all" {
				want = all
			}
			slices.Sort(stale)
			slices.Sort(want)
			if !slices.Equal(stale, want) {
				t.Errorf("stale: %v, want %v", good.Stale, want)
			}
			if good.All {
				t.Error("they are all services, but one was not evaluated")
			}
		})
	}
}

// TestAll: only where all services there are were evaluated, and none is stale.
func TestAll(t *testing.T) {
	files := archive(t, "services.txtar")
	for name := range files {
		if strings.HasPrefix(name, "etc/init.d/refused-") || name == "etc/init.d/awk-other" || name == "etc/init.d/star" {
			delete(files, name)
		}
	}
	tree := plant(t, files)
	r := compute(t, tree)
	root := node(t, tree)
	if good := r.record.On(root); !good.All || len(good.Stale) > 0 {
		t.Fatalf("all: %v, stale: %v", good.All, good.Stale)
	}
	delete(root, "etc/init.d/not-openrc")
	if r.record.On(root).All {
		t.Error("a script is gone, and they are all services")
	}
}

// TestInstall: the script is changed in two places, and says what it is for.
func TestInstall(t *testing.T) {
	tree := plant(t, archive(t, "services.txtar"))
	r := compute(t, tree)
	if err := r.Install(tree, "test", time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
	text, err := tree.ReadFile("usr/lib/rc/sh/gendepends.sh", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "gendepends.golden", string(text))
	if e := tree.At("usr/lib/rc/sh/gendepends.sh"); e.Mode != 0o755 {
		t.Errorf("its mode is %o", e.Mode)
	}
	b, err := tree.ReadFile(depends.File, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if record, err := depends.Decode(b); err != nil || len(record.Services) != len(r.record.Services) {
		t.Errorf("%s: %v", depends.File, err)
	}
}

// TestLSBHeader: a service with a header of the Linux Standard Base is left to its node,
// and the others are computed as they are without it.
func TestLSBHeader(t *testing.T) {
	files := archive(t, "services.txtar")
	delete(files, "etc/init.d/star")
	want := summary(compute(t, plant(t, files)))
	files["etc/init.d/lsb"] = "#!/bin/sh\n### BEGIN INIT INFO\n# Provides: nowhere\n# Required-Start: $network\n### END INIT INFO\n"
	tree := plant(t, files)
	r := compute(t, tree)
	got := summary(r)
	const left = "left lsb: line 1: lsb2rcconf: unsupported: it has a header of the Linux Standard Base\n"
	if strings.Replace(got, left, "", 1) != want || !strings.Contains(got, left) || r.record.Complete {
		t.Errorf("computed\n%s\nwithout the header it is\n%s", got, want)
	}
	// It may provide what another one needs.
	if err := r.Check(tree, map[string][]string{"default": {"broken"}}); err != nil {
		t.Error(err)
	}
}

func TestUnknownScript(t *testing.T) {
	for name, c := range map[string]struct{ from, to, want string }{
		"another loop":            {"for RC_SERVICE in *; do", "for RC_SERVICE in  *; do", "not like those that are known"},
		"no first line":           {"#!/bin/sh\n", "", "not like those that are known"},
		"it needs a program":      {"_done_dirs=\n", "/usr/bin/foreign\n", "would have to run"},
		"it prints more":          {"_done_dirs=\n", "echo x\n", "prints more than services"},
		"services somewhere else": {"", "", "there are scripts in /usr/local/etc/init.d"},
	} {
		t.Run(name, func(t *testing.T) {
			files := archive(t, "services.txtar")
			const file = "usr/lib/rc/sh/gendepends.sh"
			files[file] = strings.Replace(files[file], c.from, c.to, 1)
			files["usr/bin/foreign"] = "#!/usr/bin/python3\n"
			if c.from == "" {
				files["usr/local/etc/init.d/x"] = "#!/sbin/openrc-run\n"
			}
			tree := plant(t, files)
			before := files[file]
			r := compute(t, tree)
			if err := r.Install(tree, "test", time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
			last := r.Left[len(r.Left)-1]
			if last.Service != "" || !strings.Contains(last.Reason, c.want) {
				t.Errorf("left: %v, want %q", r.Left, c.want)
			}
			if b, _ := tree.ReadFile(file, 1<<20); string(b) != before || tree.Lookup(depends.File) != nil {
				t.Error("something was installed")
			}
		})
	}
}

func TestNoOpenRC(t *testing.T) {
	tree := plant(t, map[string]string{"etc/x": ""})
	r := compute(t, tree)
	if err := r.Install(tree, "test", time.Unix(1e9, 0)); err != nil || len(r.Left) > 0 || tree.Lookup(depends.File) != nil {
		t.Errorf("%v, %v", r.Left, err)
	}
	if err := r.Check(tree, map[string][]string{"default": {"x"}}); err != nil {
		t.Error(err)
	}
}

// TestCheck: services of runlevels and what they lack.
func TestCheck(t *testing.T) {
	services := []Service{
		{Name: "app", Needs: []string{"net", "data"}}, {Name: "data", Needs: []string{"localmount", "disk"}}, {Name: "localmount"},
		{Name: "networking", Provides: []string{"net"}, Needs: []string{"localmount"}}, {Name: "wifi", Needs: []string{"radio"}},
		{Name: "a", Needs: []string{"b"}}, {Name: "b", Needs: []string{"a"}},
		{Name: "eth", Provides: []string{"link"}, Needs: []string{"gone"}}, {Name: "lone", Needs: []string{"link"}},
		{Name: "two", Needs: []string{"either"}}, {Name: "e1", Provides: []string{"either"}, Needs: []string{"gone"}},
		{Name: "e2", Provides: []string{"either"}}, {Name: "guess", Needs: []string{"unread"}},
	}
	for name, c := range map[string]struct{ level, names, want string }{
		"direct":                  {"boot", "wifi", "runlevel boot: the service wifi needs radio, and no service of the image is or"},
		"through another":         {"default", "app", "runlevel default: the service app needs data, which needs disk, and no service"},
		"through what provides":   {"default", "lone", "the service lone needs eth, which needs gone, and"},
		"nothing is missing":      {"default", "networking localmount", ""},
		"in a circle":             {"default", "a b", ""},
		"one of two":              {"default", "two", ""},
		"what is unknown":         {"default", "no-such", ""},
		"what may be provided":    {"default", "guess", ""},
		"broken, but not started": {"default", "localmount", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(services, map[string][]string{c.level: strings.Fields(c.names)}, func(w string) bool { return w != "unread" })
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want == "":
			case err == nil || !strings.Contains(err.Error(), c.want):
				t.Errorf("got %v, want %q", err, c.want)
			case !strings.Contains(strings.Join(hint.Of(err), "\n"), "or take "+c.names+" out of services."+c.level):
				t.Errorf("advice: %q", hint.Of(err))
			}
		})
	}
}

// TestCheckTree: a real tree, in which a service is left that may provide what is missing.
func TestCheckTree(t *testing.T) {
	tree := plant(t, archive(t, "services.txtar"))
	r := compute(t, tree)
	for names, want := range map[string]string{"broken": "needs nowhere", "configured": "", "perhaps": "", "uses": ""} {
		err := r.Check(tree, map[string][]string{"default": {names}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", names, err, want)
		}
	}
}
