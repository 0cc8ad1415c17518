package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is what all commands share: the streams, and the format of what goes to
// them. Results go to standard output; warnings, progress and errors go to
// standard error.
type app struct {
	version string
	in      io.Reader
	out     io.Writer
	err     io.Writer
	quiet   bool
	json    bool
	log     *slog.Logger
}

func newApp(version string, in io.Reader, out, err io.Writer) *app {
	a := &app{version: version, in: in, out: out, err: err}
	a.log = slog.New(newTextHandler(a, slog.LevelInfo))
	return a
}

func (a *app) addFlags(c *cobra.Command) {
	c.PersistentFlags().BoolVarP(&a.quiet, "quiet", "q", false, "print results, warnings and errors only")
	c.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON object a line: results to standard output, all else to standard error")
}

// setUp chooses the log format once flags are parsed.
func (a *app) setUp() {
	level := slog.LevelInfo
	if a.quiet {
		level = slog.LevelWarn
	}
	if a.json {
		a.log = slog.New(slog.NewJSONHandler(stderr{a}, &slog.HandlerOptions{Level: level}))
		return
	}
	a.log = slog.New(newTextHandler(a, level))
}

// result prints the result of a command: fields with --json, text otherwise.
func (a *app) result(fields any, text string) {
	if a.json {
		a.object(a.out, map[string]any{"result": fields})
		return
	}
	fmt.Fprintln(a.out, text)
}

func (a *app) object(w io.Writer, v any) {
	b, err := json.Marshal(v)
	if err != nil { // commands print only strings, numbers, and structs of them
		b = []byte("{}")
	}
	fmt.Fprintf(w, "%s\n", b)
}

// stderr is standard error, or what shows progress bars there.
type stderr struct{ a *app }

// Write implements io.Writer.
func (s stderr) Write(b []byte) (int, error) { return s.a.err.Write(b) }

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// textHandler writes log records for people: the message, its attributes, and
// on a line of its own the attribute "hint".
type textHandler struct {
	mu    *sync.Mutex
	buf   *bytes.Buffer
	attrs slog.Handler // formats the attributes into buf
	w     io.Writer
}

const hintKey = "hint"

func newTextHandler(a *app, level slog.Level) *textHandler {
	buf := &bytes.Buffer{}
	builtIn := func(groups []string, at slog.Attr) slog.Attr {
		if len(groups) == 0 && (at.Key == slog.TimeKey || at.Key == slog.LevelKey || at.Key == slog.MessageKey || at.Key == hintKey) {
			return slog.Attr{}
		}
		return at
	}
	attrs := slog.NewTextHandler(buf, &slog.HandlerOptions{Level: level, ReplaceAttr: builtIn})
	return &textHandler{mu: &sync.Mutex{}, buf: buf, attrs: attrs, w: stderr{a}}
}

// Enabled implements slog.Handler.
func (h *textHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.attrs.Enabled(ctx, l) }

// Handle implements slog.Handler.
func (h *textHandler) Handle(ctx context.Context, r slog.Record) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.buf.Reset()
	if err := h.attrs.Handle(ctx, r); err != nil {
		return err
	}
	var line bytes.Buffer
	if r.Level >= slog.LevelWarn {
		line.WriteString("warning: ")
	}
	line.WriteString(r.Message)
	if attrs := bytes.TrimSpace(h.buf.Bytes()); len(attrs) > 0 {
		line.WriteByte(' ')
		line.Write(attrs)
	}
	line.WriteByte('\n')
	r.Attrs(func(at slog.Attr) bool {
		if at.Key == hintKey {
			fmt.Fprintf(&line, "hint: %s\n", at.Value)
		}
		return true
	})
	_, err := h.w.Write(line.Bytes())
	return err
}

// WithAttrs implements slog.Handler.
func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = h.attrs.WithAttrs(attrs)
	return &with
}

// WithGroup implements slog.Handler.
func (h *textHandler) WithGroup(name string) slog.Handler {
	with := *h
	with.attrs = h.attrs.WithGroup(name)
	return &with
}
