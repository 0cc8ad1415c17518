package nodeconfig

import (
	"fmt"
	"strings"
	"time"
)

// Window is a time of day, in minutes after midnight. One that ends before it
// begins goes on after midnight.
type Window struct{ From, To int }

// ParseWindow reads a window such as 02:00-05:00.
func ParseWindow(s string) (Window, error) {
	from, to, ok := strings.Cut(s, "-")
	a, err := minutes(from)
	b, err2 := minutes(to)
	if !ok || err != nil || err2 != nil || a == b {
		return Window{}, fmt.Errorf("%q: want a time of day such as 02:00-05:00", s)
	}
	return Window{a, b}, nil
}

func minutes(s string) (int, error) {
	t, err := time.Parse("15:04", s)
	return t.Hour()*60 + t.Minute(), err
}

// Contains reports whether the window is open.
func (w Window) Contains(t time.Time) bool {
	m := t.Hour()*60 + t.Minute()
	if w.From < w.To {
		return w.From <= m && m < w.To
	}
	return w.From <= m || m < w.To
}
