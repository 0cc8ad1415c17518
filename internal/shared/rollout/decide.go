package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Decide returns what a controller does next for a rollout. Either that is to write
// down how far the rollout is, or what the steps that are written down ask for:
// never both, so that nothing is done to a node that the status does not tell of,
// whoever dies in between. Nothing to do is an empty list.
func Decide(r *Rollout, v View) []Action {
	d := decision{Rollout: r, View: v, status: r.Status, nodes: map[string]*Node{}}
	d.status.Turns = slices.Clone(r.Status.Turns)
	for i := range v.Nodes {
		d.nodes[v.Nodes[i].Name] = &v.Nodes[i]
	}
	if r.Status.Observed != r.Generation || r.Status.Image != r.Spec.Image {
		d.begin()
	}
	d.status.Image, d.status.Named = r.Spec.Image, r.Spec.Named
	d.advance()
	d.start()
	done, locked := d.underWay() == 0, v.Lock.Holder == r.UID
	if done && locked {
		d.status.Returned = v.Lock.Epoch
	}
	d.sum()
	switch {
	case !same(d.status, r.Status):
		return []Action{{Kind: WriteStatus, Status: d.status}}
	case len(d.actions) > 0:
		return d.actions
	case done && locked:
		return []Action{{Kind: ReleaseLock, Epoch: v.Lock.Epoch}}
	case done && r.Deleted:
		return []Action{{Kind: Forget}}
	}
	return nil
}

// decision is Decide at work.
type decision struct {
	*Rollout
	View
	status  Status
	nodes   map[string]*Node
	actions []Action
	wait    string // why no turn begins now
}

// begin takes note of a spec that changed, or of a channel that names another image: what failed before it is forgotten.
func (d *decision) begin() {
	d.status.Observed = d.Generation
	d.status.Turns = slices.DeleteFunc(d.status.Turns, func(t Turn) bool { return t.Step == Failed && d.released(t) })
	for i := range d.status.Turns {
		t := &d.status.Turns[i]
		switch t.Step {
		case Fetch, Cordon, Evict:
			d.to(t, Abort, "the rollout was changed")
		case Failed:
			d.to(t, Abort, t.Reason)
		}
	}
}

// released reports whether a node has nothing of this rollout left on it.
func (d *decision) released(t Turn) bool {
	n := d.nodes[t.Node]
	return n == nil || n.UID != t.UID || n.CordonedBy != d.UID && (n.Request == nil || n.Request.ID != t.Request)
}

// to is one step on.
func (d *decision) to(t *Turn, s Step, reason string) {
	t.Step, t.Since, t.Reason = s, d.Now, reason
}

// advance moves each turn as far as what is seen of its node allows.
func (d *decision) advance() {
	left := d.status.Turns[:0]
	for _, t := range d.status.Turns {
		n := d.nodes[t.Node]
		if n == nil || n.UID != t.UID {
			continue // deleted, and with it all that was done to it
		}
		if t.Since.After(d.Now) { // the clock went back
			t.Since = d.Now
		}
		if !d.step(&t, n) {
			left = append(left, t)
		}
	}
	d.status.Turns = left
}

// step moves one turn by at most one step, or adds what its step asks for to the
// actions. It reports whether the turn has ended.
func (d *decision) step(t *Turn, n *Node) (ended bool) {
	took := d.Now.Sub(t.Since)
	phase, reason := Phase(""), ""
	if n.Answer != nil && n.Answer.ID == t.Request {
		phase, reason = n.Answer.Phase, n.Answer.Reason
	}
	stop := d.Deleted || d.Spec.Paused || d.failed() != nil
	switch t.Step {
	case Fetch, Cordon, Evict:
		switch {
		case phase == Refused || phase == Left:
			d.to(t, Failed, cmp.Or(reason, "the node refused the release"))
		case phase == Committed: // somebody else upgraded it meanwhile
			d.to(t, Release, "")
		case stop:
			d.to(t, Abort, "")
		default:
			d.prepare(t, n, phase, reason, took)
		}
	case Restart:
		d.restart(t, n, phase, reason, took)
	case Soak:
		switch {
		case phase == Left:
			d.to(t, Failed, reason)
		case !n.Ready && took >= d.Spec.Deadline:
			d.to(t, Failed, fmt.Sprintf("not Ready for %v after its upgrade", d.Spec.Deadline))
		case !n.Ready && t.Reason == "":
			d.to(t, Soak, "not Ready")
		case n.Ready && t.Reason != "":
			d.to(t, Soak, "")
		case n.Ready && took >= d.Spec.Soak:
			d.to(t, Release, "")
		}
	case Release, Abort:
		return d.release(t, n)
	case Failed:
		d.release(t, n)
	}
	return false
}

// prepare is what comes before the restart: the image is brought, the node made
// unschedulable, its pods evicted.
func (d *decision) prepare(t *Turn, n *Node, phase Phase, reason string, took time.Duration) {
	switch t.Step {
	case Fetch:
		switch {
		case n.Request == nil || n.Request.ID != t.Request:
			d.patch(n, Change{Request: d.request(t, false)})
		case phase == Brought:
			d.to(t, Cordon, "")
		case took >= d.Spec.Fetch:
			d.to(t, Failed, strings.TrimSuffix(fmt.Sprintf("the image was not brought within %v: %s", d.Spec.Fetch, reason), ": "))
		}
	case Cordon:
		if n.Unschedulable {
			d.to(t, Evict, "")
			return
		}
		d.cordon(n)
	case Evict:
		if !n.Unschedulable {
			d.cordon(n)
			return
		}
		pods, refused := d.Spec.Drain.Leaving(d.Pods[n.Name])
		switch {
		case refused != "":
			d.to(t, Failed, refused)
		case len(pods) == 0 && d.Pods[n.Name] != nil:
			d.to(t, Restart, "")
		case took >= d.Spec.Drain.Timeout:
			d.to(t, Failed, fmt.Sprintf("pods did not leave within %v: %s", d.Spec.Drain.Timeout, blocked(pods)))
		default:
			for _, p := range pods {
				if !p.Terminating {
					d.actions = append(d.actions, Action{Kind: EvictPod, Node: n.Name, Pod: p})
				}
			}
		}
	}
}

// restart has the node restart, and waits for it.
func (d *decision) restart(t *Turn, n *Node, phase Phase, reason string, took time.Duration) {
	asked := n.Request != nil && n.Request.ID == t.Request && n.Request.Apply
	switch {
	case phase == Refused || phase == Left:
		d.to(t, Failed, cmp.Or(reason, "the node went back to the release before"))
	case phase == Committed && n.Ready:
		d.status.Slowest = max(d.status.Slowest, took)
		d.to(t, Soak, "")
	case !asked && !n.Unschedulable:
		d.cordon(n)
	case !asked:
		pods, _ := d.Spec.Drain.Leaving(d.Pods[n.Name])
		if d.Pods[n.Name] == nil {
			return
		}
		if len(pods) > 0 { // they came in between
			d.to(t, Evict, "")
			return
		}
		if why := Unsafe(n.Name, d.Nodes); why != "" {
			if took >= d.Spec.Deadline {
				d.to(t, Failed, why)
			}
			return
		}
		d.patch(n, Change{Request: d.request(t, true)})
	case took >= d.Spec.Deadline:
		d.to(t, Failed, fmt.Sprintf("the node did not come back within %v; it said last: %s", d.Spec.Deadline,
			cmp.Or(string(phase), "nothing")))
	}
}

// Unsafe returns why a node may not restart now: it is a server, and another one is
// not well. "" is returned where it may. A controller asks by what it sees, which may
// be old, and the node by what the API server says at that moment.
func Unsafe(name string, nodes []Node) string {
	if !slices.ContainsFunc(nodes, func(n Node) bool { return n.Name == name && n.Server }) {
		return ""
	}
	for i := range nodes {
		if o := &nodes[i]; o.Server && o.Name != name && !well(o) {
			return "server " + o.Name + " is not well"
		}
	}
	return ""
}

// well reports whether a node does its part in the cluster.
func well(n *Node) bool { return n.Ready && !n.Learner && (n.Image == nil || !n.Image.Trial) }

func (d *decision) request(t *Turn, apply bool) *Request {
	return &Request{ID: t.Request, Image: t.Image, Digest: t.Digest, Apply: apply, Again: d.Spec.Again}
}

func (d *decision) patch(n *Node, c Change) {
	d.actions = append(d.actions, Action{Kind: PatchNode, Node: n.Name, Change: c})
}

// cordon makes a node unschedulable, and notes by whom. Where it is already, it
// was by somebody else, and stays so.
func (d *decision) cordon(n *Node) {
	yes := true
	d.patch(n, Change{Unschedulable: &yes, CordonedBy: &d.UID})
}

// release makes a node schedulable that this rollout made unschedulable, and takes
// away what was asked for. It reports whether that is so.
func (d *decision) release(t *Turn, n *Node) bool {
	if d.released(*t) {
		return true
	}
	c := Change{}
	if n.CordonedBy == d.UID {
		no, none := false, ""
		c.Unschedulable, c.CordonedBy = &no, &none
	}
	if n.Request != nil && n.Request.ID == t.Request {
		c.Request = &Request{}
	}
	d.patch(n, c)
	return false
}

// failed returns the first turn that failed; nil for none.
func (d *decision) failed() *Turn {
	for i := range d.status.Turns {
		if d.status.Turns[i].Step == Failed {
			return &d.status.Turns[i]
		}
	}
	return nil
}

// underWay counts the turns that have not ended, or have not been released.
func (d *decision) underWay() int {
	n := 0
	for _, t := range d.status.Turns {
		if t.Step != Failed || !d.released(t) {
			n++
		}
	}
	return n
}

// turn returns the turn of a node; nil for none.
func (d *decision) turn(n *Node) *Turn {
	for i := range d.status.Turns {
		if t := &d.status.Turns[i]; t.Node == n.Name && t.UID == n.UID {
			return t
		}
	}
	return nil
}

// start begins turns, as many as may. A turn begins in the status; its first action
// comes when that is seen.
func (d *decision) start() {
	if d.wait = d.mayStart(); d.wait != "" {
		return
	}
	servers, agents := 0, 0 // under way
	for _, t := range d.status.Turns {
		if d.nodes[t.Node].Server {
			servers++
		} else {
			agents++
		}
	}
	for _, n := range d.selected() { // servers come first
		switch {
		case d.turn(n) != nil || d.Runs(n):
			continue
		case n.Server && servers+agents > 0, !n.Server && (servers > 0 || agents >= max(d.Spec.MaxUnavailable, 1)):
			return
		}
		if d.Lock.Holder != d.UID || d.Lock.Epoch == d.status.Returned {
			if d.wait = "another rollout has nodes under way"; d.Lock.Holder == "" {
				d.wait = "about to begin"
				d.actions = append(d.actions, Action{Kind: TakeLock})
			}
			return
		}
		d.status.Began++
		d.status.Turns = append(d.status.Turns, Turn{
			Node: n.Name, UID: n.UID, Step: Fetch, Since: d.Now, Image: d.Spec.Image, Digest: d.Spec.Digest,
			Request: fmt.Sprintf("%s/%d", d.UID, d.status.Began),
		})
		if n.Server {
			servers++
		} else {
			agents++
		}
	}
}

// mayStart returns why no node's turn may begin now; "" where one may.
func (d *decision) mayStart() string {
	switch {
	case d.Deleted:
		return "the rollout is being deleted"
	case d.Spec.Paused:
		return "paused"
	case d.failed() != nil:
		return "halted"
	}
	todo := false
	for _, n := range d.selected() {
		todo = todo || !d.Runs(n) && d.turn(n) == nil
	}
	if !todo {
		return "no node is left"
	}
	if len(d.Spec.Windows) > 0 && !slices.ContainsFunc(d.Spec.Windows, func(w Window) bool { return w.Contains(d.Now) }) {
		return "outside the windows"
	}
	for i := range d.Nodes {
		n := &d.Nodes[i]
		if d.Selected(n) {
			if other := d.owner(n); other != nil {
				return "rollout " + other.Name + " selects node " + n.Name + " too, and was created before"
			}
		} else if !n.Server {
			continue
		}
		if t := d.turn(n); t == nil && !well(n) {
			return "node " + n.Name + " is not well"
		}
	}
	return ""
}
