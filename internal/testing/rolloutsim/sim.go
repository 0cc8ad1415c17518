package rolloutsim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Result is how a simulated cluster fared.
type Result struct {
	Seed     uint64
	Failures []string // what happened that must not; none where all is well
	States   []rollout.State
	Ticks    int
	Trace    []string // of Trace
}

// Run simulates a cluster of three servers and five agents until it is at rest.
func Run(seed uint64) Result { return run(seed, false) }

// Trace is Run, and tells what happened.
func Trace(seed uint64) Result { return run(seed, true) }

func run(seed uint64, traces bool) Result {
	w := newWorld(seed, traces)
	for ; w.now < faulty+resting; w.now++ {
		if w.now < faulty {
			w.faults()
		} else if w.now == faulty {
			w.heal()
		}
		w.schedule()
		for _, n := range w.nodes {
			n.live()
		}
		for _, c := range w.controllers {
			c.live()
		}
		w.elect()
		w.checkNodes()
		// Nothing takes longer than a node's turn may, but a window.
		if w.now > faulty && w.now-w.lastChange > 700 && !w.waitsForWindow() {
			break
		}
	}
	w.checkEnd()
	r := Result{Seed: seed, Failures: w.failures, Ticks: w.now, Trace: w.trace}
	for _, uid := range w.uids {
		r.States = append(r.States, w.rollouts[uid].last().v.Status.State)
	}
	return r
}

func newWorld(seed uint64, traces bool) *world {
	w := &world{seed: seed, rnd: rand.New(rand.NewPCG(seed, 12)), traces: traces, images: map[string]*image{}, byName: map[string]*node{},
		rollouts: map[string]*object[rollout.Rollout]{}, replicas: 4, needed: 3}
	w.images["old"] = newImage("old", "1.0", 34)
	w.lock.write(0, rollout.Lock{})
	for i := range 8 {
		n := &node{w: w, name: fmt.Sprintf("agent-%d", i-2), server: i < 3, def: slots.A, running: slots.A, kind: slots.Committed, good: 1,
			holds: map[slots.Letter]string{slots.A: "old", slots.B: "old"}}
		if n.server {
			n.name = fmt.Sprintf("server-%d", i+1)
		}
		o := rollout.Node{Name: n.name, UID: "uid-" + n.name, Server: n.server, Ready: true, Labels: map[string]string{}}
		if n.admin = w.chance(25); n.admin {
			o.Unschedulable = true
		}
		w.nodes = append(w.nodes, n)
		w.byName[n.name] = n
		n.write(o)
		n.publish()
	}
	if w.chance(12) {
		w.pods = append(w.pods, &pod{name: "bare", node: "agent-2", bare: true})
	}
	for i := range 2 {
		w.controllers = append(w.controllers, &controller{w: w, name: fmt.Sprintf("controller-%d", i+1), lag: w.rnd.IntN(3)})
	}
	w.create("r1")
	return w
}

// create makes a rollout of a new release.
func (w *world) create(uid string) {
	img := newImage(uid, "1."+uid[1:], 34+w.rnd.IntN(2))
	if w.chance(20) {
		img = newImage(uid, img.release, 36) // which is too far
	}
	switch w.rnd.IntN(6) {
	case 0: // bad everywhere
		for _, n := range w.nodes {
			img.badOn[n.name] = true
		}
	case 1: // bad on some
		for _, n := range w.nodes {
			img.badOn[n.name] = w.chance(4)
		}
	}
	w.images[uid] = img
	s := rollout.Spec{Image: "registry.example/lab@" + uid, Digest: uid, MaxUnavailable: 1 + w.rnd.IntN(3), Soak: time.Minute,
		Deadline: 40 * time.Minute, Fetch: time.Hour, Drain: rollout.Drain{Timeout: 20 * time.Minute, Force: w.chance(2), Off: w.chance(10)}}
	if w.chance(5) {
		s.Windows = []rollout.Window{{Day: nodeconfig.Window{From: 60, To: 240}, Location: time.UTC}}
	}
	o := &object[rollout.Rollout]{}
	o.write(w.now, rollout.Rollout{Name: uid, UID: uid, Created: epoch.Add(time.Duration(w.now) * tick), Generation: 1, Spec: s})
	w.rollouts[uid], w.uids = o, append(w.uids, uid)
	w.say("%s is created: %+v, bad on %v", uid, s, img.badOn)
	w.changed()
}

// edit changes the first rollout as people do.
func (w *world) edit(change func(*rollout.Rollout)) {
	o := w.rollouts["r1"]
	if o == nil || o.last().v.Deleted {
		return
	}
	r := o.last().v
	change(&r)
	o.write(w.now, r)
	w.say("r1 is changed: generation %d, paused %v, deleted %v, %s", r.Generation, r.Spec.Paused, r.Deleted, r.Spec.Digest)
	w.changed()
}

// faults are what goes wrong, and what people do, at a tick.
func (w *world) faults() {
	any := func() *node { return w.nodes[w.rnd.IntN(len(w.nodes))] }
	c := w.controllers[w.rnd.IntN(len(w.controllers))]
	switch w.rnd.IntN(2500) {
	case 0, 1, 2, 3, 4, 5, 6, 7, 8, 9:
		if n := any(); n.runs() {
			w.say("the power of %s is cut", n.name)
			n.restart(1 + w.rnd.IntN(30))
		}
	case 10, 11, 12, 13, 14:
		n := any()
		n.cut = w.now + 1 + w.rnd.IntN(40)
		w.say("the network of %s is cut", n.name)
	case 20, 21, 22, 23, 24, 25, 26, 27:
		w.say("%s is killed", c.name)
		c.kill()
	case 30, 31, 32, 33, 34:
		c.frozen = w.now + 1 + w.rnd.IntN(60)
		w.say("%s loses a watch", c.name)
	case 40, 41, 42:
		c.lag = w.rnd.IntN(6)
	case 50, 51, 52:
		c.clock += time.Duration(w.rnd.IntN(7200)-3600) * time.Second
		w.say("the clock of %s jumps to %v", c.name, c.clock)
	case 60, 61:
		w.apiDown = w.now + 1 + w.rnd.IntN(30)
		w.say("the API server is away")
	case 70, 71, 72:
		w.registry = w.now + 1 + w.rnd.IntN(90)
		w.say("the registry is away")
	case 80, 81, 82:
		if w.images["r2"] == nil && w.now < faulty/2 {
			w.create("r2")
		}
	case 90, 91:
		w.edit(func(r *rollout.Rollout) { r.Spec.Paused = !r.Spec.Paused; r.Generation++ })
	case 100:
		w.edit(func(r *rollout.Rollout) { r.Deleted = true })
	case 110, 111:
		w.edit(func(r *rollout.Rollout) {
			if img := w.images["r2"]; img != nil {
				r.Spec.Digest, r.Spec.Image = "r2", "registry.example/lab@r2"
				if w.chance(2) { // else its channel names another image, and the spec is the same
					r.Generation++
				}
			}
		})
	case 120:
		if n := any(); !n.server && w.chance(3) {
			n.gone = true
			w.say("%s is gone for good", n.name)
		}
	case 130, 131:
		c.leads = w.now + 6 // one that does not know that it lost the lease
	case 140, 141:
		c.cut = w.now + 1 + w.rnd.IntN(30)
	}
}

// heal ends all faults but those for good.
func (w *world) heal() {
	w.say("no more faults")
	for _, c := range w.controllers {
		c.frozen, c.cut, c.lag, c.clock = 0, 0, 0, 0
	}
	w.edit(func(r *rollout.Rollout) {
		if r.Spec.Paused && w.chance(2) {
			r.Spec.Paused = false
			r.Generation++
		}
	})
	w.lastChange = w.now
}

// elect gives the lease to a controller that can hold it.
func (w *world) elect() {
	if !w.apiUp() {
		return
	}
	for _, c := range w.controllers {
		if w.now < c.leads {
			if w.now >= c.down && w.now >= c.cut {
				c.leads = w.now + 2
				return
			}
			return // its lease has not expired
		}
	}
	for _, c := range w.controllers {
		if w.now >= c.down && w.now >= c.cut {
			c.leads = w.now + 2
			w.say("%s leads", c.name)
			return
		}
	}
}

// waitsForWindow reports whether a rollout only waits for its window.
func (w *world) waitsForWindow() bool {
	for _, uid := range w.uids {
		if w.rollouts[uid].last().v.Status.Reason == "outside the windows" {
			return w.now < faulty+9*360
		}
	}
	return false
}
