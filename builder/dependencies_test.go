package builder

import (
	"archive/tar"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/depends"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/layers"
)

// askServices asks scripts as OpenRC's gendepends.sh does.
const askServices = `#!/bin/sh
need() { echo "$RC_SVCNAME ineed $*"; }
use() { echo "$RC_SVCNAME iuse $*"; }
provide() { echo "$RC_SVCNAME iprovide $*"; }
cd /etc/init.d
	for RC_SERVICE in *; do
		RC_SVCNAME=$RC_SERVICE
		(
		. "./$RC_SVCNAME"
		echo "$RC_SVCNAME"
		depend
		)
	done
`

// services returns a tree with services by what their depend functions do; runlevel
// default starts those in starts.
func services(t *testing.T, starts string, depend map[string]string) *layers.Tree {
	t.Helper()
	tree := layers.NewTree(newContents(t).spool)
	add := func(name, text string) {
		t.Helper()
		if err := tree.AddFile(tar.Header{Name: name, Mode: 0o755}, "test", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	add("usr/lib/rc/sh/gendepends.sh", askServices)
	for name, text := range depend {
		add("etc/init.d/"+name, "#!/sbin/openrc-run\ndepend() { "+text+"; }\n")
	}
	for _, name := range strings.Fields(starts) {
		h := tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/runlevels/default/" + name, Linkname: "/etc/init.d/" + name}
		if err := tree.Add(h, "test", nil); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestServiceLacksAnother(t *testing.T) {
	depend := map[string]string{"app": "need store", "store": "need disk net", "networking": "provide net", "spare": "need nothing-like-it",
		"easy": "use nothing-like-it"}
	tree := services(t, "app networking easy", depend)
	_, err := addDependencies(context.Background(), tree, time.Unix(1e9, 0))
	const want = "runlevel default: the service app needs store, which needs disk, and no service of the image is or provides that"
	if err == nil || err.Error() != want {
		t.Fatalf("got %v, want %s", err, want)
	}
	const advice = "add the package, overlay or layer that has a service disk, or take app out of services.default"
	if got := strings.Join(hint.Of(err), "; "); got != advice {
		t.Errorf("advice: %s, want %s", got, advice)
	}
	if tree.Lookup(depends.File) != nil {
		t.Error("something was left for the node")
	}
	depend["store"] = "need net"
	tree = services(t, "app networking easy", depend)
	left, err := addDependencies(context.Background(), tree, time.Unix(1e9, 0))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %s", err, lines(left))
	}
	if tree.Lookup(depends.File) == nil {
		t.Error("nothing was left for the node")
	}
}

// TestServiceIsLeft: a warning for a service that a runlevel starts, and for none else.
func TestServiceIsLeft(t *testing.T) {
	tree := services(t, "app", map[string]string{"app": "need $(date)", "spare": "need $(date)"})
	left, err := addDependencies(context.Background(), tree, time.Unix(1e9, 0))
	const want = `dependencies of a service are not checked, and each boot computes them service="app" reason="line 2: date: `
	if err != nil || len(left) != 1 || !strings.HasPrefix(left[0].String(), want) {
		t.Errorf("%v, %s, want %s", err, lines(left), want)
	}
	if err := tree.AddFile(tar.Header{Name: "usr/lib/rc/sh/gendepends.sh", Mode: 0o755}, "test", []byte("#!/bin/sh\ndate\n")); err != nil {
		t.Fatal(err)
	}
	left, err = addDependencies(context.Background(), tree, time.Unix(1e9, 0))
	if err != nil || len(left) != 1 || !strings.HasPrefix(left[0].String(), "dependencies of services are not checked, and each boot") {
		t.Errorf("%v, %s", err, lines(left))
	}
}
