// Package requests answers the requests that a rollout writes onto this node's Node
// object: it brings an image, restarts into it, and writes back how far that is, as
// annotations, a condition and events. It does so with the kubelet's own rights,
// which reach no other node.
package requests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/pikelet-os/pikelet/internal/device/agent/apiserver"
	"github.com/pikelet-os/pikelet/internal/device/agent/clock"
	"github.com/pikelet-os/pikelet/internal/shared/rollout"
)

// every is how often the Node is looked at. A rollout waits for drains and restarts
// of minutes.
const every = 10 * time.Second

// longest is how long the wait becomes after errors.
const longest = 2 * time.Minute

// Upgrader is what this node can do about a request.
type Upgrader interface {
	// Self returns what the node knows of itself, and the image that it runs. Busy,
	// Written, Problem and Refusal are left to the Keeper.
	Self() (rollout.Self, rollout.Image, error)
	// Bring writes the image that a request names to the other slot.
	Bring(ctx context.Context, r rollout.Request) error
	// Apply does that too, where the slot holds another one, and restarts into the
	// image if mayRestart returns no error.
	Apply(ctx context.Context, r rollout.Request, mayRestart func(context.Context) error) error
	// Refused reports whether an error of these is not worth another attempt.
	Refused(err error) bool
}

// Keeper answers the requests of one node.
type Keeper struct {
	name           string
	kubelet, admin string // kubeconfigs; admin is "" where the node is no server
	upgrades       Upgrader
	clock          clock.Clock
	log            *slog.Logger

	state  rollout.Self // Busy, Written, Problem and Refusal
	about  string       // the request that Problem and Refusal are about
	untold bool         // the condition and the event of the last answer are still to be written
	ended  chan result
	logged string
}

// result is the end of a verb.
type result struct {
	request rollout.Request
	err     error
}

// New returns a keeper for the node of a name. A server asks for the other servers
// with the credentials of an administrator.
func New(name string, server bool, u Upgrader, log *slog.Logger) *Keeper {
	k := &Keeper{name: name, kubelet: apiserver.KubeletConfig, upgrades: u, clock: clock.New(), log: log, ended: make(chan result, 1)}
	if server {
		k.admin = apiserver.AdminConfig
	}
	return k
}

// Run answers until ctx ends. It needs nothing of the cluster, and no answer of an
// API server ends it.
func (k *Keeper) Run(ctx context.Context) {
	wait := every
	for k.clock.Sleep(ctx, time.Duration((0.75+k.clock.Random()/2)*float64(wait))) {
		err := k.Reconcile(ctx)
		switch {
		case err == nil:
			wait, k.logged = every, ""
		default:
			wait = min(2*wait, longest)
			k.report(err)
		}
	}
}

// report logs an error when it is new. That the API server is away, or does not
// know the node yet, is none: the checks tell of it.
func (k *Keeper) report(err error) {
	quiet := errors.Is(err, apiserver.ErrNotJoined) || errors.Is(err, apiserver.ErrUnreachable) || errors.Is(err, apiserver.ErrNotFound) ||
		errors.Is(err, apiserver.ErrConflict)
	if !quiet && err.Error() != k.logged {
		k.logged = err.Error()
		k.log.Error("answering requests of rollouts", "err", err)
	}
}

// Reconcile looks at the Node once: it writes what the node runs and its answer,
// and begins what was asked for. The errors are those of apiserver.
func (k *Keeper) Reconcile(ctx context.Context) error {
	select {
	case r := <-k.ended:
		k.end(r)
	default:
	}
	c, err := apiserver.Open(k.kubelet)
	if err != nil {
		return err
	}
	n, err := c.Node(ctx, k.name)
	if err != nil {
		return err
	}
	self, image, err := k.upgrades.Self()
	if err != nil {
		return err
	}
	// An annotation that cannot be read is no request: whoever wrote it sees that
	// there is no answer.
	request, requestErr := rollout.DecodeRequest(n.Metadata.Annotations[rollout.RequestKey])
	last, _ := rollout.DecodeAnswer(n.Metadata.Annotations[rollout.AnswerKey])
	if request == nil || request.ID != k.about {
		k.state.Problem, k.state.Refusal, k.about = "", "", ""
	}
	self.Busy, self.Written, self.Problem, self.Refusal = k.state.Busy, k.state.Written, k.state.Problem, k.state.Refusal
	answer, verb := rollout.Answers(request, last, self)
	changed := map[string]string{}
	if text := image.Encode(); n.Metadata.Annotations[rollout.ImageKey] != text {
		changed[rollout.ImageKey] = text
	}
	if answer != nil && (last == nil || *last != *answer) {
		changed[rollout.AnswerKey] = answer.Encode()
	}
	if len(changed) > 0 {
		patch := map[string]any{"metadata": map[string]any{"annotations": changed, "resourceVersion": n.Metadata.ResourceVersion}}
		if _, err := c.Patch(ctx, k.name, patch); err != nil {
			return err
		}
	}
	k.untold = answer != nil && (k.untold || last == nil || last.ID != answer.ID || last.Phase != answer.Phase)
	if k.untold {
		was, _ := n.Condition(rollout.Condition)
		if err := k.tell(ctx, c, was, image, *answer); err != nil {
			return err
		}
		k.untold = false
	}
	if verb != rollout.Nothing {
		k.begin(ctx, verb, *request)
	}
	return requestErr
}

// begin starts a verb. Its end is seen by a later Reconcile.
func (k *Keeper) begin(ctx context.Context, verb rollout.Verb, r rollout.Request) {
	k.state.Busy = true
	k.log.Info("a rollout asks for an image", "verb", string(verb), "image", r.Image)
	go func() {
		var err error
		if verb == rollout.Apply {
			err = k.upgrades.Apply(ctx, r, k.mayRestart)
		} else {
			err = k.upgrades.Bring(ctx, r)
		}
		k.ended <- result{r, err}
	}()
}

// end takes note of how a verb ended.
func (k *Keeper) end(r result) {
	k.state = rollout.Self{Written: k.state.Written}
	k.about = r.request.ID
	switch {
	case r.err == nil:
		k.state.Written = r.request.Digest
	case k.upgrades.Refused(r.err):
		k.state.Refusal = r.err.Error()
	default:
		k.state.Problem = r.err.Error()
	}
	if r.err != nil {
		k.log.Warn("what a rollout asks for failed", "image", r.request.Image, "err", r.err)
	}
}

// errUnsafe is returned where a restart of this server would cost the quorum.
var errUnsafe = errors.New("a restart is not safe now")

// mayRestart asks, with what the API server says at this moment, whether this node
// may restart: a server does not while another one is not well.
func (k *Keeper) mayRestart(ctx context.Context) error {
	if k.admin == "" {
		return nil
	}
	c, err := apiserver.Open(k.admin)
	if err != nil {
		return err
	}
	list, err := c.Nodes(ctx)
	if err != nil {
		return err
	}
	var nodes []rollout.Node
	for i := range list {
		nodes = append(nodes, seen(&list[i]))
	}
	if why := rollout.Unsafe(k.name, nodes); why != "" {
		return fmt.Errorf("%w: %s", errUnsafe, why)
	}
	return nil
}

// seen is a Node as decisions take it.
func seen(n *apiserver.Node) rollout.Node {
	_, server := n.Metadata.Labels[apiserver.ControlPlane]
	ready, _ := n.Condition("Ready")
	// k3s has this condition on members of etcd, and False on those that do not vote
	// yet (k3s-io/k3s, pkg/etcd/etcd.go).
	voter, member := n.Condition("EtcdIsVoter")
	image, _ := rollout.DecodeImage(n.Metadata.Annotations[rollout.ImageKey])
	return rollout.Node{
		Name: n.Metadata.Name, Server: server, Ready: ready.Status == "True", Learner: member && voter.Status != "True", Image: image,
	}
}

// reasons are the phases as conditions and events name them.
var reasons = map[rollout.Phase]string{
	rollout.Bringing: "Bringing", rollout.Brought: "Brought", rollout.Applying: "Applying", rollout.OnTrial: "OnTrial",
	rollout.Committed: "Committed", rollout.Left: "RolledBack", rollout.Refused: "Refused",
}

// tell has the condition of the Node, which was another one before, say how far it
// is, and records an event.
func (k *Keeper) tell(ctx context.Context, c *apiserver.Client, was apiserver.Condition, image rollout.Image, a rollout.Answer) error {
	status, message := "False", a.Reason
	if a.Phase == rollout.Committed {
		status, message = "True", fmt.Sprintf("runs %s %s", image.Stream, image.Release)
	}
	if message == "" {
		message = "asked for by a rollout"
	}
	now := k.clock.Now().UTC().Truncate(time.Second)
	since := now
	if was.Status == status {
		since = was.Since
	}
	err := c.SetCondition(ctx, k.name, apiserver.NewCondition{Type: rollout.Condition, Status: status, Reason: reasons[a.Phase],
		Message: message, Heartbeat: now, Since: since})
	if err != nil {
		return err
	}
	return c.Record(ctx, apiserver.Event{Node: k.name, Warning: a.Phase == rollout.Left || a.Phase == rollout.Refused,
		Reason: "Upgrade" + reasons[a.Phase], Message: message, At: now})
}
