package bootserver

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// What a server says is bounded, for anybody can have it say something: this
// many lines of a kind at once, and then so many a second.
const (
	burst = 200
	rate  = 10
)

// teller counts lines by kind.
type teller struct {
	mu    sync.Mutex
	kinds map[string]*bucket
}

type bucket struct {
	left    float64 // lines that may be said now
	last    time.Time
	dropped int
}

// tell says a line of a kind, such as dhcp, unless there were too many of it.
func (s *Server) tell(kind, text string) {
	s.teller.mu.Lock()
	if s.teller.kinds == nil {
		s.teller.kinds = map[string]*bucket{}
	}
	now := s.Now()
	b := s.teller.kinds[kind]
	if b == nil {
		b = &bucket{left: burst, last: now}
		s.teller.kinds[kind] = b
	}
	b.left = min(burst, b.left+rate*now.Sub(b.last).Seconds())
	b.last = now
	dropped, say := b.dropped, b.left >= 1
	if say {
		b.left--
		b.dropped = 0
	} else {
		b.dropped++
	}
	s.teller.mu.Unlock()
	if !say {
		return
	}
	if dropped > 0 {
		s.Log(fmt.Sprintf("%s: %d lines were left out", kind, dropped))
	}
	s.Log(kind + ": " + Printable(text, maxLine))
}

// How much is repeated of what machines say, in bytes.
const (
	maxLine    = 4 << 10 // of the log
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
