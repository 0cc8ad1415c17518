package vm

import (
	"fmt"
	"time"
)

// A wait for a guest is given up by what the guest does, not by the clock on
// the wall: on a busy machine it may get a tenth of a processor.
const (
	// idleLimit is how long a guest may neither run nor wait for a processor,
	// print nothing and ask nothing of its disks. It is longer than anything
	// that a node waits for by itself.
	idleLimit = 6 * time.Minute
	// ranLimit is how much processor time a guest may use during one wait:
	// forty boots' worth.
	ranLimit = 10 * time.Minute
)

// used is what a process and its threads have had of the processors.
type used struct {
	ran    time.Duration
	queued time.Duration // wanted to run, and had to wait
}

// progress is what is known of how a guest gets on. Its times only grow.
type progress struct {
	ran    time.Duration
	idle   time.Duration // neither running nor waiting to
	active time.Duration // idle, when the guest last printed or asked a disk

	before used
	blocks blocks
	output int
}

// add takes a sample: what happened in the time since the last one. known is
// false where the system does not tell what a process has used: then all of
// the time counts as idle, unless there was output or a disk was asked.
func (p *progress) add(passed time.Duration, now used, known bool, b blocks, output int) {
	ran, queued := now.ran-p.before.ran, now.queued-p.before.queued
	if !known || ran < 0 || queued < 0 { // another process
		ran, queued = 0, 0
	}
	p.ran += ran
	p.idle += max(0, passed-ran-queued)
	if b != p.blocks || output != p.output {
		p.active = p.idle
	}
	p.before, p.blocks, p.output = now, b, output
}

// stalled returns why a wait that began at an earlier progress is given up.
func (p progress) stalled(since progress) error {
	switch {
	case p.idle-max(p.active, since.idle) >= idleLimit:
		return fmt.Errorf("the guest did nothing for %v", idleLimit)
	case p.ran-since.ran >= ranLimit:
		return fmt.Errorf("the guest used %v of processor time", ranLimit)
	}
	return nil
}

// pause is between two looks at something that cannot wake who waits for it.
func pause() { time.Sleep(20 * time.Millisecond) }

// watch takes samples of the guest, until stop is closed, and wakes who waits
// for the guest.
func (m *Machine) watch(stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		m.mu.Lock()
		control, pid := m.control, m.pid
		m.mu.Unlock()
		var b blocks
		if control != nil {
			b, _ = control.blocks() // none of a machine that has just ended
		}
		now, known := processorTime(pid)
		passed := time.Since(last)
		last = last.Add(passed)
		m.mu.Lock()
		m.progress.add(passed, now, known, b, m.output.Len())
		m.changed.Broadcast()
		m.mu.Unlock()
	}
}

// Await waits until done reports true. It looks every 20 ms. It fails when the
// machine ends before, or stalls: does nothing for six minutes in which it
// could, or uses ten minutes of processor time.
func (m *Machine) Await(what string, done func() bool) error {
	m.mu.Lock()
	since := m.progress
	m.mu.Unlock()
	for !done() {
		m.mu.Lock()
		ended, err, now := m.ended, m.err, m.progress
		m.mu.Unlock()
		if ended {
			if done() {
				return nil
			}
			return fmt.Errorf("the machine ended (%s) before %s", fmt.Sprint(err), what)
		}
		if err := now.stalled(since); err != nil {
			return fmt.Errorf("waiting until %s: %w", what, err)
		}
		pause()
	}
	return nil
}
