// Package console prints to the console of the node.
package console

import (
	"fmt"
	"os"
	"strings"
)

// Tell prints a line to the console; nowhere where there is none.
func Tell(text string) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return // there is none, and nobody to read it
	}
	defer f.Close()
	fmt.Fprintf(f, "pikelet: %s\n", text)
}

// Writer is Tell as an io.Writer. Each Write is a whole line.
type Writer struct{}

// Write implements io.Writer.
func (Writer) Write(line []byte) (int, error) {
	Tell(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}
