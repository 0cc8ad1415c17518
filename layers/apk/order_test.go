package apk

import (
	"strings"
	"testing"
)

// TestInstallOrder: what apk says it installs, in its order; make oracle
// compares many more.
func TestInstallOrder(t *testing.T) {
	for what, c := range map[string]struct{ index, world, want string }{
		"dependencies first": {"P:aa-svc\nD:zz-groups\n\nP:zz-groups\n", "aa-svc", "zz-groups aa-svc"},
		"world by name":      {"P:a\n\nP:b\n", "b a", "a b"},
		"provided name":      {"P:a\nD:so:x cmd:y\n\nP:m\np:cmd:y=1\n\nP:z\np:so:x=1\n", "a", "z m a"},
		"a circle":           {"P:a\nD:b\n\nP:b\nD:a\n", "a", "b a"},
		"install_if":         {"P:a\n\nP:a-openrc\ni:a=1 openrc\n\nP:b\n\nP:openrc\n", "a b openrc", "a b openrc a-openrc"},
		"conflict in world":  {"P:a\nD:!b\n", "!b a", "a"},
		"priority":           {"P:a\nD:v\n\nP:m\np:v\n\nP:z\np:v\nk:10\n", "a m", "z a m"},
	} {
		var index strings.Builder
		for _, record := range strings.Split(c.index, "\n\n") {
			index.WriteString("C:Q1\nV:1\n" + strings.TrimSpace(record) + "\n\n")
		}
		list, _, err := parseIndex([]byte(index.String()))
		if err != nil {
			t.Fatal(err)
		}
		world, err := ParseDeps(c.world)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range InstallOrder(world, list) {
			got = append(got, p.Name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

// TestReplacesFile follows apk_pkg_replaces_file of apk-tools' src/package.c.
func TestReplacesFile(t *testing.T) {
	deps := func(text string) []Dep {
		list, err := ParseDeps(text)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for what, c := range map[string]struct {
		old, new Package
		want     Replacement
	}{
		"neither":     {Package{Name: "a"}, Package{Name: "b"}, Conflict},
		"the new one": {Package{Name: "a"}, Package{Name: "b", Replaces: deps("a")}, Replace},
		"the old one": {Package{Name: "a", Replaces: deps("b")}, Package{Name: "b"}, Keep},
		"both":        {Package{Name: "a", Replaces: deps("b")}, Package{Name: "b", Replaces: deps("a")}, Replace},
		"both, the old one matters more": {Package{Name: "a", Replaces: deps("b"), ReplacesPriority: 10},
			Package{Name: "b", Replaces: deps("a")}, Keep},
		"both, the new one matters more": {Package{Name: "a", Replaces: deps("b")},
			Package{Name: "b", Replaces: deps("a"), ReplacesPriority: 1}, Replace},
		"another version":   {Package{Name: "a", Version: "2-r0"}, Package{Name: "b", Replaces: deps("a<1")}, Conflict},
		"this version":      {Package{Name: "a", Version: "2-r0"}, Package{Name: "b", Replaces: deps("a<3")}, Replace},
		"one of several":    {Package{Name: "a", Version: "2-r0"}, Package{Name: "b", Replaces: deps("c a=1 a>=2")}, Replace},
		"a provided name":   {Package{Name: "a", Provides: deps("v")}, Package{Name: "b", Replaces: deps("v")}, Conflict},
		"the same package":  {Package{Name: "a"}, Package{Name: "a"}, Replace},
		"the same origin":   {Package{Name: "a", Origin: "o"}, Package{Name: "b", Origin: "o"}, Replace},
		"no origin":         {Package{Name: "a", Origin: ""}, Package{Name: "b", Origin: ""}, Conflict},
		"priority alone":    {Package{Name: "a", ReplacesPriority: 9}, Package{Name: "b"}, Conflict},
		"negative priority": {Package{Name: "a"}, Package{Name: "b", Replaces: deps("a"), ReplacesPriority: -1}, Conflict},
	} {
		if got := ReplacesFile(&c.old, &c.new); got != c.want {
			t.Errorf("%s: %v, want %v", what, got, c.want)
		}
	}
}
