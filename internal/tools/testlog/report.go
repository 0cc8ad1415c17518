package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// event is one of go test -json; see go doc test2json, and go help buildjson.
type event struct {
	Action     string
	Package    string
	ImportPath string // of builds
	Test       string
	Output     string
	Elapsed    float64
}

var (
	// cpuLine is what testlog exec adds, of a test or of a whole binary.
	cpuLine = regexp.MustCompile(`^cpu: (?:(\S+) )?([0-9.]+) s$`)
	// vmLine is what a test logs of a virtual machine that it ran.
	vmLine = regexp.MustCompile(`msg="QEMU ended" cpu_seconds=([0-9.]+)$`)
)

// maxKept bounds the lines that are kept of a test, for when it fails.
const maxKept = 4000

// test is one that runs, or ran.
type test struct {
	pkg, name string
	out       []string // what it printed
	wall      float64
	own       float64 // CPU seconds of its process meanwhile
	measured  bool    // whether own is known
	vms       float64 // CPU seconds of its virtual machines
}

// cpu returns a test's CPU seconds, as far as they are known. Machines that
// ended while their process was watched are among its own.
func (t *test) cpu() (seconds float64, known bool) {
	if t.measured {
		return max(t.own, t.vms), true
	}
	return t.vms, t.vms > 0
}

// seconds writes what a test took.
func (t *test) seconds() string {
	if s, known := t.cpu(); known {
		return fmt.Sprintf("(%.2fs, cpu %.2fs)", t.wall, s)
	}
	return fmt.Sprintf("(%.2fs)", t.wall)
}

// pkg is a package whose tests run.
type pkg struct {
	tests    map[string]*test // those that did not end yet
	finished []*test          // of the top level; they are printed with the package
	out      []string         // what came from no test
	cpu      float64
	failed   bool
}

// log is what is known of a run so far.
type log struct {
	w                       io.Writer
	running                 map[string]*pkg
	done                    []*test // of the top level
	passed, failed, skipped int
	broken                  bool // something failed that is no test
	cpu                     float64
}

// report prints a run of go test -json and returns whether all tests passed.
func report(r io.Reader, w io.Writer) (bool, error) {
	l := &log{w: w, running: map[string]*pkg{}}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var e event
		if !strings.HasPrefix(sc.Text(), "{") || json.Unmarshal(sc.Bytes(), &e) != nil {
			fmt.Fprintln(w, sc.Text()) // of the go command itself, or of make
			continue
		}
		l.add(e)
	}
	for name, p := range l.running {
		l.broken = true
		l.unfinished(p)
		fmt.Fprintf(w, "FAIL %s: go test ended before it did\n", name)
	}
	l.dearest()
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", l.passed, l.failed, l.skipped)
	return !l.broken && l.failed == 0 && l.passed > 0, sc.Err()
}

func (l *log) add(e event) {
	switch {
	case e.Action == "build-output":
		fmt.Fprint(l.w, e.Output)
	case e.Action == "build-fail":
		l.broken = true
	case e.Package == "":
	case e.Test == "":
		l.addPackage(e)
	default:
		l.addTest(e)
	}
}

func (l *log) pkg(name string) *pkg {
	if l.running[name] == nil {
		l.running[name] = &pkg{tests: map[string]*test{}}
	}
	return l.running[name]
}

// measured takes a line that testlog exec added, whichever test go test thinks
// it is of.
func (l *log) measured(e event) bool {
	m := cpuLine.FindStringSubmatch(strings.TrimSuffix(e.Output, "\n"))
	if m == nil {
		return false
	}
	p := l.pkg(e.Package)
	s, _ := strconv.ParseFloat(m[2], 64)
	if m[1] == "" {
		p.cpu, l.cpu = p.cpu+s, l.cpu+s
		return true
	}
	for _, t := range p.finished {
		if t.name == m[1] {
			t.own, t.measured = s, true
		}
	}
	if t := p.tests[m[1]]; t != nil {
		t.own, t.measured = s, true
	}
	return true
}

func (l *log) addPackage(e event) {
	p := l.pkg(e.Package)
	switch e.Action {
	case "output":
		if !l.measured(e) {
			p.out = append(p.out, e.Output)
		}
	case "pass", "skip", "fail":
		delete(l.running, e.Package)
		if e.Action == "fail" {
			l.unfinished(p)
			if !p.failed {
				l.broken = true // by a panic, a time-out, or TestMain
			}
			fmt.Fprint(l.w, strings.Join(p.out, ""))
		}
		l.done = append(l.done, p.finished...)
		if e.Action != "skip" { // which has no tests
			fmt.Fprintf(l.w, "%-4s %s (%.2fs, cpu %.2fs)\n", map[string]string{"pass": "ok", "fail": "FAIL"}[e.Action], e.Package, e.Elapsed, p.cpu)
		}
	}
}

// unfinished prints what is known of tests that never ended.
func (l *log) unfinished(p *pkg) {
	for name, t := range p.tests {
		p.failed = true
		l.failed++
		fmt.Fprintf(l.w, "%s--- FAIL: %s (it did not end)\n", indent(name), name)
		fmt.Fprint(l.w, strings.Join(t.out, ""))
	}
}

func (l *log) addTest(e event) {
	p := l.pkg(e.Package)
	t := p.tests[e.Test]
	if t == nil {
		t = &test{pkg: e.Package, name: e.Test}
		if e.Action == "run" {
			p.tests[e.Test] = t
		}
	}
	switch e.Action {
	case "output":
		l.output(p, t, e)
	case "pass", "fail", "skip":
		delete(p.tests, e.Test)
		t.wall = e.Elapsed
		l.end(p, t, e.Action)
	}
}

func (l *log) output(p *pkg, t *test, e event) {
	line := strings.TrimSuffix(e.Output, "\n")
	switch {
	case l.measured(e), strings.HasPrefix(line, "=== "):
		return
	case strings.Contains(line, "crash states: "):
		fmt.Fprintln(l.w, strings.TrimSpace(line)) // a figure, and the seed it is of
	}
	if m := vmLine.FindStringSubmatch(line); m != nil {
		s, _ := strconv.ParseFloat(m[1], 64)
		t.vms += s
		for name := t.name; strings.Contains(name, "/"); {
			name = name[:strings.LastIndex(name, "/")]
			if parent := p.tests[name]; parent != nil {
				parent.vms += s
			}
		}
	}
	t.out = append(t.out, e.Output)
	if len(t.out) > maxKept {
		t.out = t.out[maxKept/4:]
	}
}

func indent(name string) string { return strings.Repeat("    ", strings.Count(name, "/")) }

func (l *log) end(p *pkg, t *test, how string) {
	switch how {
	case "pass":
		l.passed++
	case "skip":
		l.skipped++
	case "fail":
		l.failed++
		p.failed = true
	}
	out := strings.Join(t.out, "")
	t.out = nil
	fmt.Fprintf(l.w, "%s--- %s: %s %s\n", indent(t.name), strings.ToUpper(how), t.name, t.seconds())
	if how != "pass" {
		fmt.Fprint(l.w, out)
	}
	if !strings.Contains(t.name, "/") {
		p.finished = append(p.finished, t)
	}
}

// dearest prints the ten tests that took the most CPU seconds.
func (l *log) dearest() {
	all := slices.DeleteFunc(slices.Clone(l.done), func(t *test) bool { _, known := t.cpu(); return !known })
	slices.SortStableFunc(all, func(a, b *test) int {
		x, _ := a.cpu()
		y, _ := b.cpu()
		return cmp.Compare(y, x)
	})
	if len(all) == 0 {
		return
	}
	fmt.Fprintf(l.w, "\nall tests took %.1f CPU seconds; the dearest:\n", l.cpu)
	for _, t := range all[:min(10, len(all))] {
		s, _ := t.cpu()
		fmt.Fprintf(l.w, "%9.2f s  %s %s\n", s, t.pkg, t.name)
	}
	fmt.Fprintln(l.w)
}
