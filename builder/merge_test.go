package builder

import (
	"archive/tar"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

func deps(t *testing.T, text string) []apk.Dep {
	t.Helper()
	list, err := apk.ParseDeps(text)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// packed is a package with one file that holds the package's name.
func packed(t *testing.T, c *contents, p apk.Package, file string) *part {
	t.Helper()
	var files layers.Part
	h := tar.Header{Typeflag: tar.TypeReg, Name: file, Mode: 0o644, Size: int64(len(p.Name))}
	if err := files.Add(c.spool, h, p.String(), strings.NewReader(p.Name)); err != nil {
		t.Fatal(err)
	}
	return &part{Package: &p, Files: files}
}

// asked is a plan for packages.
func asked(names ...string) *Plan {
	return &Plan{Image: &spec.Image{Kernel: spec.Kernel{Package: "linux-rpi"}, Packages: names}}
}

// TestFilesOfTwoPackages: which package's file it is, wherever the two come in
// the order of names (chainguard-dev/apko#1223).
func TestFilesOfTwoPackages(t *testing.T) {
	for what, c := range map[string]struct {
		a, z apk.Package
		want string
	}{
		"the first replaces":      {apk.Package{Replaces: deps(t, "z")}, apk.Package{}, "a"},
		"the second replaces":     {apk.Package{}, apk.Package{Replaces: deps(t, "a")}, "z"},
		"priority":                {apk.Package{Replaces: deps(t, "z"), ReplacesPriority: 10}, apk.Package{Replaces: deps(t, "a")}, "a"},
		"dependencies come first": {apk.Package{Depends: deps(t, "z"), Origin: "o"}, apk.Package{Origin: "o"}, "a"},
		"replaces another version": {apk.Package{Version: "2"}, apk.Package{Replaces: deps(t, "a<1")},
			"package z-1: /etc/lab belongs to a-2 too"},
		"replaces nothing":           {apk.Package{}, apk.Package{}, "package z-1: /etc/lab belongs to a-1 too"},
		"the dependency comes first": {apk.Package{Depends: deps(t, "z")}, apk.Package{}, "package a-1: /etc/lab belongs to z-1 too"},
	} {
		c.a.Name, c.z.Name, c.z.Version = "a", "z", "1"
		if c.a.Version == "" {
			c.a.Version = "1"
		}
		all := newContents(t)
		tree := layers.NewTree(all.spool)
		_, err := merge(context.Background(), tree, asked("a", "z"), []*part{packed(t, all, c.a, "etc/lab"), packed(t, all, c.z, "etc/lab")},
			newScripts(tree, nil, time.Unix(0, 0)))
		if err != nil {
			if !strings.Contains(err.Error(), c.want) || len(c.want) == 1 {
				t.Errorf("%s: %v, want %q", what, err, c.want)
			}
			continue
		}
		if got, err := tree.ReadFile("etc/lab", 10); string(got) != c.want {
			t.Errorf("%s: the file is %q's, %v, want %q", what, got, err, c.want)
		}
	}
}

// TestScriptsInTheOrderOfDependencies: a user of a package belongs to a group
// that a package it depends on makes (alpinelinux/alpine-make-rootfs#26).
func TestScriptsInTheOrderOfDependencies(t *testing.T) {
	all := newContents(t)
	user := packed(t, all, apk.Package{Name: "aa-svc", Version: "1", Depends: deps(t, "zz-groups")}, "usr/aa")
	user.Scripts = map[string][]byte{".pre-install": []byte("adduser -S -D -H -h /var/empty -s /sbin/nologin -G zzgrp -g aasvc " +
		"aasvc 2>/dev/null\nexit 0\n")}
	group := packed(t, all, apk.Package{Name: "zz-groups", Version: "1"}, "usr/zz")
	group.Scripts = map[string][]byte{".pre-install": []byte("addgroup -S zzgrp 2>/dev/null\nexit 0\n")}
	tree := rootWith(t)
	s := newScripts(tree, nil, time.Unix(0, 0))
	if _, err := merge(context.Background(), tree, asked("aa-svc"), []*part{user, group}, s); err != nil || len(s.left) > 0 {
		t.Fatalf("%q, %v", s.left, err)
	}
	if got, _ := tree.ReadFile("etc/passwd", 1<<10); !strings.Contains(string(got), "\naasvc:x:") {
		t.Errorf("etc/passwd:\n%s", got)
	}
}

// TestBaseLayoutComesFirst: other packages' files go through its links.
func TestBaseLayoutComesFirst(t *testing.T) {
	all := newContents(t)
	var parts []*part
	for _, name := range []string{"aa", baseLayout, "zz"} {
		parts = append(parts, packed(t, all, apk.Package{Name: name, Version: "1"}, "usr/"+name))
	}
	tree := layers.NewTree(all.spool)
	list, err := merge(context.Background(), tree, asked("aa", baseLayout, "zz"), parts, newScripts(tree, nil, time.Unix(0, 0)))
	if err != nil || list[0].Name != baseLayout || list[1].Name != "aa" || list[2].Name != "zz" {
		t.Errorf("%v, %v", list, err)
	}
	if sorted := byName(list); sorted[0].Name != "aa" {
		t.Errorf("by name: %v", sorted)
	}
}
