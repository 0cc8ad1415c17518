// Package bringup waits for the nodes of an inventory to become a cluster, and says
// at each moment what it waits for. It remembers nothing: how far the nodes are is
// what they say themselves, so that it can be interrupted and started again.
package bringup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/apply"
	"github.com/pikelet-os/pikelet/internal/host/remote"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
)

// Options say how nodes are waited for.
type Options struct {
	Wait time.Duration // for all of them
	Poll time.Duration // between two looks at a node
	// Missing is told once of the nodes that do not answer at the first look.
	Missing func([]apply.Node)
	// Waits is told what a node is waited for, whenever that changes, and with "" when
	// the node is ready. Calls are one after the other.
	Waits func(n apply.Node, what string)
	// First is called once the first server is ready. Its error ends the waiting.
	First func(n apply.Node, s node.Status) error
}

// ErrTimeout is returned where nodes are not ready in time.
var ErrTimeout = errors.New("not all nodes are ready")

// Order returns nodes in the order in which they become a cluster: the server that
// begins it, the servers that join, agents, and nodes without k3s. The error says that
// no server begins the cluster, or that several do.
func Order(nodes []apply.Node) ([]apply.Node, error) {
	rank := func(n apply.Node) int {
		switch k := n.Config.K3s; {
		case k.Role == "server" && k.Server == "":
			return 0
		case k.Role == "server":
			return 1
		case k.Role == "agent":
			return 2
		}
		return 3
	}
	list := slices.Clone(nodes)
	slices.SortStableFunc(list, func(a, b apply.Node) int { return rank(a) - rank(b) })
	var first []string
	for _, n := range list {
		if rank(n) == 0 {
			first = append(first, n.Name)
		}
	}
	switch {
	case len(first) == 0:
		return nil, hint.With(errors.New("no node of the inventory begins a cluster"),
			"give one k3s: {role: server}, without server, and let the others join it")
	case len(first) > 1:
		return nil, hint.With(fmt.Errorf("several nodes begin a cluster of their own: %s", strings.Join(first, ", ")),
			"let all but one join it, with k3s.server")
	}
	return list, nil
}

// state is how far a node is.
type state struct {
	looked        bool
	waits, detail string // as of found
}

func (s state) ready() bool { return s.looked && s.waits == "" }

// phase returns which nodes of an ordered list are waited for at the same time, from the
// first that is not ready on: the first server alone, then the other servers, then the
// rest.
func phase(nodes []apply.Node, states []state) (from, to int) {
	from = slices.IndexFunc(states, func(s state) bool { return !s.ready() })
	if from <= 0 {
		return 0, 1
	}
	to = from
	for to < len(nodes) && (nodes[to].Config.K3s.Role == "server") == (nodes[from].Config.K3s.Role == "server") {
		to++
	}
	return from, to
}

// Up waits until all nodes, in the order of Order, are ready in their cluster. Those
// that have no part in it are waited for until they answer.
func Up(ctx context.Context, nodes []apply.Node, run remote.Run, o Options) error {
	limited, stop := context.WithTimeout(ctx, o.Wait)
	defer stop()
	states := make([]state, len(nodes))
	from, to := 0, len(nodes) // at first all, to name those that are missing
	for {
		found := lookAt(limited, nodes[from:to], run)
		if err := ctx.Err(); err != nil {
			return err
		}
		if limited.Err() != nil {
			return timeout(nodes, states, o.Wait)
		}
		if !states[0].looked {
			nameMissing(nodes, found, o)
		}
		for i, f := range found {
			if from+i > 0 && !states[0].ready() { // the first server is what they wait for
				break
			}
			if err := note(nodes[from+i], from+i == 0, f, &states[from+i], o); err != nil {
				return err
			}
		}
		if !slices.ContainsFunc(states, func(s state) bool { return !s.ready() }) {
			return nil
		}
		from, to = phase(nodes, states)
		select {
		case <-limited.Done():
		case <-time.After(o.Poll):
		}
	}
}

func nameMissing(nodes []apply.Node, list []found, o Options) {
	var missing []apply.Node
	for i, f := range list {
		if f.missing {
			missing = append(missing, nodes[i])
		}
	}
	if len(missing) > 0 {
		o.Missing(missing)
	}
}

// note takes down how a node was found, and tells of what changed.
func note(n apply.Node, first bool, f found, s *state, o Options) error {
	told := s.looked && f.waits == s.waits
	*s = state{true, f.waits, f.detail}
	if told {
		return nil
	}
	o.Waits(n, f.waits+f.detail)
	if first && s.ready() {
		return o.First(n, f.status)
	}
	return nil
}

// timeout returns the error that names what is still waited for.
func timeout(nodes []apply.Node, states []state, wait time.Duration) error {
	var list []string
	for i, n := range nodes {
		switch s := states[i]; {
		case s.ready():
		case !s.looked:
			list = append(list, n.Name+": not its turn yet")
		default:
			list = append(list, n.Name+": "+s.waits+s.detail)
		}
	}
	return hint.With(fmt.Errorf("%w after %v: %s", ErrTimeout, wait, strings.Join(list, "; ")), "the same command goes on from here")
}

// found is how a node is.
type found struct {
	waits   string // what it is not ready for; "" where it is
	detail  string // more of it, which may be another at each look, such as the end of a log
	missing bool
	status  node.Status
}

// atOnce is how many nodes are looked at at the same time.
const atOnce = 16

func lookAt(ctx context.Context, nodes []apply.Node, run remote.Run) []found {
	list := make([]found, len(nodes))
	places := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i, n := range nodes {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			list[i] = lookAtOne(ctx, n, run)
		})
	}
	group.Wait()
	return list
}

func lookAtOne(ctx context.Context, n apply.Node, run remote.Run) found {
	out, err := run(ctx, n.At, nil, "status", "--json")
	if err != nil {
		return found{waits: "an answer over ssh", detail: ": " + err.Error(), missing: true}
	}
	s, err := node.DecodeStatus(out)
	if err != nil {
		return found{waits: err.Error()}
	}
	what, detail := waits(n, s)
	return found{waits: remote.Printable(what), detail: remote.Printable(detail), status: s}
}

// waits returns what a node that answers is not ready for, and details that may be
// others at each look.
func waits(n apply.Node, s node.Status) (what, detail string) {
	role := n.Config.K3s.Role
	name, because := "", ""
	for _, c := range s.Checks {
		if !c.OK && c.Name != "kubelet" && c.Name != "node" { // which say what k3s and the cluster say
			name, because = "; check "+c.Name, ": "+c.Says
			break
		}
	}
	switch {
	case role == "":
		return "", ""
	case s.Node.Hostname != n.Name:
		return "a node of this name", "; the one that answers is " + s.Node.Hostname
	case s.K3s.Role != role:
		return "its config of the inventory", ", which pikelet apply brings"
	case !s.K3s.Running:
		return "k3s" + name, because + ": " + s.K3s.Says
	case s.Cluster == nil || s.Cluster.Problem != "":
		if s.Cluster != nil {
			because += ": " + s.Cluster.Problem
		}
		return "the API server" + name, because
	case s.Cluster.BootBefore:
		return "the cluster to notice that the node has restarted", ""
	case s.Cluster.Ready != "True":
		return "Ready, which is " + s.Cluster.Ready + name, because + ": " + s.Cluster.Message
	}
	return "", ""
}
