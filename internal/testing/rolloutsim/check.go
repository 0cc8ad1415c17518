package rolloutsim

import (
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
	"github.com/pikelet-os/pikelet/internal/shared/skew"
)

// What must hold at every moment of a simulated cluster.

// unknown is how long the cluster may not know that a node is gone, in ticks: the
// lease of its kubelet, and a cache.
const unknown = 6

// skewAllows is the node's own rule, by what the API server says now.
func (w *world) skewAllows(n *node, img *image) bool {
	c := skew.Cluster{Server: n.server, Kubelet: kubernetes(n.image().minor)}
	c.API = c.Kubelet
	for _, o := range w.nodes {
		v := o.api.last().v
		if o == n || v.Image == nil {
			continue
		}
		is, err := skew.Parse(v.Image.Kubernetes)
		if err != nil {
			return false
		}
		if o.server && !n.server && is.Compare(c.API) < 0 {
			c.API = is // it may ask any of them
		}
		c.Others = append(c.Others, skew.Member{Name: o.name, Server: o.server, Kubelet: is})
	}
	if !n.server {
		c.API = w.oldestServer()
	}
	return skew.Check(kubernetes(img.minor), c) == nil
}

// oldestServer is the lowest version that a server of the cluster runs.
func (w *world) oldestServer() (oldest skew.Version) {
	for _, n := range w.nodes {
		if v := kubernetes(n.image().minor); n.server && (oldest.IsZero() || v.Compare(oldest) < 0) {
			oldest = v
		}
	}
	return oldest
}

func kubernetes(minor int) skew.Version {
	return versions[minor]
}

// versions are parsed once.
var versions = func() map[int]skew.Version {
	all := map[int]skew.Version{}
	for minor, text := range map[int]string{33: "v1.33.0", 34: "v1.34.0", 35: "v1.35.0", 36: "v1.36.0"} {
		v, err := skew.Parse(text)
		if err != nil {
			panic(err)
		}
		all[minor] = v
	}
	return all
}()

// checkSkew: no kubelet is newer than an API server.
func (w *world) checkSkew(n *node) {
	if !n.server && kubernetes(n.image().minor).Compare(w.oldestServer()) > 0 {
		w.fail("the kubelet of %s is of 1.%d, and a server of %s", n.name, n.image().minor, w.oldestServer())
	}
}

// checkRestart: a node that restarts because it was asked to has no pods, and a
// server leaves a quorum behind.
func (w *world) checkRestart(n *node) {
	drains := true
	for _, uid := range w.uids {
		r := w.rollouts[uid].last().v
		for _, t := range r.Status.Turns {
			if t.Node == n.name && t.Request == n.request.ID {
				drains = !r.Spec.Drain.Off
			}
		}
	}
	for _, p := range w.pods {
		if p.node == n.name && (p.goes == 0 || p.goes > w.now) && drains {
			w.fail("%s restarts with pod %s on it", n.name, p.name)
		}
	}
	if !n.server {
		return
	}
	for _, o := range w.nodes {
		if o.server && o != n && o.unwell != 0 && w.now-o.unwell > unknown {
			w.fail("server %s restarts while %s has been away since %d", n.name, o.name, o.unwell)
		}
	}
}

// checkNodes: no more nodes are unavailable by rollouts than may be.
func (w *world) checkNodes() {
	servers, agents, most := 0, 0, 0
	for _, uid := range w.uids {
		most = max(most, w.rollouts[uid].last().v.Spec.MaxUnavailable)
	}
	for _, n := range w.nodes {
		o := n.api.last().v
		if n.admin && !o.Unschedulable {
			w.fail("%s was unschedulable, and is not any more", n.name)
			n.admin = false
		}
		if o.CordonedBy == "" && !(n.asked && n.underWay()) {
			continue
		}
		if n.server {
			servers++
		} else {
			agents++
		}
	}
	if servers > 1 || servers > 0 && agents > 0 || agents > max(most, 1) {
		w.fail("%d servers and %d agents are unavailable, of %d agents that may be", servers, agents, most)
	}
}

// underWay reports whether some rollout has the node's turn at its restart.
func (n *node) underWay() bool {
	for _, uid := range n.w.uids {
		for _, t := range n.w.rollouts[uid].last().v.Status.Turns {
			if t.Node == n.name && (t.Step == rollout.Restart || t.Step == rollout.Soak) {
				return true
			}
		}
	}
	return false
}

// checkStatus: no turn begins once one has failed, and none while another rollout
// has nodes under way.
func (w *world) checkStatus(r rollout.Rollout, s rollout.Status) {
	if s.Began == r.Status.Began {
		return
	}
	for _, t := range s.Turns {
		if t.Step == rollout.Failed {
			w.fail("%s begins another turn after %s failed", r.UID, t.Node)
		}
	}
	begun := w.byName[s.Turns[len(s.Turns)-1].Node]
	for _, n := range w.nodes {
		if n.server && !begun.server && n.image().digest != r.Spec.Digest && !n.gone {
			w.fail("%s begins with %s, and server %s runs %s", r.UID, begun.name, n.name, n.image().release)
		}
	}
	for _, uid := range w.uids {
		if uid == r.UID {
			continue
		}
		for _, t := range w.rollouts[uid].last().v.Status.Turns {
			if t.Step != rollout.Failed {
				w.fail("%s begins a turn while %s has %s under way", r.UID, uid, t.Node)
			}
		}
	}
}

// checkEnd: all rollouts came to an end that says why, and nothing is left behind.
func (w *world) checkEnd() {
	for _, uid := range w.uids {
		r := w.rollouts[uid].last().v
		s := r.Status
		switch {
		case r.Deleted:
			w.fail("%s is never forgotten: %s %q %v", uid, s.State, s.Reason, turns(s))
		case s.State == rollout.Progressing:
			w.fail("%s never ends: %v", uid, turns(s))
		case s.State != rollout.Complete && s.Reason == "":
			w.fail("%s is %s without a reason", uid, s.State)
		}
		if s.State == rollout.Complete {
			for _, n := range w.nodes {
				if n.image().digest != r.Spec.Digest && n.runs() && r.Spec.Selects == nil && len(w.uids) == 1 {
					w.fail("%s is complete, and %s runs %s", uid, n.name, n.image().release)
				}
			}
		}
	}
	if l := w.lock.last().v; l.Holder != "" {
		w.fail("%s keeps the lock", l.Holder)
	}
	for _, n := range w.nodes {
		if o := n.api.last().v; o.CordonedBy != "" {
			w.fail("%s stays unschedulable, by %s", n.name, o.CordonedBy)
		}
	}
}
