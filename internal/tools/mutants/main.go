// Mutants makes mistakes in the code on purpose, one at a time, and looks
// whether the tests that should see them do: a check that can be taken out with
// all tests green is a promise that nothing holds.
//
// Each file of testdata/mutants is a mutant: a unified diff for patch -p1, with
// three lines before it:
//
//	# promise: what the code would break
//	# package: ./layers ./layers/oci
//	# test: TestOne|TestTwo
//	# hangs: how it has a test never end (only where it does)
//
// The tests are run on the tree as it is, where they must pass, and then with
// each diff, where one of them must fail. A diff that does not apply or compile
// is an error. The tree itself is never changed: diffs are applied to copies. It runs in the directory of go.mod.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	match := flag.String("run", "", "only mutants whose file names match the regular expression")
	sample := flag.Int("sample", 0, "only so many of them, always the same")
	hang := flag.Duration("hang", time.Minute, "how long the tests of a mutant may take")
	workers := flag.Int("workers", 2, "mutants at the same time")
	flag.Parse()
	only, err := regexp.Compile(*match)
	var list []mutant
	if err == nil {
		list, err = load("testdata/mutants", only, *sample)
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		err = trial{root: ".", hang: *hang, workers: max(1, *workers), out: os.Stdout}.judge(ctx, list)
		stop()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

// mutant is one mistake.
type mutant struct {
	name     string // of its file, without .patch
	promise  string
	packages []string
	tests    []string
	hangs    string // how it has a test never end; "" where it does not
	diff     []byte
}

var (
	testName    = regexp.MustCompile(`^Test\w+$`)
	packageName = regexp.MustCompile(`^\./[\w/-]+$`)
)

func parse(name string, b []byte) (mutant, error) {
	m := mutant{name: name, diff: b}
	for line := range bytes.Lines(b) {
		text, header := strings.CutPrefix(string(line), "# ")
		if !header {
			break
		}
		key, value, _ := strings.Cut(text, ":")
		switch value = strings.TrimSpace(value); key {
		case "promise":
			m.promise = value
		case "package":
			m.packages = strings.Fields(value)
		case "test":
			m.tests = strings.Split(value, "|")
		case "hangs":
			m.hangs = value
		default:
			return m, fmt.Errorf("%s: a line %q at its head; want promise, package, test and hangs", name, key)
		}
	}
	wrongTest := func(s string) bool { return !testName.MatchString(s) }
	wrongPackage := func(s string) bool { return !packageName.MatchString(s) }
	if m.promise == "" || len(m.packages) == 0 || len(m.tests) == 0 || !bytes.Contains(b, []byte("\n@@ ")) ||
		slices.ContainsFunc(m.tests, wrongTest) || slices.ContainsFunc(m.packages, wrongPackage) {
		return m, fmt.Errorf("%s: want the lines # promise: TEXT, # package: ./DIR and # test: TestOne|TestTwo before a unified diff", name)
	}
	return m, nil
}

// load reads the mutants of a directory whose names match; or only so many of
// them, by their hashes: the same ones every time, of all packages.
func load(dir string, match *regexp.Regexp, sample int) ([]mutant, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.patch"))
	if err != nil {
		return nil, err
	}
	var list []mutant
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".patch")
		if !match.MatchString(name) {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		m, err := parse(name, b)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no mutants in %s match %q", dir, match)
	}
	if sample > 0 && sample < len(list) {
		slices.SortFunc(list, func(a, b mutant) int {
			x, y := sha256.Sum256([]byte(a.name)), sha256.Sum256([]byte(b.name))
			return bytes.Compare(x[:], y[:])
		})
		list = list[:sample]
	}
	return list, nil
}

// trial is how mutants are judged.
type trial struct {
	root    string // of the module
	hang    time.Duration
	workers int
	out     io.Writer
}

// judge tries all mutants and prints a line for each. Its error says how many
// were not killed.
func (t trial) judge(ctx context.Context, list []mutant) error {
	scratch, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	copies := make([]string, t.workers)
	for i := range copies {
		copies[i] = filepath.Join(scratch, fmt.Sprint(i))
		if err := copyTree(copies[i], t.root); err != nil {
			return err
		}
	}
	if err := t.baseline(ctx, copies[0], list); err != nil {
		return err
	}
	next := make(chan mutant)
	var group sync.WaitGroup
	var mu sync.Mutex
	count := map[string]int{}
	for _, dir := range copies {
		group.Go(func() {
			for m := range next {
				start := time.Now()
				result, detail := t.try(ctx, dir, m)
				mu.Lock()
				count[result]++
				fmt.Fprintf(t.out, "%-8s  %-32s %5.1fs  %s\n", result, m.name, time.Since(start).Seconds(), detail)
				mu.Unlock()
			}
		})
	}
	for _, m := range list {
		next <- m
	}
	close(next)
	group.Wait()
	fmt.Fprintf(t.out, "mutants: %d, killed: %d, survived: %d\n", len(list), count["killed"], count["SURVIVED"])
	if count["killed"] < len(list) {
		return fmt.Errorf("%d survived: their tests are green without the check; %d could not be tried",
			count["SURVIVED"], count["ERROR"]+count["TIMEOUT"])
	}
	return nil
}

// try applies a mutant to the copy in dir, runs its tests, and takes it back.
func (t trial) try(ctx context.Context, dir string, m mutant) (result, detail string) {
	if err := apply(dir, m.diff); err != nil {
		return "ERROR", "it does not apply: " + err.Error()
	}
	out, err := t.test(ctx, dir, m.packages, m.tests, t.hang)
	if err := apply(dir, m.diff, "-R"); err != nil {
		return "ERROR", "it can't be taken back: " + err.Error()
	}
	switch {
	case err == nil:
		return "SURVIVED", m.promise
	case ctx.Err() != nil:
		return "ERROR", ctx.Err().Error()
	case strings.Contains(out, "[build failed]") || strings.Contains(out, "[setup failed]"):
		return "ERROR", "it does not compile:\n" + out
	case strings.Contains(out, "panic: test timed out") && m.hangs == "":
		return "TIMEOUT", fmt.Sprintf("no test failed within %v; if the mutant makes one hang, say so in a line # hangs: HOW", t.hang)
	case strings.Contains(out, "--- FAIL: ") || strings.Contains(out, "panic: "):
		return "killed", m.promise
	}
	return "ERROR", fmt.Sprintf("%v:\n%s", err, out)
}

var passed = regexp.MustCompile(`(?m)^--- PASS: (\w+) `)

// baseline runs all tests that mutants name, without any mutant. Each must be
// there, and pass: one that fails by itself kills everything.
func (t trial) baseline(ctx context.Context, dir string, list []mutant) error {
	named := map[string][]string{}
	for _, m := range list {
		for _, p := range m.packages {
			named[p] = append(named[p], m.tests...)
		}
	}
	green := map[string]bool{}
	for p, tests := range named {
		slices.Sort(tests)
		out, err := t.test(ctx, dir, []string{p}, slices.Compact(tests), 10*t.hang)
		if err != nil {
			return fmt.Errorf("without a mutant, tests of %s fail: %w\n%s", p, err, out)
		}
		for _, found := range passed.FindAllStringSubmatch(out, -1) {
			green[p+" "+found[1]] = true
		}
	}
	for _, m := range list {
		for _, test := range m.tests {
			if !slices.ContainsFunc(m.packages, func(p string) bool { return green[p+" "+test] }) {
				return fmt.Errorf("%s: no test %s passes in %s", m.name, test, strings.Join(m.packages, " "))
			}
		}
	}
	return nil
}

// test runs tests of packages in dir, and returns what go printed.
func (t trial) test(ctx context.Context, dir string, packages, tests []string, limit time.Duration) (string, error) {
	ctx, stop := context.WithTimeout(ctx, limit+5*time.Minute) // to compile
	defer stop()
	// Without paths in them, objects of one copy are good for the others.
	args := []string{"test", "-trimpath", "-vet=off", "-ldflags=-s -w", "-count=1", "-p=1", "-v", "-timeout", limit.String(),
		"-run", "^(" + strings.Join(tests, "|") + ")$"}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// apply applies a diff in dir.
func apply(dir string, diff []byte, options ...string) error {
	cmd := exec.Command("git", append([]string{"apply", "-p1", "--whitespace=nowarn"}, append(options, "-")...)...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(diff)
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir)) // no repository that dir may be in
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git apply: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// copyTree copies a module without what git and builds leave in it. What tests
// need of the latter is linked.
func copyTree(to, from string) error {
	if err := os.MkdirAll(filepath.Join(to, "build"), 0o755); err != nil {
		return err
	}
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	args := []string{"-R", "--preserve=mode"}
	for _, e := range list {
		if e.Name() != ".git" && e.Name() != "build" {
			args = append(args, filepath.Join(from, e.Name()))
		}
	}
	if out, err := exec.Command("cp", append(args, to)...).CombinedOutput(); err != nil {
		return fmt.Errorf("copying %s: %w: %s", from, err, out)
	}
	for _, name := range []string{"build/starter", "build/tools"} {
		target, err := filepath.EvalSymlinks(filepath.Join(from, name))
		if err != nil {
			continue // tests that need it say so
		}
		if target, err = filepath.Abs(target); err == nil {
			err = os.Symlink(target, filepath.Join(to, name))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
