package slots

// Update is what the record on the card says of an upgrade: what ClassifyBoot needs to
// know beside the boot itself. The record lies outside the partitions, so that
// losing state or volume never changes which slot boots, or what a trial
// concludes.
type Update struct {
	Step    Step   `json:"step"`
	Slot    Letter `json:"slot"`    // the one that was written
	Digest  string `json:"digest"`  // of the OCI manifest that was written there
	Release string `json:"release"` // of the image that was written there
	// Starts is how often the trial was asked for and another slot came up.
	Starts int `json:"starts,omitempty"`
	// Cuts is how often the trial was cut off without anything that says that
	// the image was at fault.
	Cuts int `json:"cuts,omitempty"`
	// Tries is how often pikeletd began to see the trial through, on one boot.
	Tries int `json:"tries,omitempty"`
	// Drill has the node come back from the trial on purpose, however well it
	// went.
	Drill bool `json:"drill,omitempty"`
	// Reason says why the image was left, or why it is about to be.
	Reason string `json:"reason,omitempty"`
	// Bad says that the image itself was at fault: a check, a panic or the
	// watchdog said so. It is refused from then on, unless asked for.
	Bad bool `json:"bad,omitempty"`
}

// UnderWay reports whether an upgrade is armed or being tried; nil is no
// upgrade.
func (u *Update) UnderWay() bool { return u != nil && (u.Step == Armed || u.Step == Tried) }

// Step is how far an upgrade is.
type Step string

// The steps, in their order. That a slot was written needs no step: the slot
// shows it. What is in the record is flushed before the next step begins.
const (
	Armed    Step = "armed" // the next boot is the trial
	Tried    Step = "trial" // the trial has begun
	Left     Step = "left"  // it was not kept; Reason says why
	Finished Step = "committed"
)

// MaxReason is how much of a reason is written down, in bytes: with all the
// rest a record has room for 3 KiB.
const MaxReason = 1500

// MaxStarts is how often a trial is asked for before it is given up: a
// firmware that does not know how starts the default slot each time.
const MaxStarts = 3

// MaxCuts is how often a trial is asked for again after its power was cut.
const MaxCuts = 1

// MaxTries is how often pikeletd may begin on a trial anew: it restarts by
// itself when it crashes, and a release in which it does so again and again is
// not well.
const MaxTries = 5

// Verdict is what a boot means for an upgrade.
type Verdict string

// The verdicts.
const (
	Nothing    Verdict = ""            // no upgrade is under way
	OnTrial    Verdict = "on trial"    // this boot is the trial
	NotStarted Verdict = "not started" // asked for, and the firmware started the default all the same
	GaveUp     Verdict = "gave up"     // that, for the last time
	Failed     Verdict = "failed"      // the trial was, and the image was at fault
	Retry      Verdict = "once more"   // the trial was cut off, and nothing says that the image was at fault
	Cut        Verdict = "interrupted" // that, for the last time
	Kept       Verdict = "kept"        // autoboot.txt names the new slot; only the record does not know yet
)

// ClassifyBoot returns the kind of a boot and what the boot means for an upgrade,
// from the running slot, the default in autoboot.txt ("" where that can't be
// read), the firmware's trial mark, the digest of the running image, and the
// record. The decision depends on nothing else.
func ClassifyBoot(running, def Letter, tryboot bool, digest string, u *Update) (Kind, Verdict) {
	kind := KindOf(running, def, tryboot)
	if running == Net || !u.UnderWay() {
		return kind, Nothing
	}
	ours := u.Slot == running && u.Digest == digest
	switch {
	case running == def && u.Slot == running && ours:
		return Committed, Kept
	case running == def && u.Slot == running: // the slot was written anew since; what was armed is no more
		return Committed, Cut
	case running == def && u.Step == Armed && u.Starts+1 < MaxStarts:
		return Committed, NotStarted
	case running == def && u.Step == Armed:
		return Committed, GaveUp
	case running == def && u.Bad:
		return Committed, Failed
	case running == def && u.Cuts < MaxCuts:
		return Committed, Retry
	case running == def:
		return Committed, Cut
	case def != "" && ours:
		return Trial, OnTrial
	}
	// Another slot than the default, and not the image that was armed: no
	// upgrade asked for this boot. It is never kept by itself.
	return Rescue, Nothing
}
