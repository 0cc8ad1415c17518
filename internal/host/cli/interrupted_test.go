package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pikelet-os/pikelet/internal/tools/full"
)

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFullDisk builds on a file system that fills up.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	newSpec(t, dir)
	warmCache(t, dir)
	must(t, dir, "mkdir small")
	if err := syscall.Mount("tmpfs", dir+"/small", "tmpfs", 0, "size=2m"); err != nil {
		t.Fatalf("mounting a small file system: %v", err)
	}
	defer syscall.Unmount(dir+"/small", 0)
	fails(t, dir, []string{"build", "-o", "small/out", "image.yaml"}, "no space left on device")
	if left, _ := filepath.Glob(dir + "/small/out/*"); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
	fails(t, dir, []string{"vendor", "image.yaml", "small/kept"}, "hint: create it: pikelet lock image.yaml")
	ok(t, dir, "lock", "image.yaml")
	fails(t, dir, []string{"vendor", "image.yaml", "small/kept"}, "no space left on device")
	must(t, dir, "! find small -name '.part-*' | grep .")
}

// atLine passes on what a program says, and calls then when it said so many
// lines.
type atLine struct {
	out   bytes.Buffer
	lines int
	then  func()
}

func (a *atLine) Write(b []byte) (int, error) {
	a.out.Write(b)
	if a.then != nil && bytes.Count(a.out.Bytes(), []byte("\n")) >= a.lines {
		a.then()
		a.then = nil
	}
	return len(b), nil
}

// TestInterruptedBuildsLeaveNothing interrupts and kills builds after each of many
// lines of output: earlier output stays complete, the next build works, and no
// temporary files are left.
func TestInterruptedBuildsLeaveNothing(t *testing.T) {
	dir, _, _ := mirror(t)
	said := ok(t, dir, "build", "-o", "out", "image.yaml")
	digest, lines := digestLine(t, said), strings.Count(said, "\n")
	before := mustRead(t, dir+"/out/manifest.json")
	times := 6
	if full.Tests {
		times = 14
	}
	for n := range times {
		cmd := exec.Command(os.Args[0], "build", "-o", "out", "image.yaml")
		cmd.Dir = dir
		cmd.Env = []string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "PATH=" + os.Getenv("PATH")}
		signal := []os.Signal{os.Interrupt, os.Kill}[n%2]
		out := &atLine{lines: 1 + n*(lines-2)/times, then: func() { cmd.Process.Signal(signal) }}
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil && signal == os.Interrupt {
			if code := cmd.ProcessState.ExitCode(); code != exitFailed || !strings.Contains(out.out.String(), "interrupted") {
				t.Errorf("interrupted: exit %d\n%s", code, out.out.String())
			}
			if left, _ := filepath.Glob(dir + "/out/.*"); len(left) > 0 {
				t.Errorf("interrupted: it left %v", left)
			}
		}
		if mustRead(t, dir+"/out/manifest.json") != before {
			t.Error("what was there changed")
		}
		ok(t, dir, "inspect", "out")
	}
	if again := digestLine(t, ok(t, dir, "build", "-o", "out", "image.yaml")); again != digest {
		t.Error("the build after is another image")
	}
	if left, _ := filepath.Glob(dir + "/out/.*"); len(left) > 0 {
		t.Errorf("killed builds left %v", left)
	}
	must(t, dir, "rm -rf cache/pikelet/packages/.download-*; ! ls -A cache/pikelet/packages | grep '^\\.'")
}

// TestBuildsSideBySide shares one cache between builds, and refuses to share
// one output directory.
func TestBuildsSideBySide(t *testing.T) {
	dir, _, _ := mirror(t)
	type result struct {
		out  string
		code int
	}
	results := make(chan result)
	for n := range 3 {
		go func() {
			out, code := pikelet(t, dir, []string{"XDG_CACHE_HOME=" + dir + "/cache"}, "build", "--sign-key", "key", "-o", fmt.Sprint("out", n),
				"image.yaml")
			results <- result{out, code}
		}()
		if n == 0 {
			if err := makeKey(dir + "/key"); err != nil {
				t.Fatal(err)
			}
		}
	}
	digests := map[string]bool{}
	for range 3 {
		r := <-results
		if r.code != 0 {
			t.Fatalf("exit %d\n%s", r.code, r.out)
		}
		digests[digestLine(t, r.out)] = true
	}
	if len(digests) != 1 {
		t.Errorf("builds side by side made %d images", len(digests))
	}
	lock, err := os.Create(dir + "/out0/.lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil { // as a build does
		t.Fatal(err)
	}
	fails(t, dir, []string{"build", "-o", "out0", "image.yaml"},
		"another build is writing to output directory \"out0\"", "hint: choose another output directory")
}

// TestBuildWithoutPermissions builds as a user who may not read a layer, write the output, or
// use the cache.
func TestBuildWithoutPermissions(t *testing.T) {
	if testing.Short() {
		t.Skip("needs root, to become another user")
	}
	s := newShelf(t)
	must(t, s.dir, "mkdir -p files/secret shut home && echo x > files/secret/x && cp "+os.Args[0]+
		" pikelet && chmod 755 pikelet . .. && chmod 700 files/secret shut && chown 65534:65534 home")
	build := func(args ...string) string {
		cmd := exec.Command(s.dir+"/pikelet", append([]string{"build"}, args...)...)
		cmd.Dir = s.dir
		cmd.Env = []string{"BE_PIKELET=1", "HOME=" + s.dir + "/home", "PATH=" + os.Getenv("PATH")}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("%v: no error\n%s", args, out)
		}
		return string(out)
	}
	if out := build("-o", "shut/out", "image.yaml"); !strings.Contains(out, "shut/out: permission denied") {
		t.Errorf("a directory that may not be written:\n%s", out)
	}
	s.spec("layers: [{folder: files}]\n")
	if out := build("-o", "home/out", "image.yaml"); !strings.Contains(out, "files: ") ||
		!strings.Contains(out, "files/secret: permission denied") {
		t.Errorf("a directory that may not be read:\n%s", out)
	}
	s.spoil("image.yaml", func(b []byte) []byte { return bytes.Replace(b, []byte("url: repo"), []byte("url: shut"), 1) })
	if out := build("-o", "home/out", "image.yaml"); !strings.Contains(out, "repository shut: ") ||
		!strings.Contains(out, "permission denied") {
		t.Errorf("a repository that may not be read:\n%s", out)
	}
	if left, _ := filepath.Glob(s.dir + "/home/out/*"); len(left) > 0 {
		t.Errorf("it left %v", left)
	}
}
