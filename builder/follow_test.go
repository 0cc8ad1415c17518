package builder

import (
	"strings"
	"testing"
)

// scriptCases are scripts, the accounts and memberships that a shell surely makes
// of them (+g:group +u:user group:member), and a part of the doubt that is left.
var scriptCases = map[string]struct{ script, made, doubt string }{
	"plain":                  {"addgroup -S a 2>/dev/null\nadduser -S -G a a\nexit 0\n", "+g:a +u:a", ""},
	"joins":                  {"addgroup -S a\nadduser -S -G a a\naddgroup a netdev\n", "+g:a +u:a netdev:a", ""},
	"adduser USER GROUP":     {"addgroup -S a; adduser -S -D -G a a 2>/dev/null\nadduser a netdev 2>/dev/null\n", "+g:a +u:a netdev:a", ""},
	"here-document":          {"cat <<T\nTo use it:\n  addgroup someone x\n  adduser helper\nT\nexit 0\n", "", ""},
	"indented here-document": {"cat <<-T\n\tadduser helper\n\tT\naddgroup a\n", "+g:a", ""},
	"quoted here-document":   {"cat <<'E O'\nadduser $x\nE O\naddgroup a\n", "+g:a", ""},
	"text over lines":        {"echo \"To use it:\nadduser helper\n\"\n", "", ""},
	"comment":                {"# adduser a\n: # adduser b\n", "", ""},
	"tolerated membership":   {"addgroup root nosuch 2>/dev/null\naddgroup root nosuch || true\nexit 0\n", "", ""},
	"failing membership":     {"addgroup root nosuch\n", "", "would fail: nothing makes the group nosuch"},
	"missing user":           {"addgroup nosuch netdev\n", "", "would fail: nothing makes the user nosuch"},
	"missing group":          {"adduser -S -G nosuch a 2>/dev/null\n", "", "would fail: nothing makes the group nosuch"},
	"if": {"if [ -d /etc/sv ]; then\n\taddgroup -S never\nelse\n\taddgroup -S always\nfi\n", "",
		`does not know "if [ -d /etc/sv ]; then"`},
	"behind an if":           {"if [ -d /etc/sv ]; then ls; fi\naddgroup a\n", "+g:a", "does not know"},
	"behind an if that ends": {"if [ -d /etc/sv ]; then exit 0; fi\naddgroup a\n", "", `cannot determine whether "addgroup a" runs`},
	"behind a test":          {"[ -d /etc/sv ] || exit 0\naddgroup a\n", "", `cannot determine whether "addgroup a" runs`},
	"after a test":           {"[ -d /etc/sv ] && addgroup a\n", "", `cannot determine whether`},
	"after success":          {"addgroup a && adduser -S -G a a\n", "+g:a +u:a", ""},
	"after failure":          {"addgroup netdev && addgroup a\n", "", ""},
	"instead of failure":     {"addgroup netdev || addgroup a\n", "+g:a", ""},
	"instead of success":     {"addgroup a || addgroup b\n", "+g:a", ""},
	"getent, missing": {"getent group a >/dev/null || addgroup -S a\ngetent passwd a >/dev/null 2>&1 || adduser -S -G a a\n",
		"+g:a +u:a", ""},
	"getent, there":          {"getent group netdev >/dev/null || addgroup -S b\n", "", ""},
	"id":                     {"id -u a >/dev/null 2>&1 || adduser -S a\nid root || adduser -S b\n", "+u:a", ""},
	"behind exit":            {"exit 0\naddgroup a\n", "", ""},
	"exec":                   {"exec update-x\naddgroup a\n", "", "cannot determine whether"},
	"in a function":          {"f() {\n addgroup a\n}\naddgroup b\n", "+g:b", "does not know"},
	"behind a function call": {"f() {\n exit 0\n}\nf\naddgroup b\n", "", "cannot determine whether"},
	"in a case":              {"case \"$1\" in\n a|b) addgroup a;;\n *) exit;;\nesac\naddgroup b\n", "", "does not know"},
	"in a loop":              {"for g in a b; do addgroup $g; done\n", "", "does not know"},
	"subshell":               {"( addgroup a )\n", "", "does not know"},
	"pipe":                   {"echo x | adduser a\n", "", "does not know"},
	"set -e, failed":         {"set -e\naddgroup netdev\naddgroup a\n", "", ""},
	"set -e, unknown":        {"set -e\nmkdir /x\naddgroup a\n", "", "cannot determine whether"},
	"set -e, tolerated":      {"set -e\naddgroup netdev || true\naddgroup a\n", "+g:a", ""},
	"-e of the first line":   {"#!/bin/sh -e\nmkdir /x\naddgroup a\n", "", "cannot determine whether"},
	"unknown before":         {"mkdir -p /x\naddgroup a\n", "+g:a", `does not know "mkdir -p /x"`},
	"variable":               {"g=a\naddgroup $g\n", "", "does not know"},
	"to a file":              {"adduser -S a >/var/log/x\n", "", "does not know"},
	"substitution":           {"addgroup $(cat <<X)\n", "", "does not know"},
	"not closed":             {"echo \"\naddgroup a\n", "", "cannot tell the script's commands apart"},
	"if not closed":          {"if true; then\naddgroup a\n", "", "cannot tell the script's commands apart"},
	"continued line":         {"adduser -S \\\n\t-G netdev \\\n\ta\n", "+u:a", ""},
	"options that are new":   {"adduser -S --uid 5 a\n", "", "does not know"},
	"user 0":                 {"adduser -u 0 -S -G netdev a 2>/dev/null\n", "", "would fail: the number 0 is root's"},
	"user 0 with a group":    {"adduser -u 0 a\n", "", "would fail: the number 0 is root's"},
	"group of shadow": {"addgroup -g 42 -S a 2>/dev/null\nadduser -S -G a a 2>/dev/null\n", "",
		"would fail: the number 42 is shadow's"},
	"number of 33 bits": {"adduser -u 4294967296 -S -G netdev a\n", "", "is not a number of an account"},
	"negative number":   {"addgroup -g -1 a\n", "", "is not a number of an account"},
	"name with a colon": {"adduser -S 'a:0:0' \n", "", "is not a name of a user"},
	"line in a field":   {"adduser -S -g 'x\nroot2:x:0:0::/:/bin/sh' a\n", "", "fits into no field"},
}

// TestScriptAccounts: a script's accounts are made where a shell surely makes
// them, and nowhere else. What is uncertain is a warning at most
// (chainguard-dev/apko#566).
func TestScriptAccounts(t *testing.T) {
	for what, c := range scriptCases {
		a := accountsOf(t, rootWith(t), nil)
		doubt, err := a.follow(c.script)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		var made []string
		for _, line := range a.group[4:] {
			made = append(made, "+g:"+strings.Split(line, ":")[0])
		}
		for _, line := range a.passwd[1:] {
			made = append(made, "+u:"+strings.Split(line, ":")[0])
		}
		for _, line := range a.group[:4] {
			if f := strings.Split(line, ":"); f[3] != "" && f[0] != "root" {
				made = append(made, f[0]+":"+f[3])
			}
		}
		if got := strings.Join(made, " "); got != c.made {
			t.Errorf("%s: made %q, want %q", what, got, c.made)
		}
		if c.doubt == "" && doubt.text != "" || !strings.Contains(doubt.text, c.doubt) {
			t.Errorf("%s: doubt %q, want %q", what, doubt.text, c.doubt)
		}
	}
}

// TestFixedNumberClashesWithHashedOne: where a script's own number is the one that was
// made of another name, the error says which of them to pin.
func TestFixedNumberClashesWithHashedOne(t *testing.T) {
	a := accountsOf(t, rootWith(t), nil)
	if err := a.addGroup("one", ""); err != nil {
		t.Fatal(err)
	}
	_, err := a.follow("addgroup -g " + strings.Split(a.group[4], ":")[2] + " two\n")
	if err == nil || !strings.Contains(err.Error(), "two and one both get the number") || !strings.Contains(withHints(err), "ids: {one: ") {
		t.Errorf("the fixed number comes second: %v", err)
	}
}

// FuzzFollow: no script hangs the build or makes a second user 0.
func FuzzFollow(f *testing.F) {
	for _, s := range []string{"if a; then b; fi", "case x in (a) b;; esac", "f() { x; }; f", "a && b || c\n", "cat <<E\nx\nE\n",
		"adduser -u 0 -S x", "`a` ${b} $(c (d))", "\\", "'", "2>&1 >x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		a := &accounts{uid: map[string]int{"root": 0}, gid: map[string]int{"root": 0}, hashed: map[string]bool{}}
		a.follow(script)
		for _, line := range a.passwd {
			if p := strings.Split(line, ":"); len(p) != 7 || p[2] == "0" || strings.Contains(line, "\n") {
				t.Errorf("%q made %q", script, line)
			}
		}
	})
}
