package slots

import (
	"fmt"
	"testing"
)

// TestClassifyBoot checks all combinations of inputs against rules that are
// written the other way round.
func TestClassifyBoot(t *testing.T) {
	const ours, theirs = "sha256:ours", "sha256:theirs"
	n := 0
	for _, running := range []Letter{A, B, Net} {
		for _, def := range []Letter{A, B, ""} {
			for _, tryboot := range []bool{false, true} {
				for _, step := range []Step{"", Armed, Tried, Left, Finished} {
					for _, slot := range []Letter{A, B} {
						for _, digest := range []string{ours, theirs} {
							for starts := range MaxStarts + 1 {
								for cuts := range MaxCuts + 2 {
									for _, bad := range []bool{false, true} {
										var u *Update
										if step != "" {
											u = &Update{Step: step, Slot: slot, Digest: digest, Starts: starts, Cuts: cuts, Bad: bad}
										}
										kind, verdict := ClassifyBoot(running, def, tryboot, ours, u)
										check(t, fmt.Sprintf("running %q, default %q, tryboot %v, %+v: %s, %q", running, def, tryboot, u, kind, verdict),
											running, def, tryboot, u, u != nil && digest == ours, kind, verdict)
										n++
									}
								}
							}
						}
					}
				}
			}
		}
	}
	if n < 8000 {
		t.Errorf("only %d combinations", n)
	}
}

func check(t *testing.T, what string, running, def Letter, tryboot bool, u *Update, same bool, kind Kind, verdict Verdict) {
	t.Helper()
	active := u != nil && (u.Step == Armed || u.Step == Tried)
	rules := []struct {
		says string
		if_  bool
		then bool
	}{
		{"without a card nothing is on trial", running == Net, kind == Committed && verdict == Nothing},
		{"the default slot is committed", running == def && running != Net, kind == Committed},
		{"only an image that was armed, on its slot, is on trial", verdict == OnTrial,
			active && u.Slot == running && same && running != def && def != ""},
		{"an image that was armed, on its slot, is on trial",
			active && running != Net && u.Slot == running && same && running != def && def != "",
			kind == Trial && verdict == OnTrial},
		{"what was not armed is not kept",
			running != def && running != Net && !(active && u.Slot == running && same), verdict == Nothing && kind != Committed},
		{"an unreadable default makes a rescue", running != Net && def == "", kind == Rescue},
		{"what is over says nothing", !active, verdict == Nothing},
		{"the image is at fault only when the record says so", verdict == Failed, u != nil && u.Bad && u.Step == Tried && running == def},
		{"a trial that began and was left says why",
			active && u.Step == Tried && running == def && u.Slot != running,
			verdict == Failed || verdict == Cut || verdict == Retry},
		{"a trial that was cut off is asked for once more", active && u.Step == Tried && running == def && u.Slot != running && !u.Bad,
			verdict == map[bool]Verdict{true: Retry, false: Cut}[u != nil && u.Cuts < MaxCuts]},
		{"a trial that never began is asked for three times", active && u.Step == Armed && running == def && u.Slot != running,
			verdict == map[bool]Verdict{true: NotStarted, false: GaveUp}[u != nil && u.Starts < MaxStarts-1]},
		{"a new default that runs is kept", active && running == def && u.Slot == running && same, verdict == Kept},
	}
	for _, r := range rules {
		if r.if_ && !r.then {
			t.Errorf("%s: not that %s", what, r.says)
		}
	}
}
