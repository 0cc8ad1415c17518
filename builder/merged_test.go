package builder

import (
	"archive/tar"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// packedFiles is a package with files, directories and links, written as in put. A file
// holds the package's name and its own.
func packedFiles(t *testing.T, c *contents, p apk.Package, names ...string) *part {
	t.Helper()
	if p.Version == "" {
		p.Version = "1"
	}
	var files layers.Part
	for _, name := range names {
		body := p.Name + " " + name
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(body))}
		if from, to, is := strings.Cut(name, "->"); is {
			h, body = tar.Header{Typeflag: tar.TypeSymlink, Name: from, Linkname: to, Mode: 0o777}, ""
		} else if from, to, is := strings.Cut(name, "=>"); is {
			h, body = tar.Header{Typeflag: tar.TypeLink, Name: from, Linkname: to}, ""
		} else if strings.HasSuffix(name, "/") {
			h, body = tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}, ""
		}
		if err := files.Add(c.spool, h, p.String(), strings.NewReader(body)); err != nil {
			t.Fatal(err)
		}
	}
	return &part{Package: &p, Files: files}
}

// layouts are what a base layout has of the top of the root.
var layouts = map[string][]string{
	"apart": {"bin/", "lib/", "sbin/", "usr/", "usr/bin/", "usr/lib/", "usr/sbin/", "var/", "run/", "var/run->../run"},
	"merged": {"bin->usr/bin", "lib->usr/lib", "sbin->usr/sbin", "usr/", "usr/bin/", "usr/lib/", "usr/sbin/",
		"var/", "run/", "var/run->../run"},
}

// merging merges packages, those of the base layout first, and returns the tree.
func merging(t *testing.T, all *contents, layout []string, parts ...*part) (*layers.Tree, []*apk.Installed, error) {
	t.Helper()
	parts = append(parts, packedFiles(t, all, apk.Package{Name: baseLayout}, layout...))
	var names []string
	for _, p := range parts {
		names = append(names, p.Package.Name)
	}
	tree := layers.NewTree(all.spool)
	list, err := merge(context.Background(), tree, asked(names...), parts, newScripts(tree, nil, time.Unix(0, 0)))
	return tree, list, err
}

// TestBothLayouts: packages that have their files in /bin and /lib and those that have them
// in /usr come together in both layouts, and so do the builder's own.
func TestBothLayouts(t *testing.T) {
	for what, layout := range layouts {
		t.Run(what, func(t *testing.T) {
			all := newContents(t)
			old := packedFiles(t, all, apk.Package{Name: "old"}, "bin/", "bin/busybox", "bin/sh->/bin/busybox", "sbin/init->../bin/busybox",
				"lib/libold.so", "lib/modules/", "lib/modules/6.1/", "lib/modules/6.1/kernel/a.ko", "bin/twice", "bin/other=>bin/twice", "var/run/old")
			merged := packedFiles(t, all, apk.Package{Name: "new"}, "usr/bin/", "usr/bin/new", "usr/sbin/newd", "usr/lib/libnew.so",
				"usr/bin/env->new")
			changed := packedFiles(t, all, apk.Package{Name: "script"}, "lib/script/conf")
			changed.Scripts = map[string][]byte{postInstall: []byte("echo more >>/lib/script/conf; chmod 711 /bin/new /usr/bin/new; exit 0\n")}
			tree, list, err := merging(t, all, layout, old, merged, changed)
			if err != nil {
				t.Fatal(err)
			}
			at := map[string]string{}
			for _, e := range tree.Entries() {
				at[e.Name] = e.Source
			}
			dirs := map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}
			for _, name := range []string{"bin/busybox", "bin/sh", "sbin/init", "lib/libold.so", "lib/modules/6.1/kernel/a.ko", "bin/twice",
				"bin/other"} {
				want := name
				if dir, rest, _ := strings.Cut(name, "/"); what == "merged" {
					want = dirs[dir] + "/" + rest
				}
				if at[want] != "old-1" {
					t.Errorf("/%s is not at /%s", name, want)
				}
				if what == "merged" && at[name] != "" {
					t.Errorf("/%s is at that very name", name)
				}
			}
			if at["run/old"] != "old-1" || at["usr/bin/new"] != "new-1" || at["usr/lib/libnew.so"] != "new-1" {
				t.Errorf("%q", at)
			}
			for _, name := range []string{initFile, shell} {
				if !runs(tree, name) {
					t.Errorf("/%s is no program", name)
				}
			}
			if e := tree.Lookup("bin/busybox"); !strings.HasPrefix(e.Source, "old") {
				t.Errorf("/bin/busybox is %s's", e.Source)
			}
			if err := tree.AddFile(tar.Header{Name: "lib/modules/6.1/modules.dep"}, builderSource, nil); err != nil {
				t.Fatal(err)
			}
			if e := tree.Lookup("lib/modules/6.1/modules.dep"); e == nil || len(tree.Below("lib/modules/6.1")) != 3 {
				t.Errorf("the files of the modules are not beside them: %v", e)
			}
			inDatabase(t, tree, list, what)
		})
	}
}

// inDatabase compares apk's database: files are called what their packages call them.
func inDatabase(t *testing.T, tree *layers.Tree, list []*apk.Installed, layout string) {
	t.Helper()
	p := asked("old")
	p.Image = &spec.Image{Name: "x", Release: "1"}
	if err := writeDatabase(tree, p, byName(list), time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	b, err := tree.ReadFile("lib/apk/db/installed", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]string{}
	pkg, dir := "", ""
	for line := range strings.Lines(string(b)) {
		switch kind, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":"); kind {
		case "P":
			pkg = text
		case "F":
			dir = text
		case "R":
			files[pkg] = append(files[pkg], strings.TrimPrefix(dir+"/"+text, "/"))
		}
	}
	for pkg, want := range map[string]string{
		"old": "bin/busybox bin/other bin/sh bin/twice lib/libold.so lib/modules/6.1/kernel/a.ko sbin/init var/run/old",
		"new": "usr/bin/env usr/bin/new usr/lib/libnew.so usr/sbin/newd", "script": "lib/script/conf",
	} {
		if got := strings.Join(slices.Sorted(slices.Values(files[pkg])), " "); got != want {
			t.Errorf("the database has of %s\n%s, want\n%s", pkg, got, want)
		}
	}
	own := files[imagePackage]
	if own = slices.DeleteFunc(own, func(name string) bool { return strings.HasPrefix(name, "etc/") }); layout == "merged" &&
		!slices.Contains(own, "usr/lib/modules/6.1/modules.dep") || slices.ContainsFunc(own, func(name string) bool {
		return strings.Contains(name, "lib/apk/db")
	}) {
		t.Errorf("the database has of the image %q", own)
	}
}

// TestOneFileByTwoNames: where /bin is a link, /bin/x and /usr/bin/x are one file, and
// two packages have it only where apk lets them.
func TestOneFileByTwoNames(t *testing.T) {
	for what, c := range map[string]struct {
		layout string
		a, z   apk.Package
		names  [2]string
		want   string // of the error; "" for the file of z
	}{
		"two files":     {"apart", apk.Package{}, apk.Package{}, [2]string{"bin/x", "usr/bin/x"}, ""},
		"one file":      {"merged", apk.Package{}, apk.Package{}, [2]string{"bin/x", "usr/bin/x"}, "/usr/bin/x belongs to a-1 too"},
		"the other way": {"merged", apk.Package{}, apk.Package{}, [2]string{"usr/bin/x", "bin/x"}, "/usr/bin/x belongs to a-1 too"},
		"a link": {"merged", apk.Package{}, apk.Package{},
			[2]string{"lib/x", "usr/lib/x->../../lib/x"}, "/usr/lib/x belongs to a-1 too"},
		"one replaces":       {"merged", apk.Package{}, apk.Package{Replaces: deps(t, "a")}, [2]string{"sbin/x", "usr/sbin/x"}, ""},
		"one package's":      {"merged", apk.Package{Origin: "o"}, apk.Package{Origin: "o"}, [2]string{"bin/x", "usr/bin/x"}, ""},
		"another link's":     {"merged", apk.Package{}, apk.Package{}, [2]string{"run/x", "var/run/x"}, "/run/x belongs to a-1 too"},
		"another link apart": {"apart", apk.Package{}, apk.Package{}, [2]string{"run/x", "var/run/x"}, "/run/x belongs to a-1 too"},
	} {
		t.Run(what, func(t *testing.T) {
			all := newContents(t)
			c.a.Name, c.z.Name = "a", "z"
			tree, _, err := merging(t, all, layouts[c.layout], packedFiles(t, all, c.a, c.names[0]), packedFiles(t, all, c.z, c.names[1]))
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			name, _, _ := strings.Cut(c.names[1], "->")
			if b, err := tree.ReadFile(name, 100); string(b) != "z "+c.names[1] {
				t.Errorf("/%s: %q, %v", name, b, err)
			}
		})
	}
}

// TestLinksOnTheWay: packages' files go through links of any package, as with apk, to
// directories of the root alone.
func TestLinksOnTheWay(t *testing.T) {
	evil := apk.Package{Name: "evil"}
	replaces := apk.Package{Name: "evil", Replaces: deps(t, baseLayout)}
	for what, c := range map[string]struct {
		layout []string
		parts  func(*contents) []*part
		want   string
	}{
		"loop": {[]string{"bin->sbin", "sbin->bin"}, nil, "leads through more than 40 symbolic links"},
		"out of the root": {[]string{"bin->../../usr/bin"}, nil,
			"/bin -> ../../usr/bin (from alpine-baselayout-1), which leads out of the root"},
		"absolute and up":   {[]string{"bin->/../usr/bin"}, nil, "/bin -> /../usr/bin (from alpine-baselayout-1), which leads out of the root"},
		"the root itself":   {[]string{"bin->/"}, nil, "/bin -> / (from alpine-baselayout-1), which leads out of the root"},
		"a process' root":   {[]string{"bin->/proc/1/root/bin"}, nil, "which leads out of the root"},
		"devices":           {[]string{"bin->dev"}, nil, "/bin -> dev (from alpine-baselayout-1), which leads out of the root"},
		"a file":            {[]string{"bin->usr/file", "usr/file"}, nil, `"usr/file" is a directory in one layer and not in another`},
		"another package's": {layouts["apart"], func(c *contents) []*part { return []*part{packedFiles(t, c, evil, "etc/x->../usr/bin")} }, ""},
		"another package's, and through it": {layouts["apart"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, evil, "opt->usr/lib"), packedFiles(t, c, apk.Package{Name: "x"}, "opt/x/file")}
		}, ""},
		"another package's, that leads out": {layouts["apart"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, evil, "opt->../../etc"), packedFiles(t, c, apk.Package{Name: "x"}, "opt/x/file")}
		}, "/opt/x leads through the link /opt -> ../../etc (from evil-1), which leads out of the root"},
		"its own": {layouts["apart"], func(c *contents) []*part { return []*part{packedFiles(t, c, evil, "opt->usr/lib", "opt/file")} },
			""},
		"a hard link through it": {layouts["apart"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, evil, "etc/file", "opt->etc", "usr/y=>opt/file")}
		}, ""},
		"a directory that it makes": {layouts["apart"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, evil, "opt->usr/lib", "opt/")}
		}, ""},
		"a directory in the link's place": {layouts["merged"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, replaces, "bin/", "bin/y")}
		}, ""},
		"a link in the link's place": {layouts["merged"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, evil, "bin->usr/lib")}
		}, "/bin belongs to alpine-baselayout-1 too"},
		"a link that replaces it": {layouts["merged"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, replaces, "bin->usr/lib"), packedFiles(t, c, apk.Package{Name: "x"}, "bin/file")}
		}, ""},
		"a file that replaces it": {layouts["merged"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, replaces, "bin"), packedFiles(t, c, apk.Package{Name: "x"}, "bin/file")}
		}, `"bin" is a directory in one layer and not in another`},
		"twice in one package": {layouts["merged"], func(c *contents) []*part {
			return []*part{packedFiles(t, c, evil, "bin/y", "usr/bin/y->../../bin/y")}
		}, "/usr/bin/y is the file /bin/y too, which the package has already"},
	} {
		t.Run(what, func(t *testing.T) {
			all := newContents(t)
			parts := []*part{packedFiles(t, all, apk.Package{Name: "zz"}, "bin/x")}
			if c.parts != nil {
				parts = c.parts(all)
			}
			tree, _, err := merging(t, all, c.layout, parts...)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			case what == "a directory in the link's place":
				if e := tree.At("bin"); e == nil || e.Typeflag != tar.TypeSymlink || tree.At("usr/bin/y") == nil {
					t.Errorf("/bin is %v", e)
				}
			}
		})
	}
}

// TestLinksOfPackagesInBothLayouts: what the builder makes in place of a package's script
// takes nothing from another package, by whatever name.
func TestLinksOfPackagesInBothLayouts(t *testing.T) {
	for what, layout := range layouts {
		all := newContents(t)
		tree, _, err := merging(t, all, layout, packedFiles(t, all, apk.Package{Name: "busybox-suid"}, "bin/bbsuid"),
			packedFiles(t, all, apk.Package{Name: "util-linux"}, "usr/bin/mount", "bin/umount"))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, name := range []string{"bin/mount", "bin/umount", "bin/su"} {
			at, err := tree.Resolve(name, false)
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf("%c", tree.At(at).Typeflag)
		}
		if want := map[string]string{"apart": "202", "merged": "002"}[what]; got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
}

// TestTriggersInBothLayouts: a trigger is for the directories that its package names, and
// those are the same by another name where a link makes them so.
func TestTriggersInBothLayouts(t *testing.T) {
	for what, want := range map[string]string{"apart": "/lib/modules/6.1", "merged": "/lib/modules/6.1 /usr/lib/modules/6.1"} {
		all := newContents(t)
		tree, _, err := merging(t, all, layouts[what], packedFiles(t, all, apk.Package{Name: "linux"}, "lib/modules/6.1/a"))
		if err != nil {
			t.Fatal(err)
		}
		dirs, err := triggering(tree, []string{"/lib/modules/*", "/usr/lib/modules/*"})
		if got := strings.Join(slices.Sorted(slices.Values(dirs)), " "); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", what, got, err, want)
		}
	}
}
