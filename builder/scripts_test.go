package builder

import (
	"archive/tar"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/apk"
)

// rootWith returns a tree with Alpine's usual account files.
func rootWith(t *testing.T) *layers.Tree {
	t.Helper()
	tree := layers.NewTree(newContents(t).spool)
	for name, text := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/shadow": "root:*::0:::::\n",
		"etc/group":               "root:x:0:root\nshadow:x:42:\nnetdev:x:28:\nnogroup:x:65533:\n",
		"etc/busybox-paths.d/all": "bin/ls\nbin/sh\n", "bin/sh": "another",
	} {
		if err := tree.AddFile(tar.Header{Name: name, Mode: 0o644}, "base", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func scripted(name, kind, script string) *apk.Installed {
	return &apk.Installed{Package: &apk.Package{Name: name, Version: "1"}, Scripts: map[string][]byte{kind: []byte(script)}}
}

func TestScriptsMakeAccounts(t *testing.T) {
	tree := rootWith(t)
	owned := tar.Header{Name: "var/lib/chrony/drift", Mode: 0o600, Uid: 101, Gid: 102, Uname: "chrony", Gname: "chrony"}
	if err := tree.AddFile(owned, "chrony", nil); err != nil {
		t.Fatal(err)
	}
	left, err := doScripts(tree, []*apk.Installed{
		scripted("chrony", ".pre-install", "#!/bin/sh\n\naddgroup -S chrony 2>/dev/null\nadduser -S -D -H -h /var/log/chrony \\\n\t-s "+
			"/sbin/nologin -G chrony -g 'chrony user' chrony 2>/dev/null\naddgroup chrony netdev || true\nexit 0\n"),
		scripted("dbus", ".pre-install", "adduser -S -u 81 -H -h / messagebus\n"),
		scripted("odd", ".post-install", "#!/bin/sh\n# a comment\nfor i in 1 2; do rm $i; done\n"),
		scripted("kmod", ".trigger", "depmod -a\n"),
		scripted("gone", ".pre-deinstall", "rm -rf /\n"),
		scripted("k3s", ".post-install", "ln -s k3s usr/bin/kubectl\n"),
	}, map[string]int{"chrony": 512}, time.Unix(20000*86400, 0))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || !strings.Contains(left[0].String(), `install script is not run package="odd-1" script="post-install" `+
		`reason="does not know \"for i in 1 2; do rm $i; done\""`) {
		t.Errorf("left undone: %q", left)
	}
	for name, want := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nchrony:x:512:512:chrony " +
			"user:/var/log/chrony:/sbin/nologin\nmessagebus:x:81:65533:messagebus:/:/sbin/nologin\n",
		"etc/group":  "root:x:0:root\nshadow:x:42:\nnetdev:x:28:chrony\nnogroup:x:65533:\nchrony:x:512:\n",
		"etc/shadow": "root:*::0:::::\nchrony:!:20000:0:99999:7:::\nmessagebus:!:20000:0:99999:7:::\n",
	} {
		if got, err := tree.ReadFile(name, 1<<20); err != nil || string(got) != want {
			t.Errorf("%s is\n%s(%v), want\n%s", name, got, err, want)
		}
	}
	if e := tree.Lookup("var/lib/chrony/drift"); e.Uid != 512 || e.Gid != 512 {
		t.Errorf("chrony's file belongs to %d:%d", e.Uid, e.Gid)
	}
	if e := tree.Lookup("etc/shadow"); e.Mode != 0o640 || e.Gid != 42 {
		t.Errorf("etc/shadow is %o, group %d", e.Mode, e.Gid)
	}
	if e := tree.Lookup("usr/bin/kubectl"); e != nil && e.Linkname != "k3s" {
		t.Errorf("kubectl: %+v", e)
	}
	if e := tree.Lookup("bin/sh"); e.Typeflag != tar.TypeReg {
		t.Error("a busybox link replaced a package's file")
	}
}

// TestAccountNumbersDoNotDependOnOthers: a file keeps its owner from release
// to release, whatever else is installed.
func TestAccountNumbersDoNotDependOnOthers(t *testing.T) {
	number := func(names ...string) int {
		a := accountsOf(t, rootWith(t), nil)
		for _, n := range names {
			if err := a.addGroup(n, ""); err != nil {
				t.Fatal(err)
			}
		}
		return a.gid["chrony"]
	}
	if alone, among := number("chrony"), number("avahi", "ntp", "chrony"); alone != among || alone < firstID || alone > lastID {
		t.Errorf("chrony is %d alone and %d among others", alone, among)
	}
	a := accountsOf(t, rootWith(t), map[string]int{"one": 500, "two": 500})
	a.addGroup("one", "")
	if err := a.addGroup("two", ""); err == nil || !strings.Contains(err.Error(), "two and one both get the number 500") ||
		!strings.Contains(withHints(err), "ids: {two: 501}") {
		t.Errorf("two accounts with one number: %v", err)
	}
}

// TestNamedOwners: an account's name, a number, or an error.
func TestNamedOwners(t *testing.T) {
	for owner, want := range map[string]int{"root": 0, "1234": 1234, "no-such-user": -1} {
		tree := rootWith(t)
		h := tar.Header{Name: "etc/x", Mode: 0o644, Uid: 7, Uname: owner, Gname: "shadow"}
		if err := tree.AddFile(h, "directory files", nil); err != nil {
			t.Fatal(err)
		}
		err := accountsOf(t, tree, nil).own(tree, true)
		if want < 0 {
			if err == nil || !strings.Contains(err.Error(),
				"directory files: the owner of /etc/x is \"no-such-user\", an account the image does not have") {
				t.Errorf("%s: %v", owner, err)
			}
			continue
		}
		if e := tree.Lookup("etc/x"); err != nil || e.Uid != want || e.Gid != 42 || e.Uname != "" {
			t.Errorf("%s: %+v, %v", owner, e, err)
		}
	}
}

// accountsOf returns the accounts of a tree.
func accountsOf(t *testing.T, tree *layers.Tree, pinned map[string]int) *accounts {
	t.Helper()
	a, err := readAccounts(tree, pinned, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return a
}
