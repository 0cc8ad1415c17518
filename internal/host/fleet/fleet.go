// Package fleet upgrades several nodes in an order that keeps a cluster
// available: servers before agents, one server at a time, and no further once a
// node does not keep the new release.
package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Run runs a subcommand of pikeletd on a host, and writes its output to out.
type Run func(ctx context.Context, host string, out io.Writer, verb ...string) error

// Options say how nodes are upgraded.
type Options struct {
	Verb     []string      // of pikeletd: upgrade, its flags, and the image
	Parallel int           // agents at the same time; servers are upgraded one by one
	Wait     time.Duration // for a host to commit the release or to roll back
	Poll     time.Duration // between two requests for the status of a host
	// Output returns the writer for the output of a host, which gets whole lines.
	// The writers must be safe for concurrent use.
	Output func(host string) io.Writer
	Log    *slog.Logger
}

// Result is the outcome of the upgrade of a host.
type Result struct {
	Host   string `json:"host"`
	Role   string `json:"role,omitempty"`   // of its k3s
	Before string `json:"before"`           // the release that it ran
	After  string `json:"after,omitempty"`  // the release that it runs
	Kept   bool   `json:"kept"`             // it runs the new release
	Reason string `json:"reason,omitempty"` // why not
	// RolledBack reports that it tried the new release and returned to its own.
	RolledBack bool `json:"rolledBack,omitempty"`
	// Untouched reports that another host failed before its turn.
	Untouched bool `json:"untouched,omitempty"`
}

var (
	// ErrRolledBack is returned where a host tried the new release and returned
	// to the one before.
	ErrRolledBack = errors.New("a node rolled back to the release before")
	// ErrIncomplete is returned where a host does not run the new release for
	// another reason.
	ErrIncomplete = errors.New("not all nodes run the new release")
)

// Upgrade upgrades hosts. All are asked for their status before the first is
// touched: a host that cannot be reached, or is in the middle of another
// upgrade, is an error then. It returns the outcome of each host in the order
// of the upgrades, and ErrRolledBack or ErrIncomplete where one does not run the
// new release.
func Upgrade(ctx context.Context, hosts []string, run Run, o Options) ([]Result, error) {
	list, err := ask(ctx, hosts, run)
	if err != nil {
		return nil, err
	}
	var servers, agents []*Result
	for i := range list {
		if list[i].Role == "server" {
			servers = append(servers, &list[i])
		} else {
			agents = append(agents, &list[i])
		}
	}
	ok := upgradeBatch(ctx, servers, 1, true, run, o)
	ok = upgradeBatch(ctx, agents, max(o.Parallel, 1), ok, run, o)
	var ordered []Result
	rolledBack := false
	for _, r := range append(servers, agents...) {
		ordered = append(ordered, *r)
		rolledBack = rolledBack || r.RolledBack
	}
	switch {
	case ok:
		return ordered, nil
	case rolledBack:
		return ordered, ErrRolledBack
	}
	return ordered, ErrIncomplete
}

// ask asks every host for its status.
func ask(ctx context.Context, hosts []string, run Run) ([]Result, error) {
	list, errs := make([]Result, len(hosts)), make([]error, len(hosts))
	var group sync.WaitGroup
	seen := map[string]bool{}
	for i, host := range hosts {
		if seen[host] {
			return nil, fmt.Errorf("duplicate host %q", host)
		}
		seen[host] = true
		group.Go(func() {
			s, err := status(ctx, host, run)
			list[i] = Result{Host: host, Role: s.K3s.Role, Before: s.Boot.Release}
			switch {
			case err != nil:
				errs[i] = fmt.Errorf("%s: %w", host, err)
			case s.Boot.Kind == slots.Trial || s.Update.UnderWay():
				errs[i] = hint.With(fmt.Errorf("%s is in the middle of an upgrade", host), "try again when it is over")
			}
		})
	}
	group.Wait()
	return list, errors.Join(errs...)
}

// status asks a host for pikeletd's status.
func status(ctx context.Context, host string, run Run) (node.Status, error) {
	var out bytes.Buffer
	if err := run(ctx, host, &out, "status", "--json"); err != nil {
		return node.Status{}, err
	}
	return node.DecodeStatus(out.Bytes())
}

// upgradeBatch upgrades hosts, at most n at the same time, and stops after the
// first failure. ok is false where another batch failed before: then no host is
// touched. It reports whether all hosts run the new release.
func upgradeBatch(ctx context.Context, list []*Result, n int, ok bool, run Run, o Options) bool {
	var mu sync.Mutex
	places := make(chan struct{}, n)
	var group sync.WaitGroup
	for _, r := range list {
		places <- struct{}{}
		mu.Lock()
		stop := !ok || ctx.Err() != nil
		mu.Unlock()
		if stop {
			r.Untouched, r.After = true, r.Before
			<-places
			continue
		}
		group.Go(func() {
			defer func() { <-places }()
			upgradeOne(ctx, r, run, o)
			mu.Lock()
			ok = ok && r.Kept
			mu.Unlock()
		})
	}
	group.Wait()
	return ok && ctx.Err() == nil
}

// upgradeOne upgrades a host and waits until it has committed the release or
// rolled back.
func upgradeOne(ctx context.Context, r *Result, run Run, o Options) {
	out := &lines{to: o.Output(r.Host)}
	err := run(ctx, r.Host, out, o.Verb...)
	out.flush()
	if err != nil && !out.restarting {
		r.After, r.Reason = r.Before, strings.TrimSpace(out.last+": "+err.Error())
		return
	}
	if !out.restarting { // it ran the release already
		r.After, r.Kept = r.Before, true
		return
	}
	ctx, stop := context.WithTimeout(ctx, o.Wait)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			r.Reason = fmt.Sprintf("timed out after %v waiting for the upgrade result", o.Wait)
			o.Log.Warn("no upgrade result", "host", r.Host, "hint", "see the console of the node, or report.txt on its card")
			return
		case <-time.After(o.Poll):
		}
		s, err := status(ctx, r.Host, run)
		if err != nil || s.Update == nil || s.Update.UnderWay() {
			continue // it restarts, or the trial goes on
		}
		r.After, r.Kept, r.Reason = s.Boot.Release, s.Update.Step == slots.Finished, s.Update.Reason
		if r.RolledBack = !r.Kept; r.RolledBack {
			o.Log.Warn("rolled back", "host", r.Host, "release", s.Update.Release, "reason", r.Reason)
		} else {
			o.Log.Info("committed", "host", r.Host, "release", r.After)
		}
		return
	}
}

// lines passes on the lines that a host prints, and remembers the last one.
type lines struct {
	to         io.Writer
	part       []byte
	last       string
	restarting bool
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.part = append(l.part, b...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.line(string(l.part[:i]))
		l.part = l.part[i+1:]
	}
}

func (l *lines) line(text string) {
	if text = strings.TrimSpace(text); text == "" {
		return
	}
	if _, ok := node.ParseHint(text); !ok {
		l.last = text
	}
	_, restarting := node.ParseRestarting(text)
	l.restarting = l.restarting || restarting
	fmt.Fprintln(l.to, text)
}

func (l *lines) flush() { l.line(string(l.part)) }
