package bootserver

import (
	"slices"
	"time"
)

// After a power failure every Pi asks at once. If all were answered, none would
// have its files in time (a Pi gives a file 30 s), so the number of boots at a
// time is limited. A machine that must wait gets no answer and asks again by
// itself; a boot that has begun is never held up.

// A boot that neither begins nor ends a file for this long is no longer under
// way: an EEPROM gives one file as long (docs/platform.md 3.4).
const silentBoot = 30 * time.Second

// A waiting machine that does not ask for this long loses its place in the line:
// firmware asks every 4 or 5 s.
const awayFromLine = 12 * time.Second

// maxWaiting bounds a line. Machines beyond it ask again later.
const maxWaiting = 1024

// line holds the boots under way and the waiting machines, by hardware address.
type line struct {
	underWay map[string]time.Time // when each machine last sent something
	waiting  []waiter             // in the order they are let in
}

type waiter struct {
	mac   string
	hurry bool
	last  time.Time // when it asked
}

// admit reports whether a boot may begin now, with at most most at a time; 0 is
// no bound. Machines in a hurry come first, then those that waited longest: a Pi
// 3 asks five times, 5 s apart, and then not again until it is powered on again
// (docs/platform.md 3.3); other models ask for ever.
func (l *line) admit(mac string, hurry bool, most int, now time.Time) bool {
	if l.underWay == nil {
		l.underWay = map[string]time.Time{}
	}
	for m, last := range l.underWay {
		if now.Sub(last) > silentBoot {
			delete(l.underWay, m)
		}
	}
	if _, already := l.underWay[mac]; already || most == 0 {
		l.underWay[mac] = now
		return true
	}
	at := -1
	here := l.waiting[:0]
	for _, w := range l.waiting {
		if w.mac == mac {
			w.last = now
		}
		if now.Sub(w.last) > awayFromLine {
			continue
		}
		if w.mac == mac {
			at = len(here)
		}
		here = append(here, w)
	}
	if l.waiting = here; at < 0 {
		if len(l.waiting) >= maxWaiting {
			return false
		}
		if at = len(l.waiting); hurry {
			at = 0
			for at < len(l.waiting) && l.waiting[at].hurry {
				at++
			}
		}
		l.waiting = slices.Insert(l.waiting, at, waiter{mac, hurry, now})
	}
	if at >= most-len(l.underWay) {
		return false
	}
	l.waiting = append(l.waiting[:at], l.waiting[at+1:]...)
	l.underWay[mac] = now
	return true
}

// has reports whether a boot is under way.
func (l *line) has(mac string) bool {
	_, ok := l.underWay[mac]
	return ok
}

// heard records that a boot makes progress.
func (l *line) heard(mac string, now time.Time) {
	if l.has(mac) {
		l.underWay[mac] = now
	}
}

// begin adds a boot that is under way already.
func (l *line) begin(mac string, now time.Time) {
	if l.underWay == nil {
		l.underWay = map[string]time.Time{}
	}
	l.underWay[mac] = now
}

// done ends a boot: the firmware has all its files.
func (l *line) done(mac string) { delete(l.underWay, mac) }
