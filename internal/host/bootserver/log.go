package bootserver

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// The log of a server is rate-limited, because any machine in the network can
// cause log lines: a burst of this many lines of a kind, then so many a second.
const (
	burst = 200
	rate  = 10
)

// logLimit counts lines by kind.
type logLimit struct {
	mu    sync.Mutex
	kinds map[string]*bucket
}

type bucket struct {
	left    float64 // lines that may be written now
	last    time.Time
	dropped int
}

// allow reports whether a line of a kind may be written now, and how many were
// dropped before it.
func (l *logLimit) allow(kind string, now time.Time) (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.kinds == nil {
		l.kinds = map[string]*bucket{}
	}
	b := l.kinds[kind]
	if b == nil {
		b = &bucket{left: burst, last: now}
		l.kinds[kind] = b
	}
	b.left = min(burst, b.left+rate*now.Sub(b.last).Seconds())
	b.last = now
	if b.left < 1 {
		b.dropped++
		return 0, false
	}
	b.left--
	dropped, b.dropped = b.dropped, 0
	return dropped, true
}

// log writes a line of a kind, such as dhcp, unless there were too many of it.
// args are attributes as slog.Logger.Log takes them; texts among them are made
// printable, because machines choose their contents.
func (s *Server) log(level slog.Level, kind, message string, args ...any) {
	dropped, ok := s.logLimit.allow(kind, s.Now())
	if !ok {
		return
	}
	to := s.Log.With("kind", kind)
	if dropped > 0 {
		to.Warn("dropped log lines", "count", dropped)
	}
	to.Log(context.Background(), level, message, printable(args)...)
}

// printable returns attributes whose values are numbers or printable text.
func printable(args []any) []any {
	list := make([]any, len(args))
	for i, a := range args {
		switch a.(type) {
		case int, int64, float64, bool, time.Duration:
			list[i] = a
		default:
			list[i] = Printable(fmt.Sprint(a), maxLine)
		}
	}
	return list
}

// Limits of quoted texts of machines, in bytes.
const (
	maxLine    = 4 << 10 // of the log, each attribute
	maxStage   = 200
	maxRelease = 64
	maxError   = 2 << 10
)

// Printable returns text that neither ends a line nor moves a cursor: whatever
// is not printable is written as Go escapes it. What is longer than most bytes
// is cut, and ends in dots. Anybody in the network can have a server repeat
// what they say.
func Printable(text string, most int) string {
	var b strings.Builder
	for i, r := range text {
		var part string
		switch {
		case r == utf8.RuneError && !strings.HasPrefix(text[i:], string(utf8.RuneError)):
			part = fmt.Sprintf("\\x%02x", text[i])
		case strconv.IsPrint(r):
			part = string(r)
		default:
			q := strconv.QuoteRune(r)
			part = q[1 : len(q)-1]
		}
		if b.Len()+len(part) > most {
			b.WriteString("...")
			break
		}
		b.WriteString(part)
	}
	return b.String()
}
