package updater

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/image"
	"github.com/pikelet-os/pikelet/internal/shared/image/patch"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
	"github.com/pikelet-os/pikelet/internal/testing/powercut"
)

// moments are where an upgrade is when something happens to it, in order.
var moments = []string{"idle", "fetched", "written", "verified", "armed", "trial", "committed", "left"}

// trouble is what happens. It may happen once, or from then on until the node
// restarts.
type trouble struct {
	name   string
	always bool
	do     func(l *life)
}

func failing(place func(at int64) bool, err error) func(*life) {
	return func(l *life) {
		l.card.Fail = func(at int64, _ int) error {
			if place(at) {
				return err
			}
			return nil
		}
	}
}

var troubles = []trouble{
	{"SIGKILL once", false, func(*life) { panic(killed{}) }},
	{"SIGKILL always", true, func(*life) { panic(killed{}) }},
	{"ENOSPC", false, failing(func(at int64) bool { return at >= 0 }, syscall.ENOSPC)},
	{"write error", true, failing(func(at int64) bool { return at >= 0 || at == powercut.Flushing }, syscall.EIO)},
	{"read-back error", true, failing(func(at int64) bool { return at == powercut.Reading }, syscall.EIO)},
	{"registry gone", true, func(l *life) { l.unreachable = true }},
	{"clock jump", false, func(l *life) { l.now += 24 * time.Hour }},
	{"state full", true, func(l *life) { l.full = true }},
}

// converges holds the release on which a node that runs 1.0 and is upgraded to 1.1
// comes to rest, for each moment in the order of moments and each trouble. Where a card takes
// nothing any more, it is the one after the power was off once.
var converges = map[string]string{
	"SIGKILL once":    "1.0 1.0 1.0 1.0 1.1 1.1 1.1 1.0",
	"SIGKILL always":  "1.0 1.0 1.0 1.0 1.0 1.0 1.1 1.0",
	"ENOSPC":          "1.0 1.0 1.0 1.0 1.1 1.1 1.1 1.0",
	"write error":     "1.0 1.0 1.0 1.0 1.1 1.0 1.1 1.0",
	"read-back error": "1.0 1.0 1.0 1.0 1.1 1.0 1.1 1.0",
	"registry gone":   "1.0 1.0 1.0 1.1 1.1 1.1 1.1 1.0",
	"clock jump":      "1.1 1.1 1.1 1.1 1.1 1.1 1.1 1.0",
	"state full":      "1.0 1.0 1.0 1.0 1.1 1.1 1.1 1.0",
}

// byPatchConverges is where the outcome differs by a patch: when the first file is
// opened, the patch has been fetched, and no registry is needed any more.
var byPatchConverges = map[string]string{"registry gone": "1.0 1.0 1.1 1.1 1.1 1.1 1.1 1.0"}

// TestKillTable has each trouble happen at each moment, by each strategy. The node
// always comes to rest on a whole release, and says which and why; and when the
// trouble is over, the upgrade goes through.
func TestKillTable(t *testing.T) {
	strategies := []string{"", patch.ByFiles, patch.ByPatch}
	if testing.Short() {
		strategies = strategies[:1]
	}
	for _, s := range strategies {
		t.Run(s, func(t *testing.T) { killTable(t, s) })
	}
}

func killTable(t *testing.T, strategy string) {
	for _, tr := range troubles {
		var row []string
		for _, moment := range moments {
			t.Run(tr.name+" "+moment, func(t *testing.T) {
				l := newLife(t, newImage(t, "1.0"))
				l.strategy = strategy
				l.start("", PowerOn)
				next := l.add(newImage(t, "1.1"), moment != "left")
				happens := 0
				l.kill = func(step string) {
					if now := l.moment(step); now != moment || happens > 0 && !tr.always {
						return
					}
					happens++
					tr.do(l)
				}
				asked := next
				asked.Source = hooked{next.Source, func(ctx context.Context, f image.File, at, n int64) (io.ReadCloser, error) {
					l.opened++
					l.step("open")
					if l.unreachable {
						return nil, errors.New("the registry is gone")
					}
					return next.Source.Open(ctx, f, at, n)
				}}
				err := l.through(asked)
				if !l.comesToRest() {
					t.Fatalf("it never comes to rest: %+v", l.record())
				}
				l.card.Fail = nil
				u := l.record()
				says := fmt.Sprintf("%v %s %s", err, u.Step, u.Reason)
				switch {
				case l.release == "1.1" && u.Step != slots.Finished:
					t.Errorf("it runs 1.1, and the record says %+v", u)
				case l.release == "1.0" && err == nil && (u.Step != slots.Left || u.Reason == ""):
					t.Errorf("it runs 1.0, and says nothing of why: %s", says)
				case happens == 0:
					t.Errorf("nothing happened")
				}
				row = append(row, l.release)
				t.Logf("it runs %s: %s", l.release, says)

				// The trouble is over.
				l.kill, l.full, l.unreachable, l.again = nil, false, false, true
				l.well[next.Digest] = true
				if l.release == "1.0" {
					if err := l.through(next); err != nil {
						t.Errorf("afterwards: %v", err)
					}
				}
				l.is(slots.B, "1.1", slots.Finished)
			})
		}
		want := converges[tr.name]
		if w, ok := byPatchConverges[tr.name]; ok && strategy == patch.ByPatch {
			want = w
		}
		if got := strings.Join(row, " "); got != want {
			t.Errorf("%s: %s, want %s", tr.name, got, want)
		}
	}
}

// moment returns where an upgrade is by what the node does next.
func (l *life) moment(step string) string {
	u := l.record()
	trial := l.boot.Kind == slots.Trial
	switch {
	case step == "idle":
		return "idle"
	case step == "open" && l.opened == 1:
		return "fetched"
	case step == "open":
		return "written"
	case step == "before arming":
		return "verified"
	case step == "restart" && u.Step == slots.Armed:
		return "armed"
	case step == "checks" && trial && l.well[l.boot.Digest]:
		return "trial"
	case step == "committed":
		return "committed"
	case step == "report":
		return "left"
	}
	return ""
}

// comesToRest lets the node go on by itself: it is started anew where it was
// killed or asked for it, and its errors end with a restart of the machine.
func (l *life) comesToRest() bool {
	for range 40 {
		if l.asked != nil {
			l.card.Fail = nil
			if !l.start(*l.asked, Watchdog) {
				return false
			}
		}
		_, dead := survive(func() error { return l.updater().Conclude(l.t.Context()) })
		if u := l.record(); !dead && l.asked == nil && u.Step != slots.Armed && u.Step != slots.Tried {
			return true
		}
		if !dead && l.asked == nil {
			l.card.Fail = nil // somebody turns it off and on again
			l.start("", PowerOn)
		}
	}
	return false
}

// TestBrokenOffThenPowerCut breaks an upgrade and its trial off at each write and
// each flush: the process is killed, or the card refuses once. What goes on then
// reads what the kernel still holds of the writes before. No power cut after that
// leaves a card without its record, or one whose record names a slot that is not
// there.
func TestBrokenOffThenPowerCut(t *testing.T) {
	for name, refuse := range map[string]func() error{
		"killed":  func() error { panic(killed{}) },
		"refused": func() error { return syscall.EIO },
	} {
		t.Run(name, func(t *testing.T) {
			y := newTally()
			for step, more := 1, true; more; step++ {
				var r record
				r, more = brokenOff(t, step, refuse)
				y.judge(t, r, fmt.Sprintf("%d.0", step))
			}
			if len(y.problems) > 0 {
				t.Errorf("%d of %d states, such as: %s", len(y.problems), y.states, y.problems[0])
			}
			t.Logf("%d states", y.states)
		})
	}
}

// brokenOff records an upgrade that is broken off at a step and begun again, and
// reports whether it has that many steps.
func brokenOff(t *testing.T, step int, refuse func() error) (record, bool) {
	l := newLife(t, newImage(t, "1.0"))
	l.start("", PowerOn)
	well := []string{l.boot.Digest}
	left := step
	l.card.Fail = func(at int64, _ int) error {
		if at == powercut.Reading {
			return nil
		}
		if left--; left == 0 {
			return refuse()
		}
		return nil
	}
	img := l.add(newImage(t, "1.1"), true)
	_ = l.through(img) // the card is judged
	l.card.Fail = nil
	// What is there may be whole already, and need not be brought again.
	if l.release == "1.0" {
		if l.asked == nil && l.updater().Arm(context.Background(), Order{Return: true}) != nil {
			l.run()
		}
		if l.asked != nil {
			l.start(*l.asked, Watchdog)
			l.run()
		}
	}
	if l.release == "1.0" {
		if err := l.through(img); err != nil {
			t.Fatalf("broken off at step %d: %v", step, err)
		}
	}
	parts, err := powercut.CardParts(l.card.Base)
	if err != nil {
		t.Fatal(err)
	}
	return record{powercut.Run{Base: l.card.Base, Ops: l.card.Ops, Parts: parts, Seed: 1, Other: 20, Only: -1}, well}, left <= 0
}
