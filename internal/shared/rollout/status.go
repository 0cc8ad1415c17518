package rollout

import "slices"

// sum fills in what people read of the status.
func (d *decision) sum() {
	d.status.Done, d.status.Total = 0, 0
	for _, n := range d.selected() {
		d.status.Total++
		if d.runs(n) && d.turn(n) == nil {
			d.status.Done++
		}
	}
	failed, under := d.failed(), d.underWay()
	switch {
	case failed != nil:
		d.status.State, d.status.Reason = Halted, failed.Node+": "+failed.Reason
	case under > 0:
		d.status.State, d.status.Reason = Progressing, ""
	case d.Spec.Paused:
		d.status.State, d.status.Reason = Paused, "paused by its spec"
	case d.status.Done == d.status.Total && d.status.Total > 0:
		d.status.State, d.status.Reason = Complete, ""
	case d.status.Total == 0:
		d.status.State, d.status.Reason = Waiting, "no node is selected"
	default:
		d.status.State, d.status.Reason = Waiting, d.wait
	}
}

// same reports whether two statuses are equal.
func same(a, b Status) bool {
	return a.State == b.State && a.Reason == b.Reason && a.Observed == b.Observed && a.Began == b.Began && a.Returned == b.Returned &&
		a.Done == b.Done && a.Total == b.Total && slices.EqualFunc(a.Turns, b.Turns, func(a, b Turn) bool {
		since := a.Since.Equal(b.Since)
		a.Since = b.Since
		return since && a == b
	})
}
