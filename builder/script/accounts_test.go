package script

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/testing/storetest"
	"github.com/pikelet-os/pikelet/layers"
)

// made returns the accounts and memberships that a script adds to a tree
// (+g:group +u:user group:member).
func made(t *testing.T, before, after *view) string {
	t.Helper()
	var list []string
	lost := func(name string) map[string]string {
		was := map[string]string{}
		for _, line := range before.accountLines(name) {
			f := strings.Split(line, ":")
			was[f[0]] = f[3]
		}
		return was
	}
	groups, users := lost(groupFile), lost(passwdFile)
	for _, line := range after.accountLines(groupFile) {
		f := strings.Split(line, ":")
		members, there := groups[f[0]]
		if !there {
			list = append(list, "+g:"+f[0])
		}
		if f[3] != members {
			list = append(list, f[0]+":"+strings.TrimPrefix(f[3], members+","))
		}
	}
	for _, line := range after.accountLines(passwdFile) {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			t.Errorf("the line %q of passwd", line)
		}
		if _, there := users[f[0]]; !there {
			list = append(list, "+u:"+f[0])
		}
	}
	return strings.Join(list, " ")
}

// accountCases are scripts and what they make. What is only mentioned is not made, and
// neither is what a shell would not come to (chainguard-dev/apko#566).
var accountCases = map[string]struct{ script, made string }{
	"plain":                  {"addgroup -S a 2>/dev/null\nadduser -S -D -G a a\nexit 0\n", "+g:a a:a +u:a"},
	"joins":                  {"addgroup -S a\nadduser -S -G a a\naddgroup a netdev\n", "netdev:a +g:a a:a +u:a"},
	"adduser USER GROUP":     {"addgroup -S a; adduser -S -D -G a a 2>/dev/null\nadduser a netdev 2>/dev/null\n", "netdev:a +g:a a:a +u:a"},
	"here-document":          {"cat <<T\nTo use it:\n  addgroup someone x\n  adduser helper\nT\nexit 0\n", ""},
	"indented here-document": {"cat <<-T\n\tadduser helper\n\tT\naddgroup a\n", "+g:a"},
	"text over lines":        {"echo \"To use it:\nadduser helper\n\"\n", ""},
	"comment":                {"# adduser a\n: # adduser b\n", ""},
	"missing group":          {"adduser -S -G nosuch a 2>/dev/null\naddgroup root nosuch\naddgroup nosuch netdev\n", ""},
	"if":                     {"if [ -d /etc/sv ]; then\n\taddgroup -S never\nelse\n\taddgroup -S always\nfi\n", "+g:always"},
	"behind a test":          {"[ -d /etc/sv ] || exit 0\naddgroup a\n", ""},
	"instead of failure":     {"addgroup netdev || addgroup a\n", "+g:a"},
	"behind exit":            {"exit 0\naddgroup a\n", ""},
	"exec":                   {"exec true\naddgroup a\n", ""},
	"in a function":          {"f() {\n addgroup a\n}\naddgroup b\n", "+g:b"},
	"in a loop":              {"for g in a b; do addgroup $g; done\n", "+g:a +g:b"},
	"set -e, failed":         {"set -e\naddgroup netdev\naddgroup a\n", ""},
	"user 0":                 {"adduser -u 0 -S -G netdev a\nadduser -D -u 0 b\n", ""},
	"group of shadow":        {"addgroup -g 42 -S a 2>/dev/null\nadduser -S -G a a 2>/dev/null\n", ""},
	"number of 33 bits":      {"adduser -u 4294967296 -S -G netdev a\naddgroup -g -1 a\n", ""},
	"name with a colon":      {"adduser -S 'a:0:0'\naddgroup -- '-x'; addgroup ''\naddgroup 'a b'\n", ""},
}

func TestScriptAccounts(t *testing.T) {
	kept := storetest.File(t, 1<<30)
	for what, c := range accountCases {
		tree := newTree(t, kept)
		res, err := Run(context.Background(), tree, NewAccounts(nil, epoch), []byte(c.script), options())
		if err != nil || res.Refusal != nil {
			t.Errorf("%s: %v, %v", what, res.Refusal, err)
			continue
		}
		m := &machine{}
		if got := made(t, newView(newTree(t, kept), m), newView(tree, m)); got != c.made {
			t.Errorf("%s: made %q, want %q\n%s", what, got, c.made, res.Output)
		}
	}
}

// runOn runs a script that is not refused.
func runOn(t *testing.T, tree *layers.Tree, a *Accounts, script string) error {
	t.Helper()
	res, err := Run(context.Background(), tree, a, []byte(script), options())
	if res.Refusal != nil {
		t.Fatalf("%s: %v", script, res.Refusal)
	}
	return err
}

func numberIn(tree *layers.Tree, name string) int {
	return newView(tree, &machine{}).numbers(groupFile)[name]
}

// TestAccountNumbersDoNotDependOnOthers: a file keeps its owner from release
// to release, whatever else is installed.
func TestAccountNumbersDoNotDependOnOthers(t *testing.T) {
	kept := storetest.File(t, 1<<30)
	number := func(names ...string) int {
		tree, a := newTree(t, kept), NewAccounts(nil, epoch)
		for _, n := range names {
			if err := runOn(t, tree, a, "addgroup -S "+n); err != nil {
				t.Fatal(err)
			}
		}
		return numberIn(tree, "chrony")
	}
	// The number is FNV-1a of the name, 32 bits, modulo 600, and 300: what images have.
	if alone, among := number("chrony"), number("avahi", "klogd", "chrony"); alone != among || alone != 328 {
		t.Errorf("chrony is %d alone and %d among others, want 328", alone, among)
	}
}

// TestFixedNumberClashesWithHashedOne: where a script's own number is the one that was
// made of another name, and where two names are pinned to one number, the error says
// which of them to pin. Nothing of the script is done.
func TestFixedNumberClashesWithHashedOne(t *testing.T) {
	kept := storetest.File(t, 1<<30)
	tree, a := newTree(t, kept), NewAccounts(nil, epoch)
	if err := runOn(t, tree, a, "addgroup -S chrony"); err != nil {
		t.Fatal(err)
	}
	before := string(tree.Listing())
	err := runOn(t, tree, a, "touch /x; addgroup -g "+"328"+" two")
	if err == nil || !strings.Contains(err.Error(), "two and chrony both get the number") ||
		!strings.HasPrefix(strings.Join(hint.Of(err), "\n"), "give one of them another: ids: {chrony: ") {
		t.Errorf("the fixed number comes second: %v", err)
	}
	if string(tree.Listing()) != before {
		t.Error("the tree has changed")
	}
	tree, a = newTree(t, kept), NewAccounts(map[string]int{"one": 500, "two": 500}, epoch)
	err = runOn(t, tree, a, "addgroup one; addgroup two")
	if err == nil || !strings.Contains(err.Error(), "two and one both get the number 500") ||
		!strings.Contains(strings.Join(hint.Of(err), "\n"), "ids: {two: 501}") {
		t.Errorf("two accounts with one number: %v", err)
	}
}

// TestPinnedNumbers: an account of the spec's gets its number for user and group, unless
// the script says one.
func TestPinnedNumbers(t *testing.T) {
	tree := newTree(t, storetest.File(t, 1<<30))
	a := NewAccounts(map[string]int{"one": 512, "two": 513}, time.Unix(0, 0))
	if err := runOn(t, tree, a, "adduser -S -D -H -g '' one; adduser -D -H two; addgroup -g 600 three; addgroup -S one"); err != nil {
		t.Fatal(err)
	}
	v := newView(tree, &machine{})
	got := strings.Join([]string{strings.Join(a.user(v, "one"), ":"), strings.Join(a.user(v, "two"), ":"),
		strings.Join(a.group(v, "two"), ":"), strings.Join(a.group(v, "three"), ":")}, "\n")
	want := "one:x:512:65533::/home/one:/sbin/nologin\ntwo:x:513:513:Linux User,,,:/home/two:/bin/sh\ntwo:x:513:\nthree:x:600:"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if lines := v.accountLines(shadowFile); lines[len(lines)-1] != "two:!:0:0:99999:7:::" {
		t.Errorf("%q", lines)
	}
}
