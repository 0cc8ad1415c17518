// Package hint keeps advice apart from the error it is about: a library says
// what went wrong and what would help in two texts, and the command line prints
// them on lines of their own.
package hint

import "fmt"

type hinted struct {
	err  error
	text string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// With returns err with advice: one sentence without a period that says what to
// do next, in terms of the caller's world ("trust its certificate authority").
// The message of the error stays as it was, and errors.Is and errors.As find
// what they found before. With returns nil for nil.
func With(err error, text string) error {
	if err == nil {
		return nil
	}
	return &hinted{err, text}
}

// Withf is With of a formatted text.
func Withf(err error, format string, args ...any) error {
	return With(err, fmt.Sprintf(format, args...))
}

// Of returns the advice of err and of all errors it wraps, the outermost first,
// each once.
func Of(err error) []string {
	var all []string
	seen := map[string]bool{}
	var walk func(error)
	walk = func(err error) {
		if h, ok := err.(*hinted); ok && !seen[h.text] {
			seen[h.text] = true
			all = append(all, h.text)
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		}
	}
	walk(err)
	return all
}
