package rollout

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // for TestWindows, wherever this runs

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// TestAnswers: what a node says and does, request by request, over its restarts.
func TestAnswers(t *testing.T) {
	const now, next = "sha256:now", "sha256:next"
	bring := &Request{ID: "r/1", Image: "lab@" + next, Digest: next}
	apply := &Request{ID: "r/1", Image: "lab@" + next, Digest: next, Apply: true}
	again := &Request{ID: "r/2", Image: "lab@" + next, Digest: next, Again: true}
	self := Self{Digest: now, Kind: slots.Committed}
	on := func(change func(*Self)) Self {
		s := self
		change(&s)
		return s
	}
	said := func(id string, p Phase) *Answer { return &Answer{ID: id, Phase: p} }
	left := &slots.Update{Step: slots.Left, Digest: next, Release: "1.1", Bad: true, Reason: "the fan stands still"}
	for name, c := range map[string]struct {
		r      *Request
		last   *Answer
		s      Self
		phase  Phase
		reason string
		verb   Verb
	}{
		"nothing is asked for": {nil, said("r/1", Committed), self, "", "", Nothing},
		"a new request":        {bring, said("r/0", Committed), self, Bringing, "", Bring},
		"the image comes":      {bring, said("r/1", Bringing), on(func(s *Self) { s.Busy = true }), Bringing, "", Nothing},
		"the registry is away": {bring, said("r/1", Bringing),
			on(func(s *Self) { s.Problem = "no route" }), Bringing, "no route", Bring},
		"it is there": {bring, said("r/1", Bringing), on(func(s *Self) { s.Written = next }), Brought, "", Nothing},
		"it is refused": {bring, said("r/1", Bringing),
			on(func(s *Self) { s.Refusal = "another stream" }), Refused, "another stream", Nothing},
		"refused stays refused":       {bring, said("r/1", Refused), self, Refused, "", Nothing},
		"it is to be applied":         {apply, said("r/1", Brought), self, Applying, "", Apply},
		"applied, and cut off before": {apply, said("r/1", Applying), self, Applying, "", Apply},
		"applied, and busy":           {apply, said("r/1", Applying), on(func(s *Self) { s.Busy = true }), Applying, "", Nothing},
		"armed": {apply, said("r/1", Applying),
			on(func(s *Self) { s.Update = &slots.Update{Step: slots.Armed, Digest: next} }), Applying, "", Nothing},
		"on trial": {apply, said("r/1", Applying), on(func(s *Self) {
			s.Digest,
				s.Kind = next, slots.Trial
		}), OnTrial, "", Nothing},
		"committed": {apply, said("r/1", OnTrial), on(func(s *Self) { s.Digest = next }), Committed, "", Nothing},
		"left": {apply, said("r/1", OnTrial), on(func(s *Self) { s.Update = left }),
			Left, "the fan stands still", Nothing},
		"left by an earlier request": {bring, said("r/0", Left), on(func(s *Self) { s.Update = left }),
			Refused, "release 1.1 failed on this node before: the fan stands still", Nothing},
		"that, and asked for again": {again, said("r/1", Left), on(func(s *Self) { s.Update = left }), Bringing, "", Bring},
		"committed, and somebody upgraded since": {apply, said("r/1", Committed),
			on(func(s *Self) { s.Digest = "sha256:third" }), Committed, "", Nothing},
	} {
		a, verb := Answers(c.r, c.last, c.s)
		phase, reason := Phase(""), ""
		if a != nil {
			phase, reason = a.Phase, a.Reason
			if a.ID != c.r.ID {
				t.Errorf("%s: the answer is to %q", name, a.ID)
			}
		}
		if phase != c.phase || reason != c.reason || verb != c.verb {
			t.Errorf("%s: got %q, %q, %q, want %q, %q, %q", name, phase, reason, verb, c.phase, c.reason, c.verb)
		}
	}
}

// TestWindows: days, midnight and time zones.
func TestWindows(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	weekend := Window{Days: []time.Weekday{time.Saturday}, Day: nodeconfig.Window{From: 22 * 60, To: 4 * 60}, Location: zone}
	for text, want := range map[string]bool{
		"2026-11-28T21:30:00Z": true,  // Saturday 22:30 there
		"2026-11-28T20:30:00Z": false, // 21:30
		"2026-11-29T02:30:00Z": true,  // Sunday 03:30, of Saturday's
		"2026-11-29T03:30:00Z": false,
		"2026-11-29T21:30:00Z": false, // Sunday
		"2026-11-28T02:30:00Z": false, // Saturday 03:30, of Friday's
		"2026-07-04T20:30:00Z": true,  // summer time: 22:30
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := weekend.Contains(at); got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// TestReasons: what people read where a rollout stands still.
func TestReasons(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	node := func(name string, change func(*Node)) Node {
		n := Node{Name: name, UID: name, Ready: true, Image: &Image{Digest: "sha256:old"}}
		if change != nil {
			change(&n)
		}
		return n
	}
	turn := func(step Step, since time.Duration) Status {
		return Status{Observed: 1, State: Progressing, Total: 1, Began: 1,
			Turns: []Turn{{Node: "attic", UID: "attic", Step: step, Since: now.Add(-since), Request: "u/1", Digest: "sha256:new"}}}
	}
	ours := func(n *Node) { n.Unschedulable, n.CordonedBy = true, "u" }
	web := Pod{Namespace: "default", Name: "web-1", Controlled: true, Blocked: "disruption budget web"}
	for name, c := range map[string]struct {
		status Status
		node   Node
		pods   []Pod
		change func(*Rollout)
		state  State
		reason string
	}{
		"not well before it begins": {Status{Observed: 1}, node("attic", func(n *Node) { n.Ready = false }), nil, nil,
			Waiting, "node attic is not well"},
		"nothing is selected": {Status{Observed: 1}, node("attic", func(n *Node) { n.Image = nil }), nil, nil,
			Waiting, "no node is selected"},
		"paused": {Status{Observed: 1}, node("attic", nil), nil,
			func(r *Rollout) { r.Spec.Paused = true }, Paused, "paused by its spec"},
		"another rollout": {Status{Observed: 1}, node("attic", nil), nil, func(r *Rollout) { r.Created = now },
			Waiting, "rollout first selects node attic too, and was created before"},
		"a pod that blocks": {turn(Evict, time.Hour), node("attic", ours), []Pod{web}, nil, Halted,
			"attic: pods did not leave within 20m0s: default/web-1 (disruption budget web)"},
		"a pod without a controller": {turn(Evict, 0), node("attic", ours), []Pod{{Namespace: "default", Name: "bare"}}, nil, Halted,
			"attic: pod default/bare has no controller that makes it anew: drain.force evicts it"},
		"a pod with data": {turn(Evict, 0), node("attic", ours), []Pod{{Namespace: "default", Name: "db", Controlled: true,
			LocalData: true}}, nil, Halted,
			"attic: pod default/db keeps data in an emptyDir: drain.deleteEmptyDirData evicts it"},
		"a node that never comes back": {turn(Restart, 2*time.Hour), node("attic", func(n *Node) {
			ours(n)
			n.Ready, n.Request, n.Answer = false, &Request{ID: "u/1", Apply: true}, &Answer{ID: "u/1", Phase: Applying}
		}), []Pod{}, nil, Halted, "attic: the node did not come back within 1h0m0s; it said last: applying"},
		"a node that went back": {turn(Restart, 0), node("attic", func(n *Node) {
			ours(n)
			n.Answer = &Answer{ID: "u/1", Phase: Left, Reason: "after 5m0s: volume: it never comes"}
		}), []Pod{}, nil, Halted, "attic: after 5m0s: volume: it never comes"},
		"a registry that is away": {turn(Fetch, 3*time.Hour), node("attic", func(n *Node) {
			n.Request, n.Answer = &Request{ID: "u/1"}, &Answer{ID: "u/1", Phase: Bringing, Reason: "no route to host"}
		}), nil, nil, Halted, "attic: the image was not brought within 2h0m0s: no route to host"},
	} {
		r := &Rollout{Name: "lab", UID: "u", Generation: 1, Status: c.status, Spec: Spec{Digest: "sha256:new", MaxUnavailable: 1,
			Deadline: time.Hour, Fetch: 2 * time.Hour, Drain: Drain{Timeout: 20 * time.Minute}}}
		v := View{Now: now, Nodes: []Node{c.node}, Lock: Lock{Holder: "u", Epoch: 1}}
		if c.pods != nil {
			v.Pods = map[string][]Pod{"attic": c.pods}
		}
		if c.change != nil {
			c.change(r)
			v.Others = []*Rollout{{Name: "first", UID: "first"}}
		}
		if r.Spec.Paused {
			v.Others = nil
		}
		actions := Decide(r, v)
		if len(actions) != 1 || actions[0].Kind != WriteStatus || actions[0].Status.State != c.state || actions[0].Status.Reason != c.reason {
			t.Errorf("%s: got %+v, want %s, %q", name, actions, c.state, c.reason)
		}
	}
}

// TestChannelNamesAnother: a channel that names another image is as a spec that
// changed: what failed before is forgotten, and a turn before its restart is given up.
func TestChannelNamesAnother(t *testing.T) {
	now := time.Date(2026, 6, 7, 3, 0, 0, 0, time.UTC)
	nodes := []Node{
		{Name: "attic", UID: "a", Ready: true, Image: &Image{Digest: "sha256:old"}},
		{Name: "shed", UID: "s", Ready: true, Image: &Image{Digest: "sha256:old"}, CordonedBy: "u", Unschedulable: true},
	}
	r := &Rollout{Name: "lab", UID: "u", Generation: 1, Spec: Spec{Digest: "sha256:2", Image: "lab@sha256:2", Named: "lab:stable"}}
	r.Status = Status{Observed: 1, Image: "lab@sha256:1", Named: "lab:stable", Turns: []Turn{
		{Node: "attic", UID: "a", Step: Failed, Since: now}, {Node: "shed", UID: "s", Step: Evict, Since: now},
	}}
	got := Decide(r, View{Now: now, Nodes: nodes, Lock: Lock{Holder: "u", Epoch: 1}})
	if len(got) != 1 || got[0].Kind != WriteStatus {
		t.Fatalf("got %+v, want the status to be written", got)
	}
	s := got[0].Status
	if s.Image != "lab@sha256:2" || s.Named != "lab:stable" || len(s.Turns) != 1 || s.Turns[0].Step != Abort {
		t.Errorf("got %+v, want one turn that is given up, and the other image", s)
	}
}

// TestRequestsReachNoFile: what a node is asked for comes from a registry, by its
// digest.
func TestRequestsReachNoFile(t *testing.T) {
	for image, good := range map[string]bool{
		"registry.example/pi/lab@sha256:1": true, "/etc@sha256:1": false, "./lab@sha256:1": false, "registry.example/pi/lab:1.0": false,
		"registry.example/pi/lab@sha256:2": false, "": false,
	} {
		r, err := DecodeRequest(Request{ID: "u/1", Image: image, Digest: "sha256:1"}.Encode())
		if (err == nil) != good || (r != nil) != good || err != nil && !errors.Is(err, ErrText) {
			t.Errorf("%q: got %+v, %v", image, r, err)
		}
	}
}

// FuzzAnnotations: whatever is written onto a Node, it is read or refused, and what
// is read is written the same.
func FuzzAnnotations(f *testing.F) {
	f.Add(Request{ID: "u/1", Image: "lab@sha256:1", Digest: "sha256:1", Apply: true}.Encode())
	f.Add(Answer{ID: "u/1", Phase: Left, Reason: "the fan \x1b[31m"}.Encode())
	f.Add(Image{Stream: "lab", Digest: "sha256:1", Trial: true}.Encode())
	f.Add("[]")
	f.Add(strings.Repeat("x", maxText+1))
	f.Fuzz(func(t *testing.T, s string) {
		r, err := DecodeRequest(s)
		if err != nil && !errors.Is(err, ErrText) {
			t.Errorf("the error of a request is %v", err)
		}
		if r != nil && err == nil {
			if back, err := DecodeRequest(r.Encode()); err == nil && *back != *r {
				t.Errorf("%+v comes back as %+v", r, back)
			}
		}
		if a, err := DecodeAnswer(s); err == nil && a != nil {
			if back, err := DecodeAnswer(a.Encode()); err != nil || len(back.Reason) > maxReason || back.Phase != a.Phase {
				t.Errorf("%+v comes back as %+v, %v", a, back, err)
			}
		}
		if i, err := DecodeImage(s); err == nil && i != nil {
			if back, err := DecodeImage(i.Encode()); err != nil || *back != *i {
				t.Errorf("%+v comes back as %+v, %v", i, back, err)
			}
		}
	})
}
