package apk

import (
	"strings"
	"testing"
)

// repo makes an index of lines: NAME-VERSION | depends | provides |
// install_if | priority.
func repo(t *testing.T, text string) Source {
	t.Helper()
	x := &Index{}
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		f := strings.Split(line+"||||", "|")
		name, version, _ := strings.Cut(strings.TrimSpace(f[0]), " ")
		p := &Package{Name: name, Version: version, Identity: "Q1" + name + version,
			Depends: deps(t, f[1]), Provides: deps(t, f[2]), InstallIf: deps(t, f[3])}
		if strings.TrimSpace(f[4]) != "" {
			p.ProviderPriority = len(strings.TrimSpace(f[4])) // as many as there are characters
		}
		x.Packages = append(x.Packages, p)
	}
	return Source{Index: x}
}

func solve(t *testing.T, world, index string) (string, error) {
	t.Helper()
	list, err := Solve(deps(t, world), []Source{repo(t, index)})
	var names []string
	for _, p := range list {
		names = append(names, p.Name+" "+p.Version)
	}
	return strings.Join(names, ", "), err
}

func TestSolve(t *testing.T) {
	for what, c := range map[string][3]string{
		"dependencies": {"a", "a 1|b so:x.so.1\nb 1\nlibx 1||so:x.so.1=1\nc 1", "a 1, b 1, libx 1"},
		"newest":       {"a", "a 1.9\na 1.10\na 1.2", "a 1.10"},
		"constraint":   {"a b<2", "a 1|b\nb 1\nb 2", "a 1, b 1"},
		"install_if":   {"a openrc", "a 1\na-openrc 1||||\nopenrc 1\nb-openrc 1|||openrc b\n", "a 1, openrc 1"},
		"install_if to a fixed point": {"a openrc", "a 1\na-openrc 1|tool||openrc a=1\nopenrc 1\ntool 2\ntool-openrc 2|||openrc tool=2",
			"a 1, a-openrc 1, openrc 1, tool 2, tool-openrc 2"},
		"the newest of a name, whoever provides it": {"a", "a 1\nz 9||a=9", "z 9"},
		"priority among those without a version":    {"a", "a 1|v\nx 1||v||*\ny 1||v||**\nz 1||v", "a 1, y 1"},
		"a chosen provider will do":                 {"z a", "a 1|v\nx 1||v||*\nz 1||v", "a 1, z 1"},
		"a name without preference, met in the end": {"a", "a 1|v b\nb 1|x\nx 1||v\ny 1||v", "a 1, b 1, x 1"},
		"circles":            {"a", "a 1|b\nb 1|a", "a 1, b 1"},
		"unwanted stays out": {"a !a-doc", "a 1\na-doc 1|||a", "a 1"},
	} {
		if got, err := solve(t, c[0], c[1]); err != nil || got != c[2] {
			t.Errorf("%s: got %q (%v), want %q", what, got, err, c[2])
		}
	}
}

func TestSolveExplainsFailures(t *testing.T) {
	for what, c := range map[string][3]string{
		"missing":         {"a", "a 1|b\nb 1|ghost", "no package ghost, needed by b, needed by a"},
		"version":         {"a", "a 1|b>2\nb 1", "no version of b>2 fits; the repositories have 1, needed by a"},
		"conflict":        {"a b", "a 1|!b\nb 1", "a does not go together with b"},
		"unwanted":        {"a !b", "a 1|b\nb 1", "b is unwanted, but b-1 is needed, needed by a"},
		"no preference":   {"a", "a 1|v\nx 1||v\ny 1||v", "v can be had from x or y; add the one you want to packages"},
		"two versions":    {"a c", "a 1|b=1\nc 1|b=2\nb 1\nb 2", "b=2 is wanted, but b-1 was already chosen, needed by c"},
		"several at once": {"g1 g2", "a 1", "no package g2"},
	} {
		if got, err := solve(t, c[0], c[1]); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%s: got %q, %v; want an error with %q", what, got, err, c[2])
		}
	}
}

func TestTaggedRepositoriesServeTaggedNamesOnly(t *testing.T) {
	plain, tagged := repo(t, "a 1\nb 1"), repo(t, "a 2|b\nb 2")
	tagged.Tag = "edge"
	for world, want := range map[string]string{"a": "a 1", "a@edge": "a 2"} {
		list, err := Solve(deps(t, world), []Source{plain, tagged})
		if err != nil || list[0].String() != strings.ReplaceAll(want, " ", "-") {
			t.Errorf("%s: %v, %v", world, list, err)
		}
	}
}
