package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the test binary stand in for pikelet, so that builds can run
// as processes of their own, in surroundings of their own.
func TestMain(m *testing.M) {
	if os.Getenv("BE_PIKELET") != "" {
		var mask int
		fmt.Sscanf(os.Getenv("BE_UMASK"), "%o", &mask)
		syscall.Umask(mask)
		os.Exit(bePikelet())
	}
	testscript.Main(tests{m}, map[string]func(){"pikelet": func() { os.Exit(bePikelet()) }})
}

// tests are the tests of the package, and remove what they share.
type tests struct{ m *testing.M }

// Run implements testscript.TestingM.
func (t tests) Run() int {
	code := t.m.Run()
	for _, dir := range []string{shipped.dir, warm.dir, small.dir} {
		os.RemoveAll(dir)
	}
	return code
}

// TestScripts runs testdata/script/*.txtar. -update rewrites what they expect.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// status runs pikelet, which must end with an exit status: status 2 build.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: status NUMBER ARGUMENT...")
	}
	err := ts.Exec("pikelet", args[1:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("running pikelet: %v", err)
	}
	if got := fmt.Sprint(code); got != args[0] {
		ts.Fatalf("pikelet %s: exit status %s, want %s", strings.Join(args[1:], " "), got, args[0])
	}
}

// bePikelet is what cmd/pikelet does.
func bePikelet() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, "dev", os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// pikelet runs the command line in dir and returns its output and exit code.
func pikelet(t *testing.T, dir string, env []string, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"BE_PIKELET=1", "HOME=" + dir, "XDG_CACHE_HOME=" + dir + "/cache", "PATH=" + os.Getenv("PATH")}, env...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// hang is longer than anything takes on a busy machine: what waits so long
// never ends.
const hang = 10 * time.Minute

// needsStarter skips a test in make check, which has neither the starter
// repository nor other people's programs.
func needsStarter(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("it needs the starter repository")
	}
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
