package builder

import (
	"archive/tar"
	"context"
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
	if err := tree.AddFile(tar.Header{Name: "usr/bin/other", Mode: 0o755}, "other", []byte("ELF")); err != nil {
		t.Fatal(err)
	}
	owned := tar.Header{Name: "var/lib/chrony/drift", Mode: 0o600, Uid: 101, Gid: 102, Uname: "chrony", Gname: "chrony"}
	if err := tree.AddFile(owned, "chrony", nil); err != nil {
		t.Fatal(err)
	}
	left, err := runScripts(tree, []*apk.Installed{
		scripted("chrony", ".pre-install", "#!/bin/sh\n\naddgroup -S chrony 2>/dev/null\nadduser -S -D -H -h /var/log/chrony \\\n\t-s "+
			"/sbin/nologin -G chrony -g 'chrony user' chrony 2>/dev/null\naddgroup chrony netdev || true\nexit 0\n"),
		scripted("dbus", ".pre-install", "adduser -S -u 81 -H -h / messagebus\n"),
		scripted("odd", ".post-install", "#!/bin/sh\n# a comment\nfor i in 1 2; do rm /tmp/$i; done\n"),
		scripted("other", ".post-install", "#!/bin/sh\naddgroup -S other\nother --update\n"),
		scripted("kmod", ".trigger", "depmod -a\n"),
		scripted("gone", ".pre-deinstall", "rm -rf /\n"),
		scripted("k3s", ".post-install", "ln -s k3s usr/bin/kubectl\n"),
	}, map[string]int{"chrony": 512}, time.Unix(20000*86400, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`install script failed package="odd-1" script="post-install" status="1" output="rm: can't remove '/tmp/2': ` +
		`No such file or directory"`, `install script is not run package="other-1" script="post-install" ` +
		`reason="line 3: other: foreign program: the program /usr/bin/other would have to run"`}
	if len(left) != 2 || !strings.HasPrefix(left[0].String(), want[0]) || !strings.HasPrefix(left[1].String(), want[1]) {
		t.Errorf("left undone:\n%s\nwant\n%s", lines(left), strings.Join(want, "\n"))
	}
	for name, want := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nchrony:x:512:512:chrony " +
			"user:/var/log/chrony:/sbin/nologin\nmessagebus:x:81:65533:Linux User,,,:/:/sbin/nologin\n",
		"etc/group":  "root:x:0:root\nshadow:x:42:\nnetdev:x:28:chrony\nnogroup:x:65533:messagebus\nchrony:x:512:chrony\n",
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

// TestNamedOwners: an account's name, a number, or an error.
func TestNamedOwners(t *testing.T) {
	for owner, want := range map[string]int{"root": 0, "1234": 1234, "no-such-user": -1} {
		tree := rootWith(t)
		h := tar.Header{Name: "etc/x", Mode: 0o644, Uid: 7, Uname: owner, Gname: "shadow"}
		if err := tree.AddFile(h, "directory files", nil); err != nil {
			t.Fatal(err)
		}
		err := accountsOf(t, tree).own(tree, true)
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
func accountsOf(t *testing.T, tree *layers.Tree) *accounts {
	t.Helper()
	a, err := readAccounts(tree)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// runScripts does the scripts of packages whose files are in the tree.
func runScripts(tree *layers.Tree, list []*apk.Installed, ids map[string]int, epoch time.Time) ([]Warning, error) {
	s := newScripts(tree, ids, epoch)
	for _, p := range list {
		for _, kind := range []string{preInstall, postInstall} {
			if err := s.do(context.Background(), p, kind, p.Version); err != nil {
				return nil, err
			}
		}
	}
	return s.left, s.finish(context.Background(), list)
}

// scriptedPart is a package with one file and its scripts, by name.
func scriptedPart(t *testing.T, c *contents, p apk.Package, file string, scripts map[string]string) *part {
	t.Helper()
	made := packed(t, c, p, file)
	made.Scripts = map[string][]byte{}
	for name, text := range scripts {
		made.Scripts[name] = []byte(text)
	}
	return made
}

// TestScriptsRunInApksOrder: before a package's files, behind them, and triggers at
// last, with the directories that they are for.
func TestScriptsRunInApksOrder(t *testing.T) {
	all := newContents(t)
	note := func(what, file string) string {
		return "#!/bin/sh\n[ -e /" + file + " ] && there=yes\necho " + what + " $* ${there:-no} >>/var/order\n"
	}
	tree := rootWith(t)
	if err := tree.Add(tar.Header{Typeflag: tar.TypeDir, Name: "var", Mode: 0o755}, "base", nil); err != nil {
		t.Fatal(err)
	}
	triggers := []string{"/usr/share/*", "+/none"}
	one := scriptedPart(t, all, apk.Package{Name: "one", Version: "1.5-r0", Triggers: triggers}, "usr/share/one/file",
		map[string]string{preInstall: note("pre-one", "usr/share/one/file"), postInstall: note("post-one", "usr/share/one/file"),
			triggerScript: note("trigger-one", "usr/share/two/file")})
	two := scriptedPart(t, all, apk.Package{Name: "two", Version: "2", Triggers: []string{"/nowhere/*"}}, "usr/share/two/file",
		map[string]string{preInstall: note("pre-two", "usr/share/one/file"), postInstall: note("post-two", "usr/share/two/file"),
			triggerScript: note("trigger-two", "etc"), ".pre-upgrade": note("never", "etc")})
	s := newScripts(tree, nil, time.Unix(0, 0))
	if _, err := merge(context.Background(), tree, asked("one", "two"), []*part{two, one}, s); err != nil || len(s.left) > 0 {
		t.Fatalf("%v\n%s", err, lines(s.left))
	}
	got, err := tree.ReadFile("var/order", 1<<10)
	want := "pre-one 1.5-r0 no\npost-one 1.5-r0 yes\npre-two 2 yes\npost-two 2 yes\ntrigger-one /usr/share/one /usr/share/two yes\n"
	if err != nil || string(got) != want {
		t.Errorf("the order is\n%s%v, want\n%s", got, err, want)
	}
}

// TestOwnersOfScriptsStay: a file gets the number of its package's account before the
// script behind it, which may give it to another.
func TestOwnersOfScriptsStay(t *testing.T) {
	all := newContents(t)
	tree := rootWith(t)
	p := scriptedPart(t, all, apk.Package{Name: "own", Version: "1"}, "var/lib/own", map[string]string{
		preInstall:  "addgroup -S own; adduser -S -D -H -G own own\n",
		postInstall: "[ -O /var/lib/own ] || chgrp shadow /var/lib/own\n",
	})
	p.Files[0].Uname, p.Files[0].Gname, p.Files[0].Uid, p.Files[0].Gid = "own", "own", 101, 101
	s := newScripts(tree, map[string]int{"own": 512}, time.Unix(0, 0))
	if _, err := merge(context.Background(), tree, asked("own"), []*part{p}, s); err != nil || len(s.left) > 0 {
		t.Fatalf("%v\n%s", err, lines(s.left))
	}
	if e := tree.At("var/lib/own"); e.Uid != 512 || e.Gid != 42 || e.Uname != "" || e.Gname != "" {
		t.Errorf("%d:%d %q %q", e.Uid, e.Gid, e.Uname, e.Gname)
	}
}

// TestAccountFilesComeBeforeScripts: a package that brings etc/passwd takes no account
// away that a script has made before.
func TestAccountFilesComeBeforeScripts(t *testing.T) {
	all := newContents(t)
	tree := layers.NewTree(all.spool)
	first := scriptedPart(t, all, apk.Package{Name: "aa", Version: "1"}, "usr/aa", map[string]string{preInstall: "addgroup -S aa\n"})
	files := packed(t, all, apk.Package{Name: "root:x:0:\n", Version: "1"}, "etc/group")
	files.Package.Name = "zz"
	s := newScripts(tree, nil, time.Unix(0, 0))
	if _, err := merge(context.Background(), tree, asked("aa", "zz"), []*part{first, files}, s); err != nil || len(s.left) > 0 {
		t.Fatalf("%v\n%s", err, lines(s.left))
	}
	if got, err := tree.ReadFile("etc/group", 1<<10); err != nil || !strings.HasPrefix(string(got), "root:x:0:\naa:x:") {
		t.Errorf("%s, %v", got, err)
	}
}

// TestKnownScriptsAreNoWarning: what the builder does itself is nothing to warn of.
func TestKnownScriptsAreNoWarning(t *testing.T) {
	tree := rootWith(t)
	left, err := runScripts(tree, []*apk.Installed{
		scripted("dbus", postInstall, "dbus-uuidgen --ensure; cat /dev/urandom >/etc/machine-id\n"),
		scripted("linux", postInstall, "depmod -a 6.12; mkinitfs\n"),
		scripted("k3s", preInstall, "exit 0\n"),
		scripted("busybox", postInstall, "/bin/busybox --install -s || exit 1\naddgroup -S klogd\n"),
	}, nil, time.Unix(0, 0))
	if err != nil || len(left) > 0 {
		t.Errorf("%v\n%s", err, lines(left))
	}
	if accountsOf(t, tree).gid["klogd"] == 0 {
		t.Error("busybox' group is not there")
	}
	left, err = runScripts(tree, []*apk.Installed{scripted("dbus", postInstall, "addgroup -S a; dbus-uuidgen --ensure; ls -l\n")}, nil,
		time.Unix(0, 0))
	if err != nil || len(left) != 1 {
		t.Errorf("an account of a known script: %v\n%s", err, lines(left))
	}
	if e := tree.At("usr/bin/kubectl"); e == nil || e.Linkname != "k3s" {
		t.Errorf("kubectl: %+v", e)
	}
}
