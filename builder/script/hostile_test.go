package script

import (
	"archive/tar"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
)

// hostile are scripts that would run forever, or take all memory, or reach what is not
// theirs, and the kind of their refusal.
var hostile = map[string]struct {
	script string
	kind   Kind
}{
	"endless loop":           {"while :; do :; done", Limit},
	"endless loop of tests":  {"until [ -e /none ]; do x=1; done", Limit},
	"endless recursion":      {"f() { f; }; f", Limit},
	"endless substitution":   {"f() { x=$(f); }; f", Limit},
	"endless subshells":      {"f() { ( f ); }; f", Limit},
	"endless eval":           {"x='eval \"$x\"'; eval \"$x\"", Limit},
	"endless script":         {"echo '#!/bin/sh' >/x; echo /x >>/x; chmod +x /x; /x", Limit},
	"endless dot":            {"echo '. /x' >/x; . /x", Limit},
	"endless sh":             {"echo 'sh /x' >/x; sh /x", Limit},
	"endless trap":           {"f() { trap f EXIT; while :; do :; done; }; f", Limit},
	"fork bomb":              {"bomb() { bomb | bomb & }; bomb", Background},
	"fork bomb in turn":      {"bomb() { bomb | bomb; }; bomb", Limit},
	"doubling":               {"x=aaaaaaaa; while :; do x=$x$x; done", Limit},
	"doubling in place":      {"x=aaaaaaaa; for i in 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0; do x=\"$x$x$x$x\"; done", Limit},
	"doubling by quotes":     {"set -- a; while :; do set -- \"$@\" \"$@\"; done", Limit},
	"doubling by a function": {"f() { f \"$1$1\"; }; f aaaaaaaaaaaaaaaa", Limit},
	"doubling by eval":       {"x=:; while :; do x=\"$x;$x\"; eval \"$x\"; done", Limit},
	"doubling a file":        {"echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa >/x; while :; do cat /x >>/y; cat /y >>/x; done", Limit},
	"many variables":         {"i=0; while :; do i=$((i+1)); eval v$i=x; done", Limit},
	"much output":            {"while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done", Limit},
	"gigabytes of output":    {"printf '%1000000000s' x >/x", Limit},
	"gigabytes of zeros":     {"printf '%01000000000d' 1 >/x", Limit},
	"gigabytes of numbers":   {"seq 1000000000 >/x", Limit},
	"large here-document":    {"cat >/x <<T\n" + strings.Repeat("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", 4096) + "T\n", Limit},
	"here-document in a loop": {"while :; do cat >>/x <<T\n" + strings.Repeat("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", 1024) + "T\ndone",
		Limit},
	"large script":      {strings.Repeat(": aaaaaaaa\n", 8000), Limit},
	"deep brackets":     {strings.Repeat("(", 30000), Limit},
	"deep braces":       {strings.Repeat("{ ", 30000), Limit},
	"deep substitution": {"echo " + strings.Repeat("$(echo ", 9000) + strings.Repeat(")", 9000), Limit},
	"deep defaults":     {"echo " + strings.Repeat("${a:-", 9000) + strings.Repeat("}", 9000), Limit},
	"deep arithmetic":   {"echo $((" + strings.Repeat("(", 9000) + "1" + strings.Repeat(")", 9000) + "))", Limit},
	"deep if":           {strings.Repeat("if :; then ", 5000) + ":" + strings.Repeat("; fi", 5000), Limit},
	"long list":         {"true" + strings.Repeat(" && true", 7000), Limit},
	"long pipe":         {"true" + strings.Repeat(" | true", 7000), Limit},
	"long sum":          {"echo $((1" + strings.Repeat("+1", 30000) + "))", Limit},
	"deep negation":     {"[ " + strings.Repeat("! ", 3000) + "x ]", Limit},
	"deep expr":         {"expr " + strings.Repeat("\\( ", 3000) + "1" + strings.Repeat(" \\)", 3000), Limit},
	"pattern without end": {"x=" + strings.Repeat("a", 30000) + "; while :; do case $x in " + strings.Repeat("*a", 5000) + "b) ;; esac; done",
		Limit},
	"trimming without end": {"x=" + strings.Repeat("a", 30000) + "; while :; do y=${x%%*b*}; done", Limit},
	"many files":           {"i=0; while :; do i=$((i+1)); : >/tmp/$i; done", Limit},
	"many directories":     {"d=/tmp; while :; do d=$d/a; mkdir $d; done", Limit},
	"copies of copies":     {"mkdir /x; while :; do cp -r /x /y; cp -r /y /x; done", Limit},
	"links in a circle":    {"ln -s b /a; ln -s a /b; while :; do cat /a; done", Limit},
	"patterns of directories": {"for d in a b c d; do mkdir -p /t/$d/a/a /t/$d/b/b /t/$d/c/c; done; while :; do echo /t/*/*/* /t/*/*/*; done",
		Limit},
	"find in find":             {"f() { find / -exec sh -c 'find / -exec true {} \\;' \\;; }; while :; do f; done", Limit},
	"regular expression":       {"while :; do echo " + strings.Repeat("a", 20000) + " | grep -E '(a*)*(a|aa)+b'; done", Limit},
	"regular expression, big":  {"grep -E '((((a{100}){100}){100}){100})' /etc/passwd", Unsupported},
	"sed that grows":           {"x=a; while :; do x=$(echo $x | sed 's/a/aaaa/g'); done", Limit},
	"link out of the tree":     {"ln -s ../../../../../proc /p; echo x >/p/sysrq-trigger", Machine},
	"up out of the tree":       {"echo x >../../../../../dev/sda", Machine},
	"disk":                     {"cat /dev/mmcblk0 >/tmp/x", Machine},
	"zeros without end":        {"cat /dev/zero >/x", Machine},
	"terminal":                 {"echo x >/dev/tty", Machine},
	"memory of a process":      {"cat /proc/self/mem", Machine},
	"environment":              {"cat /proc/1/environ >/x", Machine},
	"sysctl":                   {"echo 1 >/proc/sys/net/ipv4/ip_forward", Machine},
	"sed that jumps forever":   {"sed ':a;ba' /etc/passwd", Limit},
	"sed that keeps and grows": {"sed ':a;G;h;ba' /etc/passwd", Limit},
	"sed that never ends":      {"echo a | sed 's/^/b\\n/;D'", Limit},
	"doubling by replacing":    {"x=aaaaaaaa; while :; do x=${x//a/aa}; done", Limit},
	"replacing without end":    {"x=" + strings.Repeat("a", 30000) + "; while :; do y=${x//a*b/}; done", Limit},
	"many options":             {"while getopts a o -a -a; do OPTIND=1; done", Limit},
	"descriptors":              {"exec 99>/x", Unsupported},
	"NUL":                      {"echo a\x00b", Syntax},
	"password in the file":     {"echo 'x::1000:1000::/:/bin/sh' >>/etc/passwd", Secret},
	"another passwd":           {"printf 'evil:x:0:0::/:/bin/sh\\n' >/x; mv /x /etc/passwd", Secret},
	"passwd by a link":         {"printf 'root:x:0:0::/:/bin/sh\\ne:x:00:0::/:/bin/sh\\n' >/x; ln -sf /x /etc/passwd", Secret},
}

func TestHostileScriptsAreRefused(t *testing.T) {
	kept := storetest.File(t, 1<<30)
	for what, c := range hostile {
		t.Run(what, func(t *testing.T) {
			tree := newTree(t, kept)
			before := string(tree.Listing())
			// Whatever it did before, nothing of it is left.
			script := "touch /before; adduser -S -D x\n" + c.script
			res, err := Run(context.Background(), tree, NewAccounts(nil, epoch), []byte(script), options())
			switch {
			case err != nil:
				t.Error(err)
			case res.Refusal == nil:
				t.Errorf("status %d, want a refusal: %.200s", res.Status, res.Output)
			case res.Refusal.Kind != c.kind:
				t.Errorf("%v, want %s", res.Refusal, c.kind)
			}
			if string(tree.Listing()) != before {
				t.Error("the tree has changed")
			}
		})
	}
}

// TestRefusalTakesNumbersBack: a number that was made of a name counts for nothing
// where the script was refused.
func TestRefusalTakesNumbersBack(t *testing.T) {
	tree := newTree(t, storetest.File(t, 1<<30))
	a := NewAccounts(nil, epoch)
	if res, err := Run(context.Background(), tree, a, []byte("addgroup -S x; foreign"), options()); err != nil || res.Refusal == nil {
		t.Fatalf("%+v, %v", res, err)
	}
	if len(a.hashed) > 0 {
		t.Errorf("%v", a.hashed)
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	tree := newTree(t, storetest.File(t, 1<<30))
	_, err := Run(ctx, tree, NewAccounts(nil, epoch), []byte("touch /x"), options())
	if !errors.Is(err, context.Canceled) || tree.At("x") != nil {
		t.Errorf("%v", err)
	}
}

// TestFilesWithSeveralNames: a change of mode or owner is one of all names; what would
// write to all of them is refused, because the tree takes it for one.
func TestFilesWithSeveralNames(t *testing.T) {
	tree := newTree(t, storetest.File(t, 1<<30))
	h := tar.Header{Typeflag: tar.TypeLink, Name: "etc/other", Linkname: "etc/shells"}
	if err := tree.Add(h, "test", nil); err != nil {
		t.Fatal(err)
	}
	script := "chmod 600 /etc/shells; chown ntp /etc/other; ln /etc/passwd /etc/p2; rm /tmp/none; mv /etc/p2 /etc/p3"
	if err := runOn(t, tree, NewAccounts(nil, epoch), script); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc/shells", "etc/other"} {
		if e := tree.At(name); e.Mode != 0o600 || e.Uid != 123 || !e.Linked() {
			t.Errorf("%s: %o %d", name, e.Mode, e.Uid)
		}
	}
	if e := tree.At("etc/p3"); e == nil || !e.Linked() || !tree.At("etc/passwd").Linked() {
		t.Error("/etc/p3 is no other name of /etc/passwd")
	}
	before := string(tree.Listing())
	for _, script := range []string{"echo x >>/etc/other", "sed -i d /etc/shells", "adduser -D x"} {
		res, err := Run(context.Background(), tree, NewAccounts(nil, epoch), []byte(script), options())
		if err != nil || res.Refusal == nil || res.Refusal.Kind != Unsupported || string(tree.Listing()) != before {
			t.Errorf("%s: %+v, %v", script, res, err)
		}
	}
}

// TestRecordsOfChangedFiles: a record of a package about a file's contents goes where
// they do, and so do capabilities; the file stays the package's.
func TestRecordsOfChangedFiles(t *testing.T) {
	tree := newTree(t, storetest.File(t, 1<<30))
	for _, name := range []string{"etc/one", "etc/two", "etc/three"} {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, PAXRecords: map[string]string{"APK-TOOLS.checksum.SHA1": "x",
			capabilities: "y", "SCHILY.xattr.user.z": "z"}}
		if err := tree.Add(h, "package", strings.NewReader("")); err != nil {
			t.Fatal(err)
		}
	}
	script := "echo x >/etc/one; chown ntp /etc/two; chmod 700 /etc/three; echo y >/etc/new"
	if err := runOn(t, tree, NewAccounts(nil, epoch), script); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/one": "package SCHILY.xattr.user.z", "etc/two": "package APK-TOOLS.checksum.SHA1 SCHILY.xattr.user.z", "etc/new": "test",
		"etc/three": "package APK-TOOLS.checksum.SHA1 " + capabilities + " SCHILY.xattr.user.z",
	} {
		e := tree.At(name)
		got := append([]string{e.Source}, slices.Sorted(maps.Keys(e.PAXRecords))...)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
