package k3s

import (
	"errors"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// LogFile is where the service pikelet-k3s logs.
const LogFile = "/var/log/k3s.log"

// Bounds of what LastErrors reads and returns, bytes.
const (
	maxTail   = 64 << 10
	maxReason = 300
)

// failure matches a line of k3s or of a component in it that says why something
// fails: of logrus, of klog, of a panic, or of another program's.
var failure = regexp.MustCompile(`level=(error|fatal|panic)|^[EF]\d{4} |^panic:|` +
	`(?i)\b(fatal|failed|error)\b|\bkubelet: |exited:`)

// noise is what such a line begins with and a report need not repeat.
var noise = regexp.MustCompile(`^[EF]\d{4} [0-9:.]+ +\d+ |^(time="[^"]*" )?(level=\w+ )?(msg=)?`)

// LastErrors returns the last two different lines of a log of k3s that say why
// something failed, the later one last; "" where there are none. At most 300
// bytes of it, of printable characters.
func LastErrors(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	b, err := io.ReadAll(io.NewSectionReader(f, max(0, end-maxTail), maxTail))
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	lines := strings.Split(string(b), "\n")
	var found []string
	for _, line := range slices.Backward(lines) {
		if !failure.MatchString(line) {
			continue
		}
		text := printable(noise.ReplaceAllString(line, ""))
		if !slices.Contains(found, text) {
			found = append(found, text)
		}
		if len(found) == 2 {
			break
		}
	}
	slices.Reverse(found)
	return strings.Join(found, "; ")
}

// printable bounds a line to half of what is returned, and takes out what is no
// printable character.
func printable(line string) string {
	line = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(strings.TrimSpace(line), ""))
	if len(line) > maxReason/2-1 {
		line = strings.ToValidUTF8(line[:maxReason/2-4], "") + "..."
	}
	return line
}
