package upgrade

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// What of the logs goes into a report: with all the rest it has 16 KiB.
const (
	logLines = 25
	logBytes = 3500
)

// lastLines returns the last lines of the kernel's log and of k3s'.
func lastLines() string {
	var b strings.Builder
	add := func(what, text string) {
		if text = tail(text); text != "" {
			fmt.Fprintf(&b, "-- %s\n%s\n", what, text)
		}
	}
	buf := make([]byte, 256<<10)
	if n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf); err == nil {
		add("the kernel", kernelLines(string(buf[:n])))
	}
	for _, name := range []string{"/var/log/messages", "/var/log/k3s.log"} {
		add(name, endOf(name))
	}
	return b.String()
}

// kernelLines returns the kernel's log without its debugging, and without the
// level in front of each line.
func kernelLines(text string) string {
	var list []string
	for _, line := range strings.Split(text, "\n") {
		if level, rest, ok := strings.Cut(line, ">"); ok && level != "<7" {
			list = append(list, rest)
		}
	}
	return strings.Join(list, "\n")
}

// endOf returns the end of a file.
func endOf(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, min(st.Size(), logBytes))
	n, _ := f.ReadAt(b, st.Size()-int64(len(b)))
	return string(b[:n])
}

// tail returns the last lines of a text.
func tail(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(0, len(lines)-logLines):]
	for len(lines) > 1 && len(strings.Join(lines, "\n")) > logBytes {
		lines = lines[1:]
	}
	text = strings.Join(lines, "\n")
	return strings.ToValidUTF8(text[max(0, len(text)-logBytes):], "?")
}
