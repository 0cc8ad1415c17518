package rollout

import (
	"testing"
	"time"
)

// begun is a rollout to two nodes, of which one has a turn, and what is seen of it.
func begun(step Step) (*Rollout, View) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	r := &Rollout{Name: "lab", UID: "u", Generation: 1, Spec: Spec{
		Image: "lab@sha256:new", Digest: "sha256:new", MaxUnavailable: 2, Soak: time.Minute, Deadline: time.Hour, Fetch: time.Hour,
		Drain: Drain{Timeout: time.Hour},
	}}
	r.Status = Status{Observed: 1, Image: "lab@sha256:new", Began: 1, Turns: []Turn{
		{Node: "attic", UID: "attic", Step: step, Since: now, Request: "u/1", Image: "lab@sha256:new", Digest: "sha256:new"},
	}}
	v := View{Now: now, Lock: Lock{Holder: "u", Epoch: 1}, Pods: map[string][]Pod{"attic": {}}}
	for _, name := range []string{"attic", "shed"} {
		v.Nodes = append(v.Nodes, Node{Name: name, UID: name, Ready: true, Image: &Image{Digest: "sha256:old"}})
	}
	return r, v
}

// TestStatusComesFirst: what is decided is written down before anything is done to
// a node, whatever else there is to be done.
func TestStatusComesFirst(t *testing.T) {
	for _, step := range []Step{Fetch, Cordon, Evict, Restart, Soak, Release, Abort} {
		r, v := begun(step)
		v.Nodes[0].Unschedulable, v.Nodes[0].CordonedBy = step != Cordon, "u"
		// Whatever the step asks for, the second node's turn is to be written down.
		actions := Decide(r, v)
		if len(actions) != 1 || actions[0].Kind != WriteStatus {
			t.Errorf("%s: got %+v, want a status alone", step, actions)
			continue
		}
		r.Status = actions[0].Status
		for _, a := range Decide(r, v) {
			if a.Kind == WriteStatus {
				t.Errorf("%s: the status is written again: %+v", step, a.Status)
			}
		}
	}
}

// TestNoTurnUnderAReturnedLock: once a lock is written down as given back, a
// controller that saw so may free it at any time.
func TestNoTurnUnderAReturnedLock(t *testing.T) {
	r, v := begun(Fetch)
	r.Status.Turns, r.Status.Returned = nil, v.Lock.Epoch
	for range 2 {
		for _, a := range Decide(r, v) {
			if a.Kind == WriteStatus {
				r.Status = a.Status
			}
		}
	}
	if len(r.Status.Turns) > 0 {
		t.Errorf("a turn begins under a lock that was given back: %+v", r.Status.Turns)
	}
	v.Lock.Epoch++ // it was taken anew
	if a := Decide(r, v); len(a) != 1 || len(a[0].Status.Turns) != 2 {
		t.Errorf("got %+v, want two turns", a)
	}
}
