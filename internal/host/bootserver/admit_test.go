package bootserver

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestConcurrentBootsAreLimited: 100 Pis are powered on at once, a boot takes ten
// seconds, twelve may boot at a time, and five die while they boot. Never more
// than twelve boot at once, all others boot, and no machine is starved.
func TestConcurrentBootsAreLimited(t *testing.T) {
	const pis, most, takes = 100, 12, 10 * time.Second
	type pi struct {
		mac      string
		asks     time.Time
		admitted time.Time
		first    int // when it first asked, in the order of all
		dies     bool
		done     bool
	}
	r := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(1700000000, 0)
	var all []*pi
	for i := range pis {
		all = append(all, &pi{mac: fmt.Sprintf("d8:3a:dd:00:00:%02x", i),
			asks: start.Add(time.Duration(r.IntN(4000)) * time.Millisecond), dies: i%20 == 7})
	}
	var l line
	asked, order := 0, []int{}
	for now := start; now.Before(start.Add(10 * time.Minute)); now = now.Add(10 * time.Millisecond) {
		booting := 0
		for _, p := range all {
			switch {
			case p.done:
			case !p.admitted.IsZero() && p.dies:
				if now.Sub(p.admitted) <= silentBoot {
					booting++
				}
			case !p.admitted.IsZero() && now.Sub(p.admitted) >= takes:
				l.done(p.mac)
				p.done = true
			case !p.admitted.IsZero():
				l.heard(p.mac, now)
				booting++
			case !now.Before(p.asks):
				if p.first == 0 {
					asked++
					p.first = asked
				}
				p.asks = now.Add(4 * time.Second)
				if l.admit(p.mac, false, most, now) {
					p.admitted = now
					order = append(order, p.first)
					booting++
				}
			}
		}
		if booting > most {
			t.Fatalf("%v: %d boot at once", now.Sub(start), booting)
		}
	}
	for _, p := range all {
		if !p.done && !p.dies {
			t.Errorf("%s never booted", p.mac)
		}
	}
	// Who may go is decided when it asks, so some order is lost, but not more
	// than a round of asking.
	for i, first := range order {
		if d := first - i; d > 3*most || d < -3*most {
			t.Errorf("the one that came as number %d was let in as number %d", first, i)
		}
	}
}

func TestWaitingIsBounded(t *testing.T) {
	var l line
	for i := range 1000 {
		if !l.admit(fmt.Sprint(i), false, 0, time.Unix(1, 0)) {
			t.Fatal(i)
		}
	}
}

// TestAbsentMachinesLeaveTheQueue: who waited and was switched off holds up no other.
func TestAbsentMachinesLeaveTheQueue(t *testing.T) {
	var l line
	now := time.Unix(1700000000, 0)
	if !l.admit("a", false, 1, now) || l.admit("b", false, 1, now) || l.admit("c", false, 1, now) {
		t.Fatal("one at a time")
	}
	l.done("a")
	if l.admit("c", false, 1, now.Add(time.Second)) {
		t.Error("c went before b, which has just asked")
	}
	if !l.admit("c", false, 1, now.Add(awayFromLine+time.Second)) {
		t.Error("c waits for b, which is gone")
	}
	if !l.admit("c", false, 1, now.Add(awayFromLine+2*time.Second)) {
		t.Error("c asked twice, and must not wait for itself")
	}
}
