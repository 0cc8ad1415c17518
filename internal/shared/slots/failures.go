package slots

import "strings"

// The record that only /init and the watchdog's feeder write (disk.InitRecord) says
// why slots did not come up: a line "slot X: reason" for each.

// failurePrefix begins the line of a slot.
func failurePrefix(l Letter) string { return "slot " + string(l) + ":" }

// AddFailure returns the text of a record with the reason why a slot did not come
// up, on the first line. What the record says of the other slot stays. White space
// in the reason becomes single blanks.
func AddFailure(text string, l Letter, reason string) string {
	lines := []string{failurePrefix(l) + " " + strings.Join(strings.Fields(reason), " ")}
	for _, line := range strings.Split(text, "\n") {
		if line != "" && !strings.HasPrefix(line, failurePrefix(l)) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}

// Failure returns why a slot did not come up, by the text of a record. failed is
// false where the record says nothing of the slot.
func Failure(text string, l Letter) (reason string, failed bool) {
	for _, line := range strings.Split(text, "\n") {
		if reason, ok := strings.CutPrefix(line, failurePrefix(l)); ok {
			return strings.TrimPrefix(reason, " "), true
		}
	}
	return "", false
}
