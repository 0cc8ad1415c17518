//go:build oracle

package script

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Alpine's busybox judges the evaluator, as root, because it chroots:
// go test -tags oracle -run Oracle ./builder/script -alpine DIR, where DIR holds
// an x86_64 minirootfs of Alpine.
var alpineDir = flag.String("alpine", "", "directory with alpine-minirootfs-*-x86_64.tar.gz")

func alpineJudge(t *testing.T) *judge {
	t.Helper()
	archive, _ := filepath.Glob(*alpineDir + "/alpine-minirootfs-*-x86_64.tar.gz")
	if len(archive) == 0 {
		t.Fatalf("no x86_64 minirootfs in -alpine %q", *alpineDir)
	}
	j := &judge{name: "alpine", base: t.TempDir()}
	if out, err := exec.Command("tar", "-xzpf", archive[0], "-C", j.base).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	j.fill(t)
	return j
}

// alpineScripts are the install scripts of Alpine's own packages in its root.
func alpineScripts(t *testing.T, j *judge) []named {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(j.base, "lib/apk/db/scripts.tar"))
	if err != nil {
		t.Fatal(err)
	}
	var list []named
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(h.Name, "-upgrade") {
			list = append(list, named{"scripts.tar", h.Name, text})
		}
	}
	return list
}

// TestOracleBusybox runs the scripts of testdata, and those of Alpine's root, in a
// chroot too, and compares the trees and the statuses.
func TestOracleBusybox(t *testing.T) {
	j := alpineJudge(t)
	n := j.judged(t, append(tableScripts(t), alpineScripts(t, j)...))
	if n.share() < wantedShare {
		t.Errorf("%.3f of the scripts are done or rightly refused, want %.2f", n.share(), wantedShare)
	}
}
