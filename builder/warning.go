package builder

import (
	"fmt"
	"log/slog"
	"strings"
)

// Warning is something a build did not do, or could not check, that an image can
// be without. It has the form of a log record.
type Warning struct {
	Message string // a constant phrase
	Attrs   []slog.Attr
}

// warning returns a Warning with the attributes args, as slog.Info takes them.
func warning(message string, args ...any) Warning {
	return Warning{Message: message, Attrs: slog.Group("", args...).Value.Group()}
}

// String returns the warning as one line.
func (w Warning) String() string {
	var b strings.Builder
	b.WriteString(w.Message)
	for _, a := range w.Attrs {
		fmt.Fprintf(&b, " %s=%q", a.Key, a.Value.String())
	}
	return b.String()
}

// lines returns warnings as text, a line each.
func lines(list []Warning) string {
	var text []string
	for _, w := range list {
		text = append(text, w.String())
	}
	return strings.Join(text, "\n")
}
