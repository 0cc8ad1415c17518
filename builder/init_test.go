package builder

import (
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/layers"
	"github.com/pikelet-os/pikelet/layers/oci"
)

// over lays a layer of a container image over a tree; names are as for put.
func over(t *testing.T, c *contents, tree *layers.Tree, names ...string) {
	t.Helper()
	from := layers.NewTree(c.spool)
	put(t, from, "x", names...)
	if err := oci.Apply(tree, layers.Part(from.Entries()), "oci tools", ""); err != nil {
		t.Fatal(err)
	}
}

// TestRootsThatStart: a root whose /sbin/init or /bin/sh leads nowhere is
// refused, and the error says which layer did it (wolfi-dev/os#41575).
func TestRootsThatStart(t *testing.T) {
	alpine := []string{"bin/", "bin/busybox", "bin/sh->/bin/busybox", "sbin/", "sbin/init->/bin/busybox"}
	for what, c := range map[string]struct {
		packages []string
		layers   [][]string
		want     string
	}{
		"as it is": {alpine, nil, ""},
		"merged, with a program": {[]string{"usr/bin/busybox", "bin->usr/bin", "bin/sh->/bin/busybox", "sbin/init->/bin/busybox"},
			[][]string{{"usr/bin/tool"}}, ""},
		"no init": {[]string{"bin/sh"}, nil, "the root has no program at /sbin/init"},
		"a merged image": {alpine, [][]string{{"usr/bin/tool", "bin->usr/bin"}},
			"/sbin/init leads to /usr/bin/busybox, which is not a program: oci tools replaced /bin (from package)"},
		"repaired": {alpine, [][]string{{"usr/bin/tool", "bin->usr/bin"}, {"usr/bin/busybox", "usr/bin/sh"}}, ""},
		"busybox whited out": {alpine, [][]string{{"bin/.wh.busybox"}},
			"/bin/sh leads to /bin/busybox, which is not a program: oci tools took away /bin/busybox (from package)"},
		"init replaced": {alpine, [][]string{{"sbin/init->/lib/systemd/systemd"}},
			"/sbin/init leads to /lib/systemd/systemd, which is not a program: oci tools replaced /sbin/init (from package)"},
		"init brought": {[]string{"bin/sh"}, [][]string{{"sbin/init"}}, ""},
	} {
		all := newContents(t)
		tree := layers.NewTree(all.spool)
		put(t, tree, "package", c.packages...)
		s := watchStarters(tree)
		for _, l := range c.layers {
			over(t, all, tree, l...)
			s.look(tree, "oci tools")
		}
		err := s.check(tree)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}
