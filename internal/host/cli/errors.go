package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/pikelet-os/pikelet/builder/spec"
	"github.com/pikelet-os/pikelet/internal/host/apply"
	"github.com/pikelet-os/pikelet/internal/host/fleet"
	"github.com/pikelet-os/pikelet/internal/host/rollouts"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/image/registry"
)

// Exit statuses, as the help describes them.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitRolledBack = 3
)

// usageError reports invalid arguments (exit status 2).
type usageError struct{ error }

// Unwrap returns the error without its kind.
func (u usageError) Unwrap() error { return u.error }

// usagef returns a formatted usageError.
func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// report prints an error with its hints, and returns the exit status. It is the
// only place that prints errors.
func (a *app) report(err error) int {
	if err == nil {
		return exitDone
	}
	var bad *spec.Error
	text, status := "pikelet: "+err.Error(), exitFailed
	switch {
	case errors.Is(err, context.Canceled):
		text = "pikelet: interrupted; existing output is unchanged"
	case errors.As(err, &bad):
		text, status = bad.Error(), exitUsage // a line for each mistake, with its file
	case errors.As(err, new(usageError)):
		status = exitUsage
	case errors.Is(err, fleet.ErrRolledBack), errors.Is(err, rollouts.ErrHalted),
		errors.Is(err, apply.ErrRolledBack), errors.Is(err, apply.ErrDrift):
		status = exitRolledBack
	}
	hints := hint.Of(withFlags(err))
	if a.json {
		a.object(a.err, struct {
			Error string `json:"error"`
			Hint  string `json:"hint,omitempty"`
		}{strings.TrimPrefix(text, "pikelet: "), strings.Join(hints, "; ")})
		return status
	}
	fmt.Fprintln(a.err, text)
	for _, h := range hints {
		fmt.Fprintln(a.err, "hint:", h)
	}
	return status
}

// withFlags adds to errors of registries which flags help: libraries know none.
func withFlags(err error) error {
	switch {
	case errors.Is(err, registry.ErrWithoutTLS):
		return hint.With(err, "--plain-http uses the registry without TLS")
	case errors.Is(err, registry.ErrCertificate):
		return hint.With(err, "--ca FILE.pem trusts a certificate authority of your own")
	case errors.Is(err, registry.ErrDowngrade):
		return hint.With(err, "--allow-downgrade with --sign-key FILE lets them go back")
	}
	return err
}
