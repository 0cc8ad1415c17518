//go:build pairs

package patch

import (
	"bytes"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/squashfs"
)

var (
	programs = flag.String("programs", "", "directory that programs are built in, and kept")
	debs     = flag.String("debs", "", "directory of what testdata/large/debs.sh makes")
)

// program builds a command of a module for arm64 with a release of Go.
func programOf(t *testing.T, toolchain, command, version string) string {
	t.Helper()
	dir := filepath.Join(*programs, toolchain+"-"+version)
	name := filepath.Join(dir, filepath.Base(command))
	if b, err := os.ReadFile(name); err == nil {
		return string(b)
	}
	work := t.TempDir()
	run := func(args ...string) {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOTOOLCHAIN="+toolchain)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	run("go", "mod", "init", "pair")
	run("go", "get", command+"@"+version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", name, command)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// filesIn returns the files of a directory.
func filesIn(t *testing.T, dir string) files {
	t.Helper()
	all := files{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, p)
		switch {
		case err != nil || d.IsDir():
			return err
		case d.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			all[name] = "->" + to
			return err
		}
		b, err := os.ReadFile(p)
		all[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestPairs makes patches of programs as they are released, and of Debian's
// packages at two dates: each way makes the very bytes.
func TestPairs(t *testing.T) {
	const registry = "github.com/distribution/distribution/v3/cmd/registry"
	one := func(toolchain, version string) func(*testing.T) files {
		return func(t *testing.T) files { return files{"usr/bin/registry": programOf(t, toolchain, registry, version)} }
	}
	of := func(dir string) func(*testing.T) files {
		return func(t *testing.T) files { return filesIn(t, filepath.Join(*debs, dir)) }
	}
	for _, p := range []struct {
		name     string
		old, new func(*testing.T) files
		most     float64 // of the image
	}{
		{"a patch release", one("go1.26.8", "v3.1.1"), one("go1.26.8", "v3.1.2"), 0.15},
		{"a minor release", one("go1.26.8", "v3.0.0"), one("go1.26.8", "v3.1.0"), 0.5},
		{"another release of Go", one("go1.25.5", "v3.0.0"), one("go1.26.8", "v3.0.0"), 0.7},
		{"by an earlier Go", one("go1.25.5", "v3.0.0-rc.4"), one("go1.25.5", "v3.0.0"), 0.5},
		{"a patch release of Go", one("go1.26.7", "v3.1.2"), one("go1.26.8", "v3.1.2"), 0.1},
		{"Debian's packages", of("old"), of("new"), 0.1},
	} {
		t.Run(p.name, func(t *testing.T) {
			old, _ := newImage(t, "1", 1_700_000_000, squashfs.Fast(), p.old(t), nil)
			new, is := newImage(t, "2", 1_700_086_400, squashfs.Fast(), p.new(t), nil)
			b, stats := made(t, old, new)
			if err := try(t, b, old, new.Manifest); err != nil {
				t.Fatal(err)
			}
			at := &place{b: is[image.RootFile]}
			got, _, err := byBlocks(t, old, new, at)
			if err != nil || !bytes.Equal(got, at.b) {
				t.Fatalf("by blocks: %v", err)
			}
			whole := float64(len(at.b))
			t.Logf("%s: the root has %d bytes; by patch %d (%.4f), by the files that changed %d (%.3f); made by %v",
				p.name, len(at.b), len(b), float64(len(b))/whole, at.bytes, float64(at.bytes)/whole, stats.By)
			if float64(len(b))/whole > p.most {
				t.Errorf("the patch is %.3f of the root; want at most %.3f", float64(len(b))/whole, p.most)
			}
		})
	}
	if strings.TrimSpace(*programs) == "" {
		t.Fatal("make pairs says where programs are built")
	}
}
