package script

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/storetest"
)

// evaluate evaluates a script over the tests' tree, and describes what came of it.
func evaluate(t *testing.T, script string) string {
	t.Helper()
	tree := newTree(t, storetest.File(t, 1<<26))
	q := Inquiry{Name: "q", Part: "part", Environment: map[string]string{"given": "1"}, Commands: map[string]Command{
		"chronyd": func(args []string, read func(string) ([]byte, bool)) (string, int, string) {
			b, there := read("/etc/group")
			return fmt.Sprint(args, there && len(b) > 0, "\n"), 3, ""
		},
		"absent": func([]string, func(string) ([]byte, bool)) (string, int, string) { return "", 0, "" },
		"login":  func([]string, func(string) ([]byte, bool)) (string, int, string) { return "", 0, "a reason" },
	}}
	for _, name := range []string{"usr/sbin/chronyd", "bin/login"} {
		h := rootFiles(t)[0].Header
		h.Name, h.Mode = name, 0o755
		if err := tree.AddFile(h, "x", []byte("ELF")); err != nil {
			t.Fatal(err)
		}
	}
	before := string(tree.Listing())
	parts, err := Evaluate(context.Background(), tree, []byte(script), q)
	if err != nil {
		return "error: " + err.Error()
	}
	if after := string(tree.Listing()); after != before {
		t.Errorf("%q changed the tree to\n%s", script, after)
	}
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "[%s] %q", p.Name, p.Output)
		if p.Refusal != nil {
			fmt.Fprintf(&b, " refused: %v", p.Refusal)
		}
		var used []string
		for _, name := range p.Variables {
			if name != "IFS" && name != "PATH" && name != "part" {
				used = append(used, name)
			}
		}
		fmt.Fprintf(&b, " %v\n", used)
	}
	return strings.TrimSuffix(b.String(), "\n[] \"\" []\n")
}

func TestEvaluate(t *testing.T) {
	const modprobe = "refused: line 1: modprobe: depends on a node: what it does or says depends on the machine it runs on []\n"
	for script, want := range map[string]string{
		"part=a; (echo x; echo y >&2); part=b; (echo z)":                  "[a] \"x\\n\" []\n[b] \"z\\n\" []",
		"part=a; (echo x; modprobe y; echo z); part=b; (exit 3); echo $?": "[a] \"\" " + modprobe + "[b] \"\" []\n[] \"3\\n\" []\n",
		"modprobe x":                           "[] \"\" " + modprobe,
		"f() { (echo x); }; f; (f; (f))":       "[] \"x\\nx\\n\" []\n[] \"x\\n\" []\n",
		"(echo x > /etc/x)":                    "[] \"\" refused: line 1: echo: unsupported: it changes files []",
		"(rm /etc/group)":                      "[] \"\" refused: line 1: rm: unsupported: it changes files []",
		"(: > /etc/group)":                     "[] \"\" refused: line 1: :: unsupported: it changes files []",
		"(adduser x)":                          "[] \"\" refused: line 1: adduser: unsupported: it changes files []",
		"(chmod 700 /etc/group)":               "[] \"\" refused: line 1: chmod: unsupported: it changes files []",
		"(while :; do :; done); (echo x)":      "[] \"\" refused: line 1: :: limit: more than 20000 steps []\n[] \"x\\n\" []",
		"while :; do (:); done":                "!more than 1024 parts",
		"(chronyd a b; echo $?)":               "[] \"[a b] true\\n3\\n\" []",
		"(/usr/sbin/chronyd)":                  "[] \"[] true\\n\" []",
		"(absent; echo $?)":                    "[] \"127\\n\" []",
		"(login)":                              "[] \"\" refused: line 1: login: unsupported: a reason []",
		"(echo $given)":                        "[] \"1\\n\" [given]",
		"(a=$x; b=1)":                          "[] \"\" []",
		"(a=$x; b=$a; echo $b)":                "[] \"\\n\" [a b x]",
		"(a=${x:-$y}; b=${a#$z}; [ $b ])":      "[] \"\" [a b x y z]",
		"(a=$(echo $x))":                       "[] \"\" [x]",
		"(a=$((x+1)))":                         "[] \"\" [x]",
		"(a=${x:?})":                           "[] \"\" [x]",
		"(set -u; a=$x)":                       "[] \"\" [x]",
		"(: ${a:=$x})":                         "[] \"\" []",
		"(: ${a:=$x}; echo $a)":                "[] \"\\n\" [a x]",
		"(: $(echo $x))":                       "[] \"\" [x]",
		"(b=${a:=$x}; case $a in 1) esac)":     "[] \"\" [a x]",
		"(eval a=\\$$x)":                       "[] \"\" [x]",
		"(f() { local a=$x; }; f)":             "[] \"\" [x]",
		"(a=${x:?}; echo y)":                   "[] \"\" [x]",
		"(a=$x; a=1; echo $a)":                 "[] \"1\\n\" [a x]",
		"(for i in $x; do :; done)":            "[] \"\" [x]",
		"(cat < $x)":                           "[] \"\" [x]",
		"(a=$x echo y)":                        "[] \"y\\n\" []",
		"(exec 3>&1 1>&2; echo x >&3; echo y)": "[] \"x\\n\" []",
	} {
		got := evaluate(t, script)
		if text, part := strings.CutPrefix(want, "!"); part && strings.Contains(got, text) {
			continue
		}
		if strings.TrimSuffix(got, "\n") != strings.TrimSuffix(want, "\n") {
			t.Errorf("%s\ngot  %s\nwant %s", script, got, want)
		}
	}
}

// TestEvaluateLooks: what a part looked at, whether it is there or not.
func TestEvaluateLooks(t *testing.T) {
	tree := newTree(t, storetest.File(t, 1<<26))
	parts, err := Evaluate(context.Background(), tree,
		[]byte("(cat /etc/group >/dev/null; [ -e /etc/none ]; echo /etc/*.conf)\n([ -e /tmp/x ])\n"), Inquiry{Part: "p"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"etc", "etc/group", "etc/none"} {
		if !strings.Contains(" "+strings.Join(parts[0].Looked, " ")+" ", " "+name+" ") {
			t.Errorf("%s is not among %v", name, parts[0].Looked)
		}
	}
	if strings.Join(parts[0].Listed, " ") != "etc" {
		t.Errorf("listed: %v", parts[0].Listed)
	}
	if parts[1].Refusal == nil && tree.At("tmp") != nil {
		t.Error("/tmp was looked at")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Evaluate(ctx, tree, []byte("(:)"), Inquiry{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
