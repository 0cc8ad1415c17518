// Package fleet upgrades several nodes in an order that leaves a cluster
// standing: servers before agents, one server at a time, and no further when
// one of them did not keep the new release.
package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// Run runs a verb of pikeletd on a host. What it prints goes to out.
type Run func(ctx context.Context, host string, out io.Writer, verb ...string) error

// Options say how nodes are upgraded.
type Options struct {
	Verb     []string // of pikeletd: upgrade, its flags, and the image
	Parallel int      // agents at once; servers go one at a time
	Wait     time.Duration
	Poll     time.Duration
	Tell     func(host, text string) // how it goes on, a line each
}

// Result is what became of a host.
type Result struct {
	Host   string `json:"host"`
	Role   string `json:"role,omitempty"` // of its k3s
	Before string `json:"before"`         // the release it ran
	After  string `json:"after,omitempty"`
	// Kept says that it runs what was asked for.
	Kept   bool   `json:"kept"`
	Reason string `json:"reason,omitempty"` // why not
	// Untouched says that it was not its turn: another host failed before.
	Untouched bool `json:"untouched,omitempty"`
}

// Upgrade upgrades hosts. All are asked how they are before the first is
// touched: one that cannot be reached, or is in the middle of another upgrade,
// is an error then. It returns what became of each, in the order they went.
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
	ok := turns(ctx, servers, 1, true, run, o)
	ok = turns(ctx, agents, max(o.Parallel, 1), ok, run, o)
	var ordered []Result
	for _, r := range append(servers, agents...) {
		ordered = append(ordered, *r)
	}
	if !ok {
		return ordered, errors.New("not all nodes run the new release")
	}
	return ordered, nil
}

// ask asks every host how it is.
func ask(ctx context.Context, hosts []string, run Run) ([]Result, error) {
	list, errs := make([]Result, len(hosts)), make([]error, len(hosts))
	var group sync.WaitGroup
	seen := map[string]bool{}
	for i, host := range hosts {
		if seen[host] {
			return nil, fmt.Errorf("%s is named twice", host)
		}
		seen[host] = true
		group.Go(func() {
			s, err := status(ctx, host, run)
			list[i] = Result{Host: host, Role: s.K3s.Role, Before: s.Boot.Release}
			switch {
			case err != nil:
				errs[i] = fmt.Errorf("%s: %w", host, err)
			case s.Boot.Kind == slots.Trial || s.Update.UnderWay():
				errs[i] = fmt.Errorf("%s is in the middle of an upgrade; ask again when it is over", host)
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

// turns upgrades some hosts, so many at once, until one fails; none where ok
// says that others failed before. It returns whether all is well still.
func turns(ctx context.Context, list []*Result, at int, ok bool, run Run, o Options) bool {
	var mu sync.Mutex
	places := make(chan struct{}, at)
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
			one(ctx, r, run, o)
			mu.Lock()
			ok = ok && r.Kept
			mu.Unlock()
		})
	}
	group.Wait()
	return ok && ctx.Err() == nil
}

// one upgrades a host and waits for what becomes of it.
func one(ctx context.Context, r *Result, run Run, o Options) {
	out := &lines{tell: func(text string) { o.Tell(r.Host, text) }}
	err := run(ctx, r.Host, out, o.Verb...)
	out.flush()
	if err != nil && !out.restarting {
		r.After, r.Reason = r.Before, strings.TrimSpace(out.last+": "+err.Error())
		return
	}
	if !out.restarting { // it ran it already
		r.After, r.Kept = r.Before, true
		return
	}
	ctx, stop := context.WithTimeout(ctx, o.Wait)
	defer stop()
	for {
		select {
		case <-ctx.Done():
			r.Reason = fmt.Sprintf("it did not say within %v what became of it; its console and report.txt on its card say more", o.Wait)
			return
		case <-time.After(o.Poll):
		}
		s, err := status(ctx, r.Host, run)
		if err != nil || s.Update == nil || s.Update.UnderWay() {
			continue // it restarts, or is being tried
		}
		r.After, r.Kept, r.Reason = s.Boot.Release, s.Update.Step == slots.Finished, s.Update.Reason
		text := fmt.Sprintf("%s is committed", r.After)
		if !r.Kept {
			text = fmt.Sprintf("%s was left: %s", s.Update.Release, r.Reason)
		}
		o.Tell(r.Host, text)
		return
	}
}

// lines passes on what a host prints, and looks for its last words.
type lines struct {
	tell       func(string)
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
	l.tell(text)
}

func (l *lines) flush() { l.line(string(l.part)) }
