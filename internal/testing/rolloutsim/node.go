package rolloutsim

import (
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// node is a machine, its card, and its object at the API server.
type node struct {
	w      *world
	name   string
	server bool
	api    object[rollout.Node]
	admin  bool // somebody made it unschedulable before

	// The card.
	def    slots.Letter
	holds  map[slots.Letter]string // digests
	update *slots.Update

	// The machine.
	gone    bool // for good
	off     int  // until this tick there is no power
	boots   int  // until this tick it starts
	kubelet int  // the tick from which its kubelet is Ready
	learner int  // until this tick its etcd is behind
	cut     int  // until this tick its network is cut off
	heard   int  // the tick at which the cluster last heard of it
	unwell  int  // since when it does not run; for what the cluster cannot know yet
	running slots.Letter
	kind    slots.Kind
	try     bool // what the firmware is told for the next start
	trial   int  // since when the trial goes on
	good    int  // since when its checks hold in it

	// pikeletd.
	busy             int // until this tick
	doing            rollout.Verb
	request          rollout.Request
	written          string
	problem, refusal string
	refused          string // the request that refusal is about
	asked            bool   // restarts since a request asked for it
}

func (n *node) runs() bool { return !n.gone && n.w.now >= n.off && n.w.now >= n.boots }

// reaches reports whether the API server can be reached.
func (n *node) reaches() bool { return n.w.now >= n.cut && n.w.apiUp() }

func (n *node) write(o rollout.Node) {
	n.api.write(n.w.now, o)
	n.w.changed()
}

func (n *node) image() *image { return n.w.images[n.holds[n.running]] }

// restart is firmware and /init, with the time that takes.
func (n *node) restart(off int) {
	w := n.w
	n.off, n.boots = w.now+off, w.now+off+3+w.rnd.IntN(6)
	n.kubelet = n.boots + 1 + w.rnd.IntN(4)
	n.busy, n.doing, n.problem, n.refusal, n.refused = 0, rollout.Nothing, "", "", ""
	n.running = n.def
	if n.try && off == 0 { // a power cut forgets what the firmware was told
		n.running = n.def.Other()
	}
	tryboot := n.try && off == 0
	n.try = false
	n.trial, n.good = 0, 0
	n.kind, _ = slots.ClassifyBoot(n.running, n.def, tryboot, n.holds[n.running], n.update)
	if n.unwell == 0 {
		n.unwell = w.now
	}
	if off > 10 {
		n.learner = n.kubelet + w.rnd.IntN(12)
	}
	w.say("%s restarts into slot %s, %s (%s)", n.name, n.running, n.image().release, n.kind)
}

// live is one tick of a machine.
func (n *node) live() {
	w := n.w
	if !n.runs() {
		return
	}
	if n.trial == 0 && n.good == 0 {
		n.good = w.now
		n.booted()
		if !n.runs() {
			return
		}
	}
	if n.kind == slots.Trial {
		n.seeThrough()
		if !n.runs() {
			return
		}
	}
	if n.reaches() {
		n.publish()
		n.answer()
	}
	if n.doing != rollout.Nothing && w.now >= n.busy {
		n.finish()
	}
}

// booted is what pikeletd concludes of a boot.
func (n *node) booted() {
	w := n.w
	_, verdict := slots.ClassifyBoot(n.running, n.def, n.kind == slots.Trial, n.holds[n.running], n.update)
	u := n.update
	if n.kind == slots.Committed && !n.asked {
		w.checkSkew(n)
	}
	switch verdict {
	case slots.OnTrial:
		n.trial = w.now
		u.Step = slots.Tried
		w.checkSkew(n)
	case slots.NotStarted:
		u.Starts++
		n.try = true
		n.restart(0)
	case slots.Retry:
		u.Cuts++
		u.Step = slots.Armed
		n.try = true
		n.restart(0)
	case slots.GaveUp, slots.Cut, slots.Failed:
		u.Step = slots.Left
		if u.Reason == "" {
			u.Reason = string(verdict)
		}
		n.asked = false
	case slots.Kept:
		u.Step = slots.Finished
		n.asked = false
	}
}

// seeThrough is a trial: soak of six ticks, deadline of thirty.
func (n *node) seeThrough() {
	w := n.w
	well := !n.image().badOn[n.name] && n.reaches() && n.api.last().v.Ready
	if !well {
		n.good = w.now
	}
	switch u := n.update; {
	case w.now-n.good >= 6 && well:
		n.def, n.kind = n.running, slots.Committed
		u.Step = slots.Finished
		n.asked = false
		w.say("%s commits %s", n.name, n.image().release)
		w.changed()
	case w.now-n.trial >= 30:
		u.Step, u.Bad, u.Reason = slots.Tried, n.image().badOn[n.name], "checks failed"
		if !u.Bad {
			u.Step = slots.Left
		}
		w.say("%s leaves %s", n.name, n.image().release)
		n.restart(0)
	}
}

// publish writes what runs onto the Node.
func (n *node) publish() {
	img, trial := n.image(), n.kind == slots.Trial
	o := n.api.last().v
	if is := o.Image; is != nil && is.Digest == img.digest && is.Trial == trial {
		return
	}
	o.Image = &rollout.Image{Stream: "lab", Release: img.release, Digest: img.digest, Kubernetes: img.kubernetes,
		Trial: trial}
	n.write(o)
}

// answer asks for the request and answers, as pikeletd does.
func (n *node) answer() {
	w := n.w
	o := n.api.last().v
	self := rollout.Self{Digest: n.image().digest, Kind: n.kind, Update: n.update, Busy: n.doing != rollout.Nothing, Written: n.written,
		Problem: n.problem}
	if o.Request != nil && n.refused == o.Request.ID {
		self.Refusal = n.refusal
	}
	a, verb := rollout.Answers(o.Request, o.Answer, self)
	if a != nil && (o.Answer == nil || *o.Answer != *a) {
		o.Answer = a
		n.write(o)
		w.say("%s answers %s %s (%s)", n.name, a.Phase, a.Reason, a.ID)
		if w.chance(40) {
			return // it is killed before it begins
		}
	}
	if verb != rollout.Nothing {
		n.doing, n.request, n.busy = verb, *o.Request, w.now+1+w.rnd.IntN(6)
	}
}

// finish is the end of what was brought or applied.
func (n *node) finish() {
	w := n.w
	verb := n.doing
	n.doing, n.problem = rollout.Nothing, ""
	img := w.images[n.request.Digest]
	switch {
	case n.kind == slots.Trial:
		return
	case w.now < w.registry && n.written != n.request.Digest:
		n.problem = "the registry does not answer"
		return
	case !n.reaches():
		n.problem = "the API server does not answer"
		return
	case !w.skewAllows(n, img):
		n.refusal, n.refused = "version skew", n.request.ID
		return
	}
	if n.written != n.request.Digest {
		n.holds[n.def.Other()], n.written = n.request.Digest, n.request.Digest
		if n.update != nil && n.update.Step != slots.Left {
			n.update = nil
		}
	}
	if verb != rollout.Apply {
		return
	}
	if n.problem = rollout.Unsafe(n.name, w.nodesAt(w.now)); n.problem != "" {
		return
	}
	w.checkRestart(n)
	n.update = &slots.Update{Step: slots.Armed, Slot: n.def.Other(), Digest: n.request.Digest, Release: img.release}
	n.try, n.asked = true, true
	w.say("%s applies %s", n.name, img.release)
	n.restart(0)
	w.changed()
}
