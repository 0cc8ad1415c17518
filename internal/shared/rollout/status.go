package rollout

import (
	"reflect"
	"slices"
)

// sum fills in what people read of the status.
func (d *decision) sum() {
	d.status.Done, d.status.Total = 0, 0
	for _, n := range d.selected() {
		d.status.Total++
		if d.Runs(n) && d.turn(n) == nil {
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
		if d.status.Completed != d.Spec.Image {
			d.status.Previous, d.status.Completed = d.status.Completed, d.Spec.Image
		}
	case d.status.Total == 0:
		d.status.State, d.status.Reason = Waiting, "no node is selected"
	default:
		d.status.State, d.status.Reason = Waiting, d.wait
	}
}

// same reports whether two statuses are equal.
func same(a, b Status) bool {
	turns := slices.EqualFunc(a.Turns, b.Turns, func(a, b Turn) bool {
		since := a.Since.Equal(b.Since)
		a.Since = b.Since
		return since && a == b
	})
	a.Turns, b.Turns = nil, nil
	return turns && reflect.DeepEqual(a, b)
}

// Before returns the image that all nodes ran before they were asked for another one:
// of a rollout that did not complete the image, the one that it completed last. It is
// "" where the rollout completed none.
func (s Status) Before(image string) string {
	if s.Completed != image {
		return s.Completed
	}
	return s.Previous
}
