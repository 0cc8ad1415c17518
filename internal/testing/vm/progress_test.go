package vm

import (
	"strings"
	"testing"
	"time"
)

// TestStalled feeds a guest's progress with a sample for each minute.
func TestStalled(t *testing.T) {
	type minute struct {
		ran, queued time.Duration
		unknown     bool // what the process used
		reads       int64
		output      int
	}
	const min = time.Minute
	for _, c := range []struct {
		name    string
		each    minute
		minutes int
		want    string // "" for a guest that gets on
	}{
		{name: "idle", minutes: 6, want: "did nothing for 6m0s"},
		{name: "idle for less", minutes: 5},
		{name: "waits for a processor of a busy host", each: minute{ran: min / 100, queued: min - min/100}, minutes: 600},
		{name: "runs a tenth of the time on a busy host", each: minute{ran: min / 10, queued: min / 2}, minutes: 14},
		{name: "runs in a circle", each: minute{ran: min}, minutes: 10, want: "used 10m0s of processor time"},
		{name: "runs for less", each: minute{ran: min}, minutes: 9},
		{name: "prints", each: minute{output: 1}, minutes: 600},
		{name: "asks its disk", each: minute{reads: 1}, minutes: 600},
		{name: "nothing is known of it", each: minute{unknown: true}, minutes: 6, want: "did nothing"},
		{name: "nothing is known of it, and it prints", each: minute{unknown: true, output: 1}, minutes: 600},
	} {
		t.Run(c.name, func(t *testing.T) {
			var p progress
			p.add(time.Hour, used{}, true, blocks{}, 0) // before the wait began
			since, now, b, output := p, used{}, blocks{}, 0
			for range c.minutes {
				now.ran, now.queued = now.ran+c.each.ran, now.queued+c.each.queued
				b.reads, output = b.reads+c.each.reads, output+c.each.output
				p.add(min, now, !c.each.unknown, b, output)
			}
			err := p.stalled(since)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("after %d minutes: got %v, want %q", c.minutes, err, c.want)
			}
		})
	}
}

// TestStalledAcrossBoots: the next QEMU begins to count from nothing.
func TestStalledAcrossBoots(t *testing.T) {
	var p progress
	since := p
	p.add(time.Minute, used{ran: 50 * time.Second}, true, blocks{reads: 9}, 9)
	p.add(time.Minute, used{ran: 10 * time.Second}, true, blocks{reads: 1}, 10)
	if p.ran != 50*time.Second || p.idle != 70*time.Second || p.stalled(since) != nil {
		t.Errorf("got %+v", p)
	}
}
