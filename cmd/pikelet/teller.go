package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// teller says what a command does: lines for people, or one JSON object a
// line for programs.
type teller struct {
	out   io.Writer
	quiet bool
	json  bool
}

func (t *teller) addFlags(c *cobra.Command) {
	c.PersistentFlags().BoolVarP(&t.quiet, "quiet", "q", false, "print results and warnings only")
	c.PersistentFlags().BoolVar(&t.json, "json", false, "print one JSON object a line, for programs")
}

// line says what was done.
func (t *teller) line(text string) {
	switch {
	case t.json:
		t.object(map[string]string{"step": text})
	case !t.quiet:
		fmt.Fprintln(t.out, text)
	}
}

// logger returns a logger for what a server does: lines of text, or objects.
func (t *teller) logger() *slog.Logger {
	options := &slog.HandlerOptions{}
	if t.quiet {
		options.Level = slog.LevelWarn
	}
	if t.json {
		return slog.New(slog.NewJSONHandler(t.out, options))
	}
	return slog.New(slog.NewTextHandler(t.out, options))
}

// warning says what the person should look at.
func (t *teller) warning(text string) {
	if t.json {
		t.object(map[string]string{"warning": text})
		return
	}
	fmt.Fprintln(t.out, "warning:", text)
}

// result says what came of it: as fields, or as text.
func (t *teller) result(fields any, text string) {
	if t.json {
		t.object(map[string]any{"result": fields})
		return
	}
	fmt.Fprintln(t.out, text)
}

func (t *teller) object(v any) {
	b, err := json.Marshal(v)
	if err != nil { // only strings and numbers come here
		b = []byte("{}")
	}
	fmt.Fprintf(t.out, "%s\n", b)
}
