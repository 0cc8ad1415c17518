package node

import "strings"

// What pikeletd prints while it upgrades, and a computer that runs it over SSH reads.
const (
	restarting = "restarting into the trial of release "
	hintPrefix = "hint: "
)

// Restarting returns the last line of an upgrade that goes well: the node restarts,
// and the connection will end.
func Restarting(release string) string { return restarting + release }

// ParseRestarting returns the release that a line of an upgrade's output says the
// node restarts into; ok is false for any other line.
func ParseRestarting(line string) (release string, ok bool) {
	return strings.CutPrefix(line, restarting)
}

// Hint returns the line that gives advice about the error before it.
func Hint(text string) string { return hintPrefix + text }

// ParseHint returns the advice of a line; ok is false for any other line.
func ParseHint(line string) (text string, ok bool) { return strings.CutPrefix(line, hintPrefix) }
