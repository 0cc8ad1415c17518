// Package apply compares the configs of nodes with those of an inventory, and brings
// what differs to them. Each node tries its config: it keeps the config only if it is
// reached again.
package apply

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/diff"

	"github.com/pikelet-os/pikelet/internal/host/remote"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// Node is a node of an inventory.
type Node struct {
	Name   string
	Serial string // of the machine, where the inventory says it
	// At is where the node is now, and after its config as well, unless it is at one of
	// the addresses that the config gives it.
	At        remote.At
	Addresses []string
	Config    *nodeconfig.Config
}

// Options say how configs are brought to nodes.
type Options struct {
	Parallel int           // agents at the same time; servers are one by one
	Trial    time.Duration // how long a node waits to be reached again
	Restart  time.Duration // how long a node may take to restart, or its k3s to be ready
	Poll     time.Duration // between two attempts to reach a node
	Key      []byte        // what digests of secrets are made with: random, and shown to no one
	Log      *slog.Logger
}

// State is how a node is.
type State string

// The states of a node.
const (
	Same        State = "same"        // it keeps the config of the inventory
	Differs     State = "differs"     // it does not, and was not changed
	Applied     State = "applied"     // it has taken the config of the inventory
	RolledBack  State = "rolled back" // it has tried it, and went back
	Failed      State = "failed"      // it did not take it, or is not well with it
	Unreachable State = "unreachable"
	Untouched   State = "untouched" // it differs, and another node failed before its turn
)

// Result says how a node is, and how its config differs from the inventory's.
type Result struct {
	Node   string `json:"node"`
	State  State  `json:"state"`
	Diff   string `json:"diff,omitempty"` // from the node to the inventory, with digests for secrets
	Reason string `json:"reason,omitempty"`

	report node.ConfigReport
	keys   []string
	err    error
	tried  bool
}

// Err returns the error of Reason, with advice.
func (r Result) Err() error { return r.err }

var (
	// ErrDrift is returned where a node's config differs.
	ErrDrift = errors.New("the config of a node differs from the inventory")
	// ErrRolledBack is returned where a node went back to the config before.
	ErrRolledBack = errors.New("a node went back to the config before")
	// ErrIncomplete is returned where nodes could not be compared, or not be given
	// their configs, for another reason.
	ErrIncomplete = errors.New("not all nodes have the config of the inventory")
)

// atOnce is how many nodes are asked for their configs at the same time.
const atOnce = 16

// Compare asks all nodes for their configs. It returns one result a node, in order.
func Compare(ctx context.Context, nodes []Node, run remote.Run, o Options) []Result {
	list := make([]Result, len(nodes))
	each(len(nodes), atOnce, func(i int) { list[i] = compare(ctx, nodes[i], run, o) })
	return list
}

// each calls f for 0 to n-1, at most limit of them at the same time.
func each(n, limit int, f func(i int)) {
	places := make(chan struct{}, max(limit, 1))
	var group sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			f(i)
		})
	}
	group.Wait()
}

func compare(ctx context.Context, n Node, run remote.Run, o Options) Result {
	r := Result{Node: n.Name}
	var err error
	if r.report, err = show(ctx, n.At, run, o); err != nil {
		return r.failed(err)
	}
	wanted, err := n.Config.Compared(o.Key)
	if err != nil {
		return r.failed(err)
	}
	r.State = Same
	if has := remote.Printable(r.report.Config); has != wanted {
		r.State = Differs
		d := diff.Diff(n.Name+" as it is", []byte(has), n.Name+" in the inventory", []byte(wanted))
		_, text, _ := strings.Cut(string(d), "\n") // the command line of a diff
		r.Diff = text
	}
	if r.State == Same && r.report.Pending {
		r.State, r.Reason = Differs, "the node keeps this config, and uses it from its next boot on"
	}
	if t := r.report.Trial; r.State == Same && t != nil && t.Step == node.TrialBegun {
		r.State, r.Reason = Differs, "the node tries this config, and waits for the confirmation"
	}
	r.keys = n.At.Keys
	if r.report.HostKey != "" {
		r.keys = append(r.keys[:len(r.keys):len(r.keys)], r.report.HostKey)
	}
	return r
}

// failed returns the result for an error.
func (r Result) failed(err error) Result {
	r.State, r.err, r.Reason = Failed, err, err.Error()
	if e := (*remote.Error)(nil); errors.As(err, &e) && e.Unreachable() && !r.tried {
		r.State = Unreachable
	}
	return r
}

// show asks a node for its config.
func show(ctx context.Context, at remote.At, run remote.Run, o Options) (node.ConfigReport, error) {
	out, err := run(ctx, at, nil, "config", "show", "--key", fmt.Sprintf("%x", o.Key))
	if e := (*remote.Error)(nil); errors.As(err, &e) && e.Unknown() {
		return node.ConfigReport{}, hint.With(errors.New("the release that the node runs is too old to try configs"),
			"upgrade the node first; or use pikelet node send, which tries nothing, and restart the node")
	}
	if err != nil {
		return node.ConfigReport{}, err
	}
	return node.DecodeConfigReport(out)
}

// Apply brings the config of the inventory to the nodes that differ in list, which
// Compare returned for the same nodes. Servers come first, one by one. Once a node went
// back, or is not well, no further one is touched. list is changed.
func Apply(ctx context.Context, nodes []Node, list []Result, run remote.Run, o Options) {
	var servers, others []int
	for i, r := range list {
		switch {
		case r.State != Differs:
		case nodes[i].Config.K3s.Role == "server":
			servers = append(servers, i)
		default:
			others = append(others, i)
		}
	}
	var mu sync.Mutex
	stopped := ""
	batch := func(which []int, limit int) {
		each(len(which), limit, func(at int) {
			i := which[at]
			mu.Lock()
			why := stopped
			mu.Unlock()
			if why != "" || ctx.Err() != nil {
				list[i].State, list[i].Reason = Untouched, why
				return
			}
			r := applyOne(ctx, nodes[i], list[i], run, o)
			mu.Lock()
			defer mu.Unlock()
			list[i] = r
			if r.tried && r.State != Applied {
				stopped = "because of " + r.Node
			}
		})
	}
	batch(servers, 1)
	batch(others, o.Parallel)
}

// Outcome returns the error that results of Compare, or of Apply, stand for: nil where
// all nodes have the config of the inventory.
func Outcome(list []Result) error {
	var drift, back, incomplete bool
	for _, r := range list {
		switch r.State {
		case Differs:
			drift = true
		case RolledBack:
			back = true
		case Failed, Unreachable, Untouched:
			incomplete = true
		}
	}
	switch {
	case back:
		return ErrRolledBack
	case drift:
		return ErrDrift
	case incomplete:
		return ErrIncomplete
	}
	return nil
}

// applyOne brings a config to a node, and waits until it is confirmed or left.
func applyOne(ctx context.Context, n Node, r Result, run remote.Run, o Options) Result {
	text, err := n.Config.Encode()
	if err != nil {
		return r.failed(err)
	}
	digest := node.ConfigDigest(string(text))
	if r.report.Fixed != "" {
		err := fmt.Errorf("the node keeps no config: %s", r.report.Fixed)
		return r.failed(hint.With(err, "a node without a card has the config of its boot server: change it there, and restart the node"))
	}
	at := n.At
	at.Keys = r.keys
	was := n.Config.K3s.Role != "" && ready(ctx, at, run)
	if t := r.report.Trial; t == nil || t.Step != node.TrialBegun || t.Digest != digest {
		out, err := run(ctx, at, strings.NewReader(string(text)), "config", "try", "--wait", o.Trial.String())
		// The connection may end with the node's shutdown, before pikeletd has ended.
		if !strings.Contains(string(out), node.ConfigRestarting) {
			if err == nil {
				err = errors.New("the node did not say that it restarts")
			}
			return r.failed(err)
		}
		o.Log.Info("restarting with the config", "node", n.Name)
	}
	r.tried = true
	r = await(ctx, n, at, r, digest, run, o)
	if r.State == Applied && was {
		o.Log.Info("waiting for k3s", "node", n.Name)
		if err := awaitReady(ctx, n, at, run, o); err != nil {
			return r.failed(err)
		}
	}
	return r
}

// await waits until a node is reached again, and confirms the config that it tries.
func await(ctx context.Context, n Node, at remote.At, r Result, digest string, run remote.Run, o Options) Result {
	ctx, stop := context.WithTimeout(ctx, o.Trial+o.Restart)
	defer stop()
	last := errors.New("the node was not reached")
	for {
		for _, address := range append([]string{""}, n.Addresses...) {
			at.Address = address
			report, err := show(ctx, at, run, o)
			if err != nil {
				if ctx.Err() == nil {
					last = err
				}
				continue
			}
			switch t := report.Trial; {
			case t == nil && !report.Pending:
				again := compare(ctx, Node{Name: n.Name, At: at, Config: n.Config}, run, o)
				if again.State == Same { // the answer to the confirmation was lost
					r.State, r.Reason = Applied, ""
					return r
				}
				last = errors.New("the node tries no config")
			case t != nil && t.Digest == digest && t.Step == node.TrialLeft:
				r.State, r.Reason = RolledBack, t.Reason
				return r
			case t != nil && t.Digest == digest && t.Step == node.TrialBegun:
				if _, err := run(ctx, at, nil, "config", "confirm", digest); err != nil {
					last = err
					continue
				}
				o.Log.Info("reached again, and confirmed", "node", n.Name)
				r.State, r.Reason = Applied, ""
				return r
			}
			break // it has not restarted yet
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("after %v the config is neither confirmed nor left: %w", o.Trial+o.Restart, last)
			return r.failed(hint.With(err, "the node goes back by itself; its console and report.txt on its card say more"))
		case <-time.After(o.Poll):
		}
	}
}

// ready reports whether a node is ready in its cluster.
func ready(ctx context.Context, at remote.At, run remote.Run) bool {
	out, err := run(ctx, at, nil, "status", "--json")
	if err != nil {
		return false
	}
	s, err := node.DecodeStatus(out)
	return err == nil && s.K3s.Running && s.Cluster != nil && s.Cluster.Ready == "True" && !s.Cluster.BootBefore
}

// awaitReady waits until a node that was ready is so again.
func awaitReady(ctx context.Context, n Node, at remote.At, run remote.Run, o Options) error {
	ctx, stop := context.WithTimeout(ctx, o.Restart)
	defer stop()
	for {
		for _, address := range append([]string{""}, n.Addresses...) {
			at.Address = address
			if ready(ctx, at, run) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("the node keeps the config, and its k3s is not ready after %v, as it was before", o.Restart)
			return hint.Withf(err, "ssh %s doas pikeletd status says why", n.At.Host)
		case <-time.After(o.Poll):
		}
	}
}
