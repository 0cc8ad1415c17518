// Package rolloutsim is a cluster in memory in which releases are rolled out: the
// decisions of controllers and nodes are those of package rollout, and clock, API
// server, registry, scheduler, firmware and checks are models. All that happens
// follows from a seed: power cuts, nodes and networks that go away, controllers
// that are killed and that go on after they lost their lease, caches that are old
// and watches that are lost, clocks that jump, releases that are bad.
package rolloutsim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/rollout"
)

// tick is how far the simulated clock goes at a time.
const tick = 10 * time.Second

// How long faults come, and how long a cluster may take to come to rest after the
// last one, in ticks.
const (
	faulty  = 3 * 360
	resting = 20 * 360
)

// Where the clock begins.
var epoch = time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)

// version is an object as it was from some tick on.
type version[T any] struct {
	from int
	n    int // of the object, counted up
	v    T
}

// object is one of the API server's, with its past: caches see that.
type object[T any] struct{ past []version[T] }

func (o *object[T]) last() version[T] { return o.past[len(o.past)-1] }

// at returns the object as it was at a tick; false where it was not yet.
func (o *object[T]) at(when int) (version[T], bool) {
	for i := len(o.past) - 1; i >= 0; i-- {
		if o.past[i].from <= when {
			return o.past[i], true
		}
	}
	return version[T]{}, false
}

// write makes a new version of an object.
func (o *object[T]) write(now int, v T) {
	n := 1
	if len(o.past) > 0 {
		n = o.last().n + 1
	}
	o.past = append(o.past, version[T]{now, n, v})
}

// image is a release.
type image struct {
	digest, release string
	minor           int             // of its Kubernetes
	badOn           map[string]bool // nodes whose checks fail with it
	kubernetes      string
}

func newImage(digest, release string, minor int) *image {
	return &image{digest, release, minor, map[string]bool{}, fmt.Sprintf("v1.%d.0", minor)}
}

// pod is one of a workload.
type pod struct {
	name, node string
	ready      int // the tick from which it is
	goes       int // the tick at which it is gone; 0 for never
	bare       bool
	local      bool
}

// world is a cluster.
type world struct {
	seed uint64
	rnd  *rand.Rand
	now  int // in ticks

	images map[string]*image
	nodes  []*node
	byName map[string]*node

	rollouts map[string]*object[rollout.Rollout]
	uids     []string // of rollouts, in the order in which they were created
	lock     object[rollout.Lock]
	pods     []*pod
	replicas int
	needed   int // of them, by the disruption budget
	made     int // pods so far

	controllers []*controller
	apiDown     int // until this tick
	registry    int // is away until this tick
	lastChange  int
	changes     []int // ticks

	failures []string
	trace    []string
	traces   bool
}

func (w *world) say(format string, args ...any) {
	if w.traces {
		w.trace = append(w.trace, fmt.Sprintf("%6s %s", time.Duration(w.now)*tick, fmt.Sprintf(format, args...)))
	}
}

// fail records that something happened that must not.
func (w *world) fail(format string, args ...any) {
	text := fmt.Sprintf("%v: %s", time.Duration(w.now)*tick, fmt.Sprintf(format, args...))
	w.say("FAILED: %s", text)
	if len(w.failures) < 5 && !slices.Contains(w.failures, text) {
		w.failures = append(w.failures, text)
	}
}

func (w *world) chance(one int) bool { return w.rnd.IntN(one) == 0 }

// apiUp reports whether an API server answers: etcd has a quorum.
func (w *world) apiUp() bool {
	if w.now < w.apiDown {
		return false
	}
	up, all := 0, 0
	for _, n := range w.nodes {
		if n.server {
			all++
			if n.runs() {
				up++
			}
		}
	}
	return 2*up > all
}

// changed is any write: the cluster is not at rest.
func (w *world) changed() {
	w.lastChange = w.now
	if n := len(w.changes); n == 0 || w.changes[n-1] != w.now {
		w.changes = append(w.changes, w.now)
	}
}

// changedUpTo returns when something changed last that a cache of some age shows.
func (w *world) changedUpTo(when int) int {
	for i := len(w.changes) - 1; i >= 0; i-- {
		if w.changes[i] <= when {
			return w.changes[i]
		}
	}
	return -1
}

// healthy returns how many pods of the workload serve.
func (w *world) healthy() int {
	n := 0
	for _, p := range w.pods {
		if !p.bare && p.goes == 0 && p.node != "" && p.ready <= w.now && w.byName[p.node].runs() {
			n++
		}
	}
	return n
}

// evict is the Eviction API: the disruption budget holds.
func (w *world) evict(name string) bool {
	for _, p := range w.pods {
		if p.name != name || p.goes != 0 {
			continue
		}
		serves := p.node != "" && p.ready <= w.now && w.byName[p.node].runs()
		if !p.bare && serves && w.healthy()-1 < w.needed {
			return false
		}
		p.goes = w.now + 1 + w.rnd.IntN(3)
		w.changed()
		return true
	}
	return true
}

// schedule is the rest of the control plane: pods that are gone are made anew, and
// run where they may; nodes that are silent are not Ready.
func (w *world) schedule() {
	for _, n := range w.nodes {
		ready := n.runs() && n.reaches() && w.now >= n.kubelet
		switch {
		case ready:
			n.heard, n.unwell = w.now, 0
		case n.unwell == 0:
			n.unwell = w.now
		}
		o := n.api.last().v
		learner := n.server && w.now < n.learner
		if o.Ready != ready && (ready || w.now-n.heard >= 4) || o.Learner != learner && ready {
			o.Ready, o.Learner = ready, learner && ready
			n.write(o)
		}
	}
	left := w.pods[:0]
	have := 0
	for _, p := range w.pods {
		gone := p.goes != 0 && w.now >= p.goes && (p.node == "" || w.byName[p.node].runs())
		// The taint of a silent node evicts after five minutes.
		if p.node != "" && p.goes == 0 && !p.bare && w.now-w.byName[p.node].heard > 34 {
			p.goes = w.now
		}
		if gone || p.bare && w.byName[p.node].gone {
			continue
		}
		left = append(left, p)
		if !p.bare && p.goes == 0 {
			have++
		}
	}
	w.pods = left
	for ; have < w.replicas; have++ {
		w.made++
		w.pods = append(w.pods, &pod{name: fmt.Sprint("web-", w.made)})
	}
	for _, p := range w.pods {
		if p.node != "" || p.goes != 0 {
			continue
		}
		var may []*node
		for _, n := range w.nodes {
			if o := n.api.last().v; o.Ready && !o.Unschedulable && !n.server {
				may = append(may, n)
			}
		}
		if len(may) > 0 {
			p.node, p.ready = may[w.rnd.IntN(len(may))].name, w.now+1+w.rnd.IntN(3)
		}
	}
}

// view is what a cache of some age shows.
func (w *world) nodesAt(when int) []rollout.Node {
	list := make([]rollout.Node, 0, len(w.nodes))
	for _, n := range w.nodes {
		if v, ok := n.api.at(when); ok {
			o := v.v
			o.Version = strconv.Itoa(v.n)
			list = append(list, o)
		}
	}
	return list
}

// podsOn returns the pods of a node as the API server has them.
func (w *world) podsOn(name string) []rollout.Pod {
	list := []rollout.Pod{{Namespace: "kube-system", Name: "agent-" + name, DaemonSet: true}}
	for _, p := range w.pods {
		if p.node == name {
			list = append(list, rollout.Pod{Namespace: "default", Name: p.name, Controlled: !p.bare, LocalData: p.local, Terminating: p.goes != 0})
		}
	}
	return list
}
