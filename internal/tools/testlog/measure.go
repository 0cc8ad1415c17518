package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"
	"time"
)

// turn is a line of a test binary that says a test of the top level runs, or
// not. With -json such lines begin with a mark.
var turn = regexp.MustCompile(`^\x16?(?:=== (RUN|PAUSE|CONT) +|--- (?:PASS|FAIL|SKIP): )([^/\s]+)(?:$| \()`)

// clock adds to the output of a test binary what its tests cost. A test that
// alone ran, from its first line to its last, took what the process took
// meanwhile.
type clock struct {
	w       io.Writer
	now     func() (time.Duration, bool) // CPU time of the process and the children it waited for
	line    []byte                       // the beginning of a line
	last    time.Duration
	running map[string]bool
	used    map[string]time.Duration
	beside  map[string]bool // those that ran beside another
}

func newClock(w io.Writer, now func() (time.Duration, bool)) *clock {
	return &clock{w: w, now: now, running: map[string]bool{}, used: map[string]time.Duration{}, beside: map[string]bool{}}
}

func (c *clock) Write(b []byte) (int, error) {
	n := len(b)
	for {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		c.line = append(c.line, line...)
		if !whole {
			break
		}
		c.line = append(c.line, '\n')
		if _, err := c.w.Write(c.line); err != nil {
			return 0, err
		}
		if m := turn.FindSubmatch(bytes.TrimSuffix(c.line, []byte("\n"))); m != nil {
			if err := c.turn(string(m[1]), string(m[2])); err != nil {
				return 0, err
			}
		}
		c.line, b = c.line[:0], rest
	}
	return n, nil
}

// turn notes that a test runs, pauses or, as "", ends.
func (c *clock) turn(what, name string) error {
	now, known := c.now()
	if !known {
		return nil
	}
	for r := range c.running {
		c.used[r] += now - c.last
		c.beside[r] = c.beside[r] || len(c.running) > 1
	}
	c.last = now
	switch what {
	case "RUN", "CONT":
		c.running[name] = true
		return nil
	case "PAUSE":
		delete(c.running, name)
		return nil
	}
	delete(c.running, name)
	if c.beside[name] {
		return nil
	}
	_, err := fmt.Fprintf(c.w, "cpu: %s %.2f s\n", name, c.used[name].Seconds())
	return err
}

// measure runs a test binary, adds what it cost to its output, and returns its
// exit code. The binary dies with it.
func measure(program string, args []string, w io.Writer) int {
	runtime.LockOSThread() // what kills the child when its parent dies watches a thread
	cmd := exec.Command(program, args...)
	c := newClock(w, func() (time.Duration, bool) { return cpuOf(cmd.Process.Pid) })
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, c, c
	cmd.SysProcAttr = dieWithParent()
	cmd.WaitDelay = 10 * time.Second // for what a test left behind with its output open
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(w, err)
		return 1
	}
	go func() {
		for s := range signals {
			if s != os.Interrupt { // a terminal sends that to both
				cmd.Process.Signal(s)
			}
		}
	}()
	err := cmd.Wait()
	w.Write(c.line)
	fmt.Fprintf(w, "cpu: %.2f s\n", (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(w, err)
	return 1
}
