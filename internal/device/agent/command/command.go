// Package command runs programs of the root and returns what they print.
package command

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// ExitStatus returns a program's exit status, or -1 where it has none.
func ExitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// OneLine joins the lines of a program's output.
func OneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// Run runs a program and returns what it printed, which is also in its error.
func Run(name string, args ...string) (string, error) {
	return Input(nil, name, args...)
}

// Input runs a program with a standard input, as Run does. What is secret goes
// this way: everybody on a node reads arguments.
func Input(stdin []byte, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w: %s", name, err, OneLine(string(out)))
	}
	return string(out), nil
}
