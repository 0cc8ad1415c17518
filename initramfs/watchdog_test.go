package initramfs

import (
	"strings"
	"testing"
	"time"
)

// TestWatchOfATrial: whoever guards a trial waits for /init, then for pikeletd
// to begin, then for each of its signs of life; and for none of them once the
// trial is over, or where there is none.
func TestWatchOfATrial(t *testing.T) {
	trial := []string{"trial", "b", "40s"}
	at := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	for _, c := range []struct {
		what  string
		args  []string
		alive []float64 // when signs of life came, seconds
		over  float64   // when the trial was said to be over; 0 for never
		now   float64
		want  string
	}{
		{"preparing takes its time", trial, nil, 0, 350, ""},
		{"preparing never ends", trial, nil, 0, 361, "preparing"},
		{"pikeletd takes its time", trial, []float64{100}, 0, 399, ""},
		{"pikeletd never begins", trial, []float64{100}, 0, 401, "did not begin within 5m0s"},
		{"a long deadline", []string{"trial", "b", "20m"}, []float64{100}, 0, 1299, ""},
		{"a long deadline passes", []string{"trial", "b", "20m"}, []float64{100}, 0, 1301, "did not begin within 20m0s"},
		{"pikeletd runs", trial, []float64{100, 102, 104}, 0, 160, ""},
		{"pikeletd hangs", trial, []float64{100, 102, 104}, 0, 165, "no sign of life for 1m0s"},
		{"it is over", trial, []float64{100, 102}, 110, 9999, ""},
		{"it is over before pikeletd began", trial, nil, 5, 9999, ""},
		{"no trial", []string{"committed", "a", "40s"}, nil, 0, 9999, ""},
		{"a rescue", []string{"rescue", "a", "40s"}, nil, 0, 9999, ""},
		{"no words", nil, nil, 0, 9999, ""},
	} {
		w := newWatch(c.args)
		for _, s := range c.alive {
			w.hear(true, at(s))
		}
		if c.over != 0 {
			w.hear(false, at(c.over))
			w.hear(true, at(c.over)) // a late sign of life makes no trial
		}
		if got := w.late(at(c.now)); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q; want %q", c.what, got, c.want)
		}
	}
}
