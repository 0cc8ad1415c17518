package rolloutsim

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
)

// controller is a process that may carry out rollouts.
type controller struct {
	w       *world
	name    string
	down    int // until this tick
	cut     int // its network, until this tick
	leads   int // until this tick it believes that it holds the lease
	clock   time.Duration
	lag     int // of its caches, in ticks
	frozen  int // until this tick a watch is lost
	seen    int // the tick up to which its caches have come
	decided int // the newest change that it decided by last
	again   int // the tick at which it decides by the same once more
}

// live is one tick of a controller.
func (c *controller) live() {
	w := c.w
	if w.now < c.down || w.now < c.cut || !w.apiUp() {
		return
	}
	if w.now >= c.frozen {
		c.seen = max(c.seen, w.now-c.lag)
	}
	if w.now >= c.leads {
		return
	}
	if changed := w.changedUpTo(c.seen); changed == c.decided && w.now < c.again {
		return
	} else {
		c.decided, c.again = changed, w.now+3+w.rnd.IntN(3)
	}
	for _, uid := range w.uids {
		for range 3 {
			if w.rollouts[uid] == nil || !c.reconcile(uid) {
				break
			}
			c.again = 0
			if w.chance(300) {
				w.say("%s is killed", c.name)
				c.kill()
				return
			}
		}
	}
}

// kill ends the process; another one begins with caches that are new.
func (c *controller) kill() {
	c.down = c.w.now + 1 + c.w.rnd.IntN(60)
	c.leads, c.frozen = 0, 0
	c.seen = c.down
}

// reconcile decides, and carries out what was decided. It reports whether something
// was done.
func (c *controller) reconcile(uid string) bool {
	w := c.w
	seen, ok := w.rollouts[uid].at(c.seen)
	if !ok {
		return false
	}
	r := seen.v
	v := rollout.View{Now: epoch.Add(time.Duration(w.now)*tick + c.clock), Nodes: w.nodesAt(c.seen), Pods: map[string][]rollout.Pod{}}
	if l, ok := w.lock.at(c.seen); ok {
		v.Lock = l.v
	}
	for _, other := range w.uids {
		if o, ok := w.rollouts[other].at(c.seen); ok && other != uid {
			v.Others = append(v.Others, &o.v)
		}
	}
	for _, t := range r.Status.Turns {
		if t.Step == rollout.Evict || t.Step == rollout.Restart {
			v.Pods[t.Node] = w.podsOn(t.Node)
		}
	}
	did := false
	for _, a := range rollout.Decide(&r, v) {
		if w.chance(500) {
			w.say("%s is killed in the middle", c.name)
			c.kill()
			return false
		}
		did = c.do(&r, seen.n, v, a) || did
	}
	return did
}

// do is one request to the API server, which refuses what was decided by an old
// version. It reports whether it was carried out.
func (c *controller) do(r *rollout.Rollout, n int, v rollout.View, a rollout.Action) bool {
	w := c.w
	o := w.rollouts[r.UID]
	switch a.Kind {
	case rollout.WriteStatus:
		if o.last().n != n {
			return false
		}
		is := o.last().v
		w.checkStatus(is, a.Status)
		is.Status = a.Status
		o.write(w.now, is)
		w.say("%s: %s %s %s %v", c.name, r.UID, a.Status.State, a.Status.Reason, turns(a.Status))
	case rollout.TakeLock:
		l := w.lock.last().v
		if l.Holder != "" {
			return false
		}
		w.lock.write(w.now, rollout.Lock{Holder: r.UID, Epoch: l.Epoch + 1})
		w.say("%s: %s takes the lock, %d", c.name, r.UID, l.Epoch+1)
	case rollout.ReleaseLock:
		l := w.lock.last().v
		if l.Holder != r.UID || l.Epoch != a.Epoch {
			return false
		}
		w.lock.write(w.now, rollout.Lock{Epoch: l.Epoch})
		w.say("%s: %s releases the lock, %d", c.name, r.UID, l.Epoch)
	case rollout.PatchNode:
		return c.patch(v, a)
	case rollout.EvictPod:
		if !w.evict(a.Pod.Name) {
			return false
		}
		w.say("%s: evicts %s from %s", c.name, a.Pod.Name, a.Node)
	case rollout.Forget:
		if o.last().n != n {
			return false
		}
		delete(w.rollouts, r.UID)
		w.uids = slices.DeleteFunc(slices.Clone(w.uids), func(uid string) bool { return uid == r.UID })
		w.say("%s: forgets %s", c.name, r.UID)
		w.changed()
		return false
	}
	w.changed()
	return true
}

// patch changes a node of the version that was seen.
func (c *controller) patch(v rollout.View, a rollout.Action) bool {
	w := c.w
	n := w.byName[a.Node]
	last := n.api.last()
	for i := range v.Nodes {
		if v.Nodes[i].Name == a.Node && v.Nodes[i].Version != strconv.Itoa(last.n) {
			return false
		}
	}
	o := last.v
	if a.Change.Unschedulable != nil {
		o.Unschedulable = *a.Change.Unschedulable
	}
	if a.Change.CordonedBy != nil {
		o.CordonedBy = *a.Change.CordonedBy
	}
	if r := a.Change.Request; r != nil {
		if o.Request = nil; r.ID != "" {
			o.Request = r
		}
	}
	n.write(o)
	w.say("%s: patches %s: unschedulable %v by %q, request %+v", c.name, a.Node, o.Unschedulable, o.CordonedBy, o.Request)
	return true
}

// turns is a status on a line.
func turns(s rollout.Status) (list []string) {
	for _, t := range s.Turns {
		list = append(list, fmt.Sprintf("%s:%s", t.Node, t.Step))
	}
	return list
}
