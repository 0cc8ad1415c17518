package script

import (
	"archive/tar"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/testing/startertest"
)

// wantedShare is how many of the scripts of testdata have to be done as a real
// busybox does them, or refused for a good reason.
const wantedShare = 0.95

// starterJudge makes a root of the starter's busybox, which is for arm64. Every
// command is a link to a program for this computer, which starts busybox by
// qemu-user: so does what busybox itself executes.
func starterJudge(t *testing.T) *judge {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs the starter repository")
	}
	if os.Geteuid() != 0 {
		t.Skip("it needs root, to change the root directory and owners")
	}
	qemu, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Fatal("qemu-aarch64-static is missing; make setup-test installs it")
	}
	j := &judge{name: "starter", base: t.TempDir(), shared: map[string]string{}}
	programs := t.TempDir()
	for _, dir := range []string{"bin", judgeDir} {
		if err := os.MkdirAll(filepath.Join(j.base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(programs, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
		j.shared[name] = filepath.Join(programs, name)
	}
	busybox := startertest.Package(t, "busybox")
	startertest.Members(t, busybox, func(h *tar.Header, r io.Reader) {
		if h.Name != "bin/busybox" {
			return
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		write("busybox", b)
	})
	if j.shared["busybox"] == "" {
		t.Fatalf("%s has no /bin/busybox", busybox)
	}
	b, err := os.ReadFile(qemu)
	if err != nil {
		t.Fatal(err)
	}
	write("qemu", b)
	build := exec.Command("go", "build", "-o", filepath.Join(programs, "start"), "./testdata/start")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	j.shared["start"] = filepath.Join(programs, "start")
	list, err := exec.Command(qemu, j.shared["busybox"], "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	link := func(to string, names []string) {
		for _, name := range names {
			if err := os.Symlink(to, filepath.Join(j.base, "bin", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	have := strings.Fields(string(list))
	link("/"+judgeDir+"/start", have)
	if err := os.WriteFile(filepath.Join(j.base, "bin/absent"), []byte("#!/bin/sh\n: >/"+judgeMark+"\nexit 127\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	// A script that calls what Alpine's busybox has and Debian's has not, or musl's getent,
	// is not judged.
	link("absent", append(slices.DeleteFunc(strings.Fields(applets), func(name string) bool { return slices.Contains(have, name) }), "getent"))
	j.fill(t)
	return j
}

// starterScripts are the install scripts of the starter's packages.
func starterScripts(t *testing.T) []named {
	t.Helper()
	var list []named
	for _, name := range startertest.Packages(t) {
		startertest.Members(t, name, func(h *tar.Header, r io.Reader) {
			switch h.Name {
			case ".pre-install", ".post-install", ".trigger":
				text, err := io.ReadAll(r)
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, named{filepath.Base(name), h.Name, text})
			}
		})
	}
	return list
}

// TestStarterBusybox has the starter's own busybox judge the scripts of testdata and of
// the starter's packages.
func TestStarterBusybox(t *testing.T) {
	j := starterJudge(t)
	real := starterScripts(t)
	t.Logf("the starter's packages have %d install scripts", len(real))
	n := j.judged(t, append(tableScripts(t), real...))
	if n.share() < wantedShare {
		t.Errorf("%.3f of the scripts are done or rightly refused, want %.2f", n.share(), wantedShare)
	}
	if n.same < 80 {
		t.Errorf("only %d scripts were compared", n.same)
	}
}
