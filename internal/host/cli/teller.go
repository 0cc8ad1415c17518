package cli

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// teller says what a command does: lines for people, or one JSON object a
// line for programs.
type teller struct {
	out   io.Writer
	quiet bool
	json  bool
	// version is what the command calls itself.
	version string
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
