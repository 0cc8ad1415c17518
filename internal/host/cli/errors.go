package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Exit codes, as the help says.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line nobody can follow.
type usageError struct{ error }

// report prints what went wrong, if anything, and returns the exit code. It
// is the only place that prints errors.
func report(w io.Writer, err error) int {
	var usage usageError
	var bad *spec.Error
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(w, "pikelet: interrupted; what was there is as it was")
		return exitFailed
	case errors.As(err, &bad):
		fmt.Fprintln(w, bad)
		return exitUsage
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(w, "pikelet: %v\nTry pikelet --help.\n", err)
		return exitUsage
	}
	fmt.Fprintf(w, "pikelet: %v\n", err)
	for _, advice := range hint.Of(err) {
		fmt.Fprintf(w, "hint: %s\n", advice)
	}
	return exitFailed
}
