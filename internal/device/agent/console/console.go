// Package console is how the node logs to its console: a line of text for each
// record.
package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Writer writes to the console of the node, and discards where there is none. Each
// Write opens it anew, since consoles come and go.
type Writer struct{}

// Write implements io.Writer.
func (Writer) Write(line []byte) (int, error) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return len(line), nil // the node has no console
	}
	defer f.Close()
	_, err = f.Write(line)
	return len(line), err
}

// Prefixed returns a writer that puts "pikelet: " in front of what is written to
// the console. Each Write is a whole line.
func Prefixed() io.Writer { return prefixed{} }

type prefixed struct{}

// Write implements io.Writer.
func (prefixed) Write(line []byte) (int, error) {
	if _, err := fmt.Fprintf(Writer{}, "pikelet: %s\n", strings.TrimSuffix(string(line), "\n")); err != nil {
		return 0, err
	}
	return len(line), nil
}

// Handler prints records as lines for people:
//
//	pikelet: looking for new releases channel=registry.lan/pi/lab:stable: no route to host
//
// The attribute err comes last, behind a colon. There are no times: the kernel's
// log and OpenRC's have them.
type Handler struct {
	w      io.Writer
	prefix string
	attrs  []slog.Attr
}

// NewHandler returns a handler that writes to w, each line with a prefix such as
// "pikelet" and a colon; "" is for lines without. Its methods may be called by several goroutines if those of w may.
func NewHandler(w io.Writer, prefix string) Handler { return Handler{w: w, prefix: prefix} }

// Enabled implements slog.Handler.
func (Handler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// WithAttrs implements slog.Handler.
func (h Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	h.attrs = append(slices.Clip(h.attrs), attrs...)
	return h
}

// WithGroup implements slog.Handler. Groups are not shown.
func (h Handler) WithGroup(string) slog.Handler { return h }

// Handle implements slog.Handler.
func (h Handler) Handle(_ context.Context, r slog.Record) error {
	var b, tail strings.Builder
	if h.prefix != "" {
		b.WriteString(h.prefix + ": ")
	}
	b.WriteString(r.Message)
	add := func(a slog.Attr) bool {
		value := a.Value.Resolve().String()
		switch {
		case a.Key == "err":
			tail.WriteString(": " + value)
		case value == "" || strings.ContainsAny(value, " \n\""):
			b.WriteString(" " + a.Key + "=" + strconv.Quote(value))
		default:
			b.WriteString(" " + a.Key + "=" + value)
		}
		return true
	}
	for _, a := range h.attrs {
		add(a)
	}
	r.Attrs(add)
	_, err := io.WriteString(h.w, b.String()+tail.String()+"\n")
	return err
}

var _ slog.Handler = Handler{}
