// Command testlog prints what a person wants to see of a run of tests, and
// what it cost.
//
//	go test -json -exec 'testlog exec' ./... | testlog
//
// As a filter it reads the events of go test -json and prints each test with
// its wall and CPU seconds, all output of those that failed, the dearest ten,
// and how many passed. It exits with 1 unless all of them did.
//
// As testlog exec PROGRAM ARGUMENTS it runs a test binary and adds lines to its
// output that say how many CPU seconds each test took, and how many the whole
// binary, its children included. Tests that run beside others in one process
// can't be told apart that way; those that start virtual machines log what each
// took, in lines like `msg="QEMU ended" cpu_seconds=12.34`, which are summed.
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "exec" {
		os.Exit(measure(os.Args[2], os.Args[3:], os.Stdout))
	}
	if len(os.Args) > 1 {
		fmt.Fprintln(os.Stderr, "testlog: got "+strings.Join(os.Args[1:], " ")+", want no arguments, or exec PROGRAM")
		os.Exit(2)
	}
	good, err := report(os.Stdin, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testlog: reading the events of go test -json:", err)
	}
	if err != nil || !good {
		os.Exit(1)
	}
}
