package initramfs

import (
	"fmt"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/reboot"
	"github.com/pikelet-os/pikelet/internal/shared/bootapi"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Waiting times before a reboot: long enough to read a message, and when both
// slots are bad, growing, so that a node in the attic comes back by itself
// when what it lacked returns, without wearing out its card.
const (
	readable   = 5 * time.Second
	backOff    = time.Minute
	backOffMax = 30 * time.Minute
	netBackOff = 15 * time.Second // nothing wears out
)

// fail is the one place that decides what failure looks like. A trial goes
// back to the default slot by an ordinary reboot: the firmware has already
// forgotten the trial. The default slot writes down why and hands over to the
// other one, once. Where both are bad the node stays up, says so, and tries
// again.
func (b *boot) fail(err error) {
	say("")
	say("THIS BOOT FAILED: %v", err)
	b.report(bootapi.Report{Stage: bootapi.Failed, Error: trimmed(err.Error())})
	if b.card == nil && b.line.Slot != slots.Net {
		b.card = anyCard()
	}
	switch {
	case b.line.Slot == slots.Net:
		say("trying again in %v, from the firmware on", netBackOff)
		restart("", netBackOff)
	case b.line.Slot == "":
		b.retry("there is no other slot to go to")
	case b.card == nil:
		// Nothing can be written down, and so it is not known whether the other
		// slot failed too: the two take turns, slowly.
		other := b.line.Slot.Other()
		say("no card can be read; starting slot %s in %v", other, backOff)
		restart(fmt.Sprint(other.Partition()), backOff)
	case b.trial():
		say("this was a trial of slot %s; going back to slot %s", b.line.Slot, b.line.Slot.Other())
		b.note(err)
		restart("", readable)
	case failedBefore(b.card.readRecord(), b.line.Slot.Other()):
		b.note(err)
		b.retry(fmt.Sprintf("slot %s failed before", b.line.Slot.Other()))
	default:
		b.note(err)
		other := b.line.Slot.Other()
		if why := b.card.empty(other); why != nil {
			// Firmware that does not walk on would wait there for ever.
			b.retry(fmt.Sprintf("slot %s holds no image: %v", other, why))
			return
		}
		say("starting slot %s instead", other)
		restart(fmt.Sprint(other.Partition()), readable)
	}
}

// trial reports whether this boot was one, also when it failed before judge.
func (b *boot) trial() bool {
	if b.kind == "" {
		b.kind = b.what()
	}
	return b.kind == slots.Trial
}

// cardWait is how long a failed boot waits for a card to write the reason on.
const cardWait = 5 * time.Second

// anyCard opens the first disk with a Pikelet layout, whatever its slots
// hold, for the record and the report.
func anyCard() *card {
	for deadline := time.Now().Add(cardWait); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if c := firstCard(); c != nil {
			return c
		}
	}
	return nil
}

func firstCard() *card {
	for _, dev := range disks() {
		c, err := openCard(dev)
		if err != nil {
			continue
		}
		if c.defaultSlot() != "" {
			return c
		}
		c.f.Close()
	}
	return nil
}

// note writes the reason into the record and the report. What the record says of
// the other slot is kept while it stands.
func (b *boot) note(reason error) {
	failures := slots.AddFailure(b.card.readRecord().Text, b.line.Slot, reason.Error())
	if err := b.card.writeRecord(failures); err != nil {
		say("writing the record: %v", err)
	}
	report := slots.FailureReport(failures, b.info.Stream, b.info.Release, b.info.BuildID)
	if err := b.card.writeReport(report); err != nil {
		say("writing report.txt: %v", err)
	}
}

// failedBefore reports whether the record holds a failure of a slot.
func failedBefore(r slots.Record, l slots.Letter) bool {
	_, failed := slots.Failure(r.Text, l)
	return failed
}

// retry stays up for a while and boots again, the default slot.
func (b *boot) retry(why string) {
	wait := backOff
	if b.card != nil {
		r := b.card.readRecord()
		for n := r.Sequence; n > 2 && wait < backOffMax; n-- {
			wait *= 2
		}
		wait = min(wait, backOffMax)
	}
	say("%s. Write the card anew with pikelet flash, or mend what the message says.", why)
	say("trying again in %v", wait)
	restart("", wait)
}

// restart restarts the machine after a while; argument is for the firmware: a
// partition number, or nothing.
func restart(argument string, after time.Duration) {
	time.Sleep(after)
	for {
		say("%v", reboot.With(argument))
		time.Sleep(time.Second)
	}
}
