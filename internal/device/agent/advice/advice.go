// Package advice joins errors and their hints for what the node keeps as text: the
// problems of a boot, what it waits for, report.txt.
package advice

import (
	"strings"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
)

// Text returns the message of err and its hints, joined by semicolons.
func Text(err error) string {
	return strings.Join(append([]string{err.Error()}, hint.Of(err)...), "; ")
}
