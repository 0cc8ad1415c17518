package nodeconfig

import (
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		window, at string
		open       bool
	}{
		{"02:00-05:00", "02:00", true}, {"02:00-05:00", "04:59", true}, {"02:00-05:00", "05:00", false}, {"02:00-05:00", "01:59", false},
		{"22:30-01:15", "23:00", true}, {"22:30-01:15", "00:00", true}, {"22:30-01:15", "01:15", false}, {"22:30-01:15", "12:00", false},
	} {
		w, err := ParseWindow(c.window)
		if err != nil {
			t.Fatal(err)
		}
		at, err := time.Parse("15:04", c.at)
		if err != nil {
			t.Fatal(err)
		}
		if w.Contains(at) != c.open {
			t.Errorf("%s at %s: open %v", c.window, c.at, !c.open)
		}
	}
	for _, bad := range []string{"", "2-5", "02:00", "02:00-02:00", "02:00-25:00", "at night"} {
		if w, err := ParseWindow(bad); err == nil {
			t.Errorf("%q is %+v", bad, w)
		}
	}
}
