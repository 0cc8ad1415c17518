package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/slots"
)

// pi is a node that does as it is told.
type pi struct {
	role     string
	release  string
	update   *slots.Update
	kind     slots.Kind
	away     int    // how often it cannot be reached, from its upgrade on
	leaves   string // why it leaves the new release
	refuses  string // why it takes none
	forever  bool   // it never comes back
	upgrades int
}

// rack is some nodes.
type rack struct {
	sync.Mutex
	nodes map[string]*pi
	order []string
	now   int // nodes that are being upgraded
	most  int
}

func (r *rack) run(ctx context.Context, host string, out io.Writer, verb ...string) error {
	r.Lock()
	defer r.Unlock()
	p := r.nodes[host]
	if p == nil {
		return errors.New("ssh: Host key verification failed")
	}
	switch verb[0] {
	case "upgrade":
		p.upgrades++
		if p.refuses != "" {
			fmt.Fprintln(out, "pikeletd: "+p.refuses)
			return errors.New("exit status 1")
		}
		if p.release == "1.3" {
			fmt.Fprintln(out, "release 1.3 is what this node runs")
			return nil
		}
		r.order = append(r.order, host)
		r.now++
		r.most = max(r.most, r.now)
		fmt.Fprint(out, "lab 1.3 is good, and goes to slot b\n"+node.Restarting("1.3"))
		p.update, p.away = &slots.Update{Step: slots.Armed, Release: "1.3"}, 3
		return errors.New("exit status 255: Connection closed by remote host")
	case "status":
		if p.away > 0 || p.forever && p.upgrades > 0 {
			p.away--
			return errors.New("no route to host")
		}
		if p.update != nil && p.update.Step == slots.Armed && p.upgrades > 0 {
			r.now--
			p.update.Step, p.release = slots.Finished, "1.3"
			if p.leaves != "" {
				p.update.Step, p.update.Reason, p.release = slots.Left, p.leaves, "1.2"
			}
		}
		s := node.Status{Boot: node.Boot{Release: p.release, Kind: p.kind}, K3s: node.K3sStatus{Role: p.role}, Update: p.update}
		b, err := s.Encode()
		if err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	}
	return fmt.Errorf("no verb %q", verb)
}

func newRack() *rack {
	r := &rack{nodes: map[string]*pi{}}
	for _, name := range []string{"agent1", "agent2", "agent3", "agent4"} {
		r.nodes[name] = &pi{role: "agent", release: "1.2"}
	}
	for _, name := range []string{"server1", "server2", "server3"} {
		r.nodes[name] = &pi{role: "server", release: "1.2"}
	}
	return r
}

func (r *rack) upgrade(parallel int, hosts ...string) ([]Result, error) {
	if len(hosts) == 0 {
		hosts = []string{"agent1", "server1", "agent2", "server2", "agent3", "server3", "agent4"}
	}
	return Upgrade(context.Background(), hosts, r.run, Options{
		Verb: []string{"upgrade", "registry/lab:1.3"}, Parallel: parallel, Wait: 2 * time.Second, Poll: time.Millisecond,
		Output: func(string) io.Writer { return io.Discard }, Log: slog.New(slog.DiscardHandler),
	})
}

// TestServersFirst: one server after the other, in the order given, then the
// agents.
func TestServersFirst(t *testing.T) {
	r := newRack()
	list, err := r.upgrade(0)
	if err != nil || len(list) != 7 {
		t.Fatalf("%v %+v", err, list)
	}
	for _, x := range list {
		if !x.Kept || x.Before != "1.2" || x.After != "1.3" {
			t.Errorf("%+v", x)
		}
	}
	if want := "server1 server2 server3 agent1 agent2 agent3 agent4"; strings.Join(r.order, " ") != want || r.most != 1 {
		t.Errorf("they went %v, %d at once", r.order, r.most)
	}
}

// TestAgentsInParallel: agents go at once, as many as were asked for; servers never.
func TestAgentsInParallel(t *testing.T) {
	r := newRack()
	if _, err := r.upgrade(3); err != nil {
		t.Fatal(err)
	}
	if r.most != 3 || slices.Contains(r.order[:3], "agent1") {
		t.Errorf("%d at once, in the order %v", r.most, r.order)
	}
}

// TestUpgradeStopsAtFailure: what was left, refused or never came back ends it there.
func TestUpgradeStopsAtFailure(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*rack)
		went  string
		want  string
		is    error
	}{
		"left": {func(r *rack) { r.nodes["server2"].leaves = "after 10m: volume: waits" }, "server1 server2", "after 10m: volume: waits",
			ErrRolledBack},
		"refused": {func(r *rack) { r.nodes["server2"].refuses = "this node is not well" }, "server1",
			"pikeletd: this node is not well: exit status 1", ErrIncomplete},
		"gone": {func(r *rack) { r.nodes["server2"].forever = true }, "server1 server2",
			"timed out after 2s waiting for the upgrade result", ErrIncomplete},
		"an agent": {func(r *rack) { r.nodes["agent2"].leaves = "a check" }, "server1 server2 server3 agent1 agent2", "a check", ErrRolledBack},
		"runs it":  {func(r *rack) { r.nodes["server2"].release = "1.3" }, "server1 server3 agent1 agent2 agent3 agent4", "", nil},
		"was before": {func(r *rack) { r.nodes["server2"].update = &slots.Update{Step: slots.Left, Reason: "old"} },
			"server1 server2 server3 agent1 agent2 agent3 agent4", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRack()
			c.spoil(r)
			list, err := r.upgrade(1)
			if !errors.Is(err, c.is) || (err != nil) != (c.want != "") || strings.Join(r.order, " ") != c.went {
				t.Errorf("they went %v: %v", r.order, err)
			}
			reasons, untouched := "", 0
			for _, x := range list {
				reasons += x.Reason
				if x.Untouched {
					untouched++
				}
			}
			if reasons != c.want && !strings.Contains(reasons, c.want) {
				t.Errorf("the reasons are %q, want %q", reasons, c.want)
			}
			if c.want == "" && untouched != 0 || c.want != "" && untouched == 0 {
				t.Errorf("%d were not touched", untouched)
			}
		})
	}
}

// TestUpgradeRefusesBusyHosts where one of the hosts is not who it should be, is busy, or
// is named twice.
func TestUpgradeRefusesBusyHosts(t *testing.T) {
	r := newRack()
	r.nodes["agent2"].kind = slots.Trial
	r.nodes["agent3"].update = &slots.Update{Step: slots.Armed}
	_, err := r.upgrade(1, "server1", "stranger", "agent2", "agent3")
	for _, want := range []string{"stranger: ssh: Host key verification failed", "agent2 is in the middle", "agent3 is in the middle"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if _, err := r.upgrade(1, "server1", "server1"); err == nil || !strings.Contains(err.Error(), `duplicate host "server1"`) {
		t.Errorf("twice: %v", err)
	}
	if len(r.order) != 0 {
		t.Errorf("%v were upgraded", r.order)
	}
}
