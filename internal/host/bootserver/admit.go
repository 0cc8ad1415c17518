package bootserver

import (
	"slices"
	"time"
)

// A boot storm is power coming back: every Pi asks at once, and where all are
// answered none has its files in time (TFTP gives a file 30 s). So only some
// boots are under way at a time. Who must wait is not answered, and asks again
// by itself; in the midst of a boot no machine is held up.

// How long a boot that begins no file and ends none counts as under way: what
// an EEPROM gives one file (docs/platform.md 3.4).
const silentBoot = 30 * time.Second

// How long somebody who waited and does not ask any more keeps a place in the
// line: firmware asks every 4 or 5 s.
const awayFromLine = 12 * time.Second

// maxWaiting bounds a line. Who comes then asks again, as everybody does.
const maxWaiting = 1024

// line are the boots under way, and who waits for one, by hardware address.
type line struct {
	underWay map[string]time.Time // when each was last heard of
	waiting  []waiter             // in the order they are let in
}

type waiter struct {
	mac   string
	hurry bool
	last  time.Time // when it asked
}

// admit reports whether a boot may begin now, with so many at a time; 0 is no
// bound. Those in a hurry come first, and then those that waited longest: a Pi
// 3 asks five times, 5 s apart, and then not again until it is given power anew
// (docs/platform.md 3.3); others ask for ever.
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

// heard notes that a boot goes on.
func (l *line) heard(mac string, now time.Time) {
	if l.has(mac) {
		l.underWay[mac] = now
	}
}

// begin notes a boot that is under way already.
func (l *line) begin(mac string, now time.Time) {
	if l.underWay == nil {
		l.underWay = map[string]time.Time{}
	}
	l.underWay[mac] = now
}

// done notes that a boot has all it needs of the firmware's part.
func (l *line) done(mac string) { delete(l.underWay, mac) }
