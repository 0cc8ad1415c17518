package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// run is what a run of two packages prints: tests, subtests, one in a virtual
// machine, one that fails and one that is skipped.
const run = `make: not an event
{"Action":"start","Package":"a"}
{"Action":"run","Package":"a","Test":"TestOne"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"=== RUN   TestOne\n"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"quiet\n"}
{"Action":"output","Package":"a","Test":"TestOne","Output":"--- PASS: TestOne (1.50s)\n"}
{"Action":"pass","Package":"a","Test":"TestOne","Elapsed":1.5}
{"Action":"output","Package":"a","Output":"cpu: TestOne 2.25 s\n"}
{"Action":"run","Package":"a","Test":"TestVM"}
{"Action":"run","Package":"a","Test":"TestVM/b"}
{"Action":"output","Package":"a","Test":"TestVM/b","Output":"    level=INFO msg=\"QEMU ended\" cpu_seconds=10.5\n"}
{"Action":"output","Package":"a","Test":"TestVM/b","Output":"    level=INFO msg=\"QEMU ended\" cpu_seconds=1.25\n"}
{"Action":"pass","Package":"a","Test":"TestVM/b","Elapsed":8}
{"Action":"pass","Package":"a","Test":"TestVM","Elapsed":9}
{"Action":"output","Package":"a","Output":"PASS\n"}
{"Action":"output","Package":"a","Output":"cpu: 20.00 s\n"}
{"Action":"pass","Package":"a","Elapsed":11}
{"Action":"start","Package":"b"}
{"Action":"run","Package":"b","Test":"TestSkipped"}
{"Action":"output","Package":"b","Test":"TestSkipped","Output":"    b_test.go:1: why\n"}
{"Action":"skip","Package":"b","Test":"TestSkipped","Elapsed":0}
`

const bad = `{"Action":"run","Package":"b","Test":"TestBad"}
{"Action":"output","Package":"b","Test":"TestBad","Output":"    b_test.go:9: got 1, want 2\n"}
{"Action":"fail","Package":"b","Test":"TestBad","Elapsed":0.5}
{"Action":"fail","Package":"b","Elapsed":1}
`

func printed(t *testing.T, events string) (string, bool) {
	t.Helper()
	var out strings.Builder
	good, err := report(strings.NewReader(events), &out)
	if err != nil {
		t.Fatal(err)
	}
	return out.String(), good
}

func TestReport(t *testing.T) {
	out, good := printed(t, run+`{"Action":"pass","Package":"b","Elapsed":1}`)
	want := `make: not an event
--- PASS: TestOne (1.50s)
    --- PASS: TestVM/b (8.00s, cpu 11.75s)
--- PASS: TestVM (9.00s, cpu 11.75s)
ok   a (11.00s, cpu 20.00s)
--- SKIP: TestSkipped (0.00s)
    b_test.go:1: why
ok   b (1.00s, cpu 0.00s)

all tests took 20.0 CPU seconds; the dearest:
    11.75 s  a TestVM
     2.25 s  a TestOne

3 passed, 0 failed, 1 skipped
`
	if out != want || !good {
		t.Errorf("all passed %v, and it prints\n%s, want\n%s", good, out, want)
	}
}

// TestReportSeesFailures: a run is good only when every package ended well and
// a test passed.
func TestReportSeesFailures(t *testing.T) {
	for name, c := range map[string]struct{ events, want string }{
		"a test":    {run + bad, "--- FAIL: TestBad (0.50s)\n    b_test.go:9: got 1, want 2\nFAIL b (1.00s, cpu 0.00s)\n"},
		"no test":   {"", "0 passed, 0 failed, 0 skipped"},
		"cut short": {run, "FAIL b: go test ended before it did"},
		"a panic": {run + `{"Action":"run","Package":"b","Test":"TestBad"}
{"Action":"output","Package":"b","Test":"TestBad","Output":"panic: oh\n"}
{"Action":"fail","Package":"b","Elapsed":1}`, "--- FAIL: TestBad (it did not end)\npanic: oh\n"},
		"TestMain": {run + `{"Action":"output","Package":"b","Output":"exit status 3\n"}
{"Action":"fail","Package":"b","Elapsed":1}`, "exit status 3\nFAIL b "},
		"a build": {run + `{"Action":"build-output","ImportPath":"b","Output":"b.go:1: no\n"}
{"Action":"build-fail","ImportPath":"b"}
{"Action":"fail","Package":"b","Elapsed":0,"FailedBuild":"b"}`, "b.go:1: no\n"},
	} {
		if out, good := printed(t, c.events); good || !strings.Contains(out, c.want) {
			t.Errorf("%s failed: all passed %v, and there is no %q in\n%s", name, good, c.want, out)
		}
	}
}

// TestClock: who ran alone is told what it took; the seconds of those who ran
// beside each other belong to none of them.
func TestClock(t *testing.T) {
	var out bytes.Buffer
	var now time.Duration
	c := newClock(&out, func() (time.Duration, bool) { now += time.Second; return now, true })
	in := "=== RUN   TestA\nhello\n\x16=== RUN   TestA/sub\n\x16--- PASS: TestA (0.00s)\n    --- PASS: TestA/sub (0.00s)\n" +
		"=== RUN   TestB\n=== PAUSE TestB\n=== RUN   TestC\n=== PAUSE TestC\n=== CONT  TestB\n=== CONT  TestC\n--- PASS: TestB (0.00s)\n--- " +
		"FAIL: TestC (0.00s)\nFAIL\n"
	for _, b := range []byte(in) { // however it is cut
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.Replace(in, "TestA (0.00s)\n", "TestA (0.00s)\ncpu: TestA 1.00 s\n", 1)
	if out.String() != want {
		t.Errorf("it prints\n%s, want\n%s", out.String(), want)
	}
}

// TestMeasure: exit codes pass through, and a child's seconds are counted.
func TestMeasure(t *testing.T) {
	var out bytes.Buffer
	if code := measure("sh", []string{"-c", "echo out; echo err >&2; exit 7"}, &out); code != 7 ||
		!strings.HasPrefix(out.String(), "out\nerr\ncpu: 0.0") {
		t.Errorf("it exits with %d and prints\n%s", code, out.String())
	}
	if code := measure("nothing-of-that-name", nil, &out); code != 1 {
		t.Errorf("a program that is not there: exit %d", code)
	}
	used, known := cpuOf(os.Getpid())
	if !known {
		t.Skip("this system does not tell")
	}
	if err := exec.Command("sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").Run(); err != nil {
		t.Fatal(err)
	}
	if now, _ := cpuOf(os.Getpid()); now <= used {
		t.Errorf("a child took %v", now-used)
	}
}
