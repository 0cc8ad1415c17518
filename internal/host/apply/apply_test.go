package apply

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

	"github.com/pikelet-os/pikelet/internal/host/remote"
	"github.com/pikelet-os/pikelet/internal/shared/hint"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// pi is a node that keeps and tries configs as pikeletd does.
type pi struct {
	kept      string
	trial     node.ConfigTrial
	fixed     string
	moved     string // the only address at which it is reached while it tries a config
	away      int    // how often it is not reached, from its restart on
	lost      bool   // what it tries cannot be reached: it goes back
	dead      bool   // it never comes back
	old       bool   // its pikeletd knows no trials
	refuses   string
	unready   bool // its k3s is not ready after the trial
	deaf      bool // the answer to the confirmation gets lost
	tries     int
	confirmed int
}

// rack is some nodes.
type rack struct {
	sync.Mutex
	nodes     map[string]*pi
	order     []string
	now, most int
	servers   int                 // that are being changed at the same time, at most
	keys      map[string][]string // the host keys it was asked with last
}

var errAway = &remote.Error{Status: 255, Text: "connect to host: No route to host"}

func (r *rack) run(_ context.Context, at remote.At, stdin io.Reader, verb ...string) ([]byte, error) {
	r.Lock()
	defer r.Unlock()
	p := r.nodes[at.Host]
	if p == nil || p.dead && p.tries > 0 {
		return nil, errAway
	}
	trying := p.trial.Step == node.TrialBegun
	if p.away > 0 || trying && p.lost {
		if p.away--; p.away < -3 && p.lost { // its time is over
			p.trial.Step, p.trial.Reason, p.trial.Config = node.TrialLeft, "it was not confirmed within 5m0s", ""
			r.now--
		}
		return nil, errAway
	}
	if trying && at.Address != p.moved || !trying && at.Address != "" {
		return nil, errAway
	}
	r.keys[at.Host] = at.Keys
	switch strings.Join(verb[:min(2, len(verb))], " ") {
	case "status --json":
		s := node.Status{K3s: node.K3sStatus{Running: true}, Cluster: &node.ClusterStatus{Ready: "True"}}
		if p.unready && p.tries > 0 {
			s.Cluster.Ready = "False"
		}
		return s.Encode()
	case "config show":
		if p.old {
			return nil, &remote.Error{Status: 2, Text: "unknown flag: --key"}
		}
		return p.show(verb[3])
	case "config try":
		text, err := io.ReadAll(stdin)
		if err != nil || p.refuses != "" {
			return nil, &remote.Error{Status: 1, Text: p.refuses}
		}
		p.tries, p.away = p.tries+1, 2
		p.trial = node.ConfigTrial{Step: node.TrialBegun, Digest: node.ConfigDigest(string(text)), Seconds: 300, Config: string(text)}
		r.order, r.now = append(r.order, at.Host), r.now+1
		r.most = max(r.most, r.now)
		if strings.HasPrefix(at.Host, "server") {
			r.servers = max(r.servers, r.now)
		}
		return []byte(node.ConfigRestarting + "\n"), &remote.Error{Status: 255, Text: "Connection closed"}
	case "config confirm":
		if !trying || verb[2] != p.trial.Digest {
			return nil, &remote.Error{Status: 1, Text: "the node tries no config"}
		}
		p.kept, p.trial, p.confirmed = p.trial.Config, node.ConfigTrial{}, p.confirmed+1
		p.moved = ""
		r.now--
		if p.deaf {
			return nil, errAway
		}
		return []byte("confirmed\n"), nil
	}
	return nil, fmt.Errorf("no verb %q", verb)
}

func (p *pi) show(key string) ([]byte, error) {
	report := node.ConfigReport{Source: node.FromState, Fixed: p.fixed, HostKey: "ssh-ed25519 AAAA"}
	text := p.kept
	if p.trial.Step != "" {
		t := p.trial
		if t.Step == node.TrialBegun {
			text = t.Config
		}
		t.Config = ""
		report.Trial = &t
	}
	cfg, err := nodeconfig.Parse("node.yaml", []byte(text))
	if err != nil {
		return nil, err
	}
	var raw []byte
	fmt.Sscanf(key, "%x", &raw)
	if report.Config, err = cfg.Compared(raw); err != nil {
		return nil, err
	}
	return report.Encode()
}

const (
	before = "k3s: {role: %s, token: tok-en-of-before, server: 'https://10.0.0.1:6443'}\nnetwork: {dns: [10.0.0.1]}\n"
	after  = "k3s: {role: %s, token: tok-en-of-after, server: 'https://10.0.0.1:6443'}\nnetwork: {dns: [10.0.0.2]}\n"
)

// cluster returns two servers and three agents that differ from their inventory.
func cluster(t *testing.T) (*rack, []Node) {
	t.Helper()
	r := &rack{nodes: map[string]*pi{}, keys: map[string][]string{}}
	var list []Node
	for _, name := range []string{"agent1", "server1", "agent2", "server2", "agent3"} {
		role := strings.TrimRight(name, "123")
		r.nodes[name] = &pi{kept: fmt.Sprintf(before, role)}
		cfg, err := nodeconfig.Parse("nodes.yaml", []byte(fmt.Sprintf(after, role)))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, Node{Name: name, At: remote.At{Host: name}, Config: cfg})
	}
	return r, list
}

var options = Options{
	Parallel: 2, Trial: 500 * time.Millisecond, Restart: 500 * time.Millisecond, Poll: time.Millisecond, Key: []byte("key"),
	Log: slog.New(slog.DiscardHandler),
}

func (r *rack) apply(nodes []Node) []Result {
	list := Compare(context.Background(), nodes, r.run, options)
	Apply(context.Background(), nodes, list, r.run, options)
	return list
}

func states(list []Result) (s []string) {
	for _, r := range list {
		s = append(s, string(r.State))
	}
	return s
}

// TestCompare: what differs is shown, secrets are not, and nothing is changed. Nodes
// that are not reached are named.
func TestCompare(t *testing.T) {
	r, nodes := cluster(t)
	same, err := nodes[1].Config.Encode()
	if err != nil {
		t.Fatal(err)
	}
	r.nodes["server1"].kept = string(same)
	r.nodes["agent2"] = nil
	r.nodes["server2"].old = true
	list := Compare(t.Context(), nodes, r.run, options)
	if got, want := states(list), []string{"differs", "same", "unreachable", "failed", "differs"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, want := range []string{"--- agent1 as it is\n+++ agent1 in the inventory\n", "\n-    - 10.0.0.1\n+    - 10.0.0.2\n",
		"\n-  token: (secret, digest ", "\n+  token: (secret, digest "} {
		if !strings.Contains(list[0].Diff, want) {
			t.Errorf("no %q in\n%s", want, list[0].Diff)
		}
	}
	if strings.Contains(list[0].Diff, "tok-en") {
		t.Errorf("a secret is shown:\n%s", list[0].Diff)
	}
	if h := hint.Of(list[3].Err()); len(h) != 1 || !strings.Contains(h[0], "upgrade the node first") {
		t.Errorf("of an old pikeletd: %v, %q", list[3].Err(), h)
	}
	if len(r.order) != 0 || !errors.Is(Outcome(list), ErrDrift) {
		t.Errorf("a comparison changes %q, and ends with %v", r.order, Outcome(list))
	}
	if err := Outcome(list[1:4]); !errors.Is(err, ErrIncomplete) {
		t.Errorf("unreachable nodes alone: %v", err)
	}
	if err := Outcome(list[1:2]); err != nil {
		t.Errorf("a node with the config of the inventory: %v", err)
	}
	options := options
	options.Key = []byte("another key")
	if again := Compare(t.Context(), nodes[:1], r.run, options); again[0].Diff == list[0].Diff {
		t.Error("the digests of secrets do not depend on the key")
	}
}

// TestApplyServersFirst: servers one by one, then agents, as many at a time as
// wanted; all are confirmed. Unreachable nodes keep no other from its config.
func TestApplyServersFirst(t *testing.T) {
	r, nodes := cluster(t)
	nodes = append(nodes, Node{Name: "gone", At: remote.At{Host: "gone"}, Config: nodes[0].Config})
	r.nodes["agent3"].deaf = true
	list := r.apply(nodes)
	if got, want := states(list), []string{"applied", "applied", "applied", "applied", "applied", "unreachable"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: %+v", got, want, list)
	}
	if len(r.order) != 5 || !slices.Equal(r.order[:2], []string{"server1", "server2"}) || r.most > 2 || r.servers > 1 {
		t.Errorf("the order was %q, %d at a time, %d servers", r.order, r.most, r.servers)
	}
	for name, p := range r.nodes {
		if p.confirmed != 1 || !strings.Contains(p.kept, "tok-en-of-after") {
			t.Errorf("%s: confirmed %d times, keeps %s", name, p.confirmed, p.kept)
		}
	}
	if err := Outcome(list); !errors.Is(err, ErrIncomplete) {
		t.Errorf("got %v", err)
	}
	if keys := r.keys["agent1"]; !slices.Equal(keys, []string{"ssh-ed25519 AAAA"}) {
		t.Errorf("a node is reached again with the host keys %q", keys)
	}
}

// TestApplyAtNewAddress: a node that moves is confirmed where its new config puts it.
func TestApplyAtNewAddress(t *testing.T) {
	r, nodes := cluster(t)
	r.nodes["server1"].moved, nodes[1].Addresses = "10.0.0.7", []string{"10.0.0.6", "10.0.0.7"}
	if list := r.apply(nodes[1:2]); list[0].State != Applied {
		t.Errorf("%+v", list)
	}
}

// TestApplyStops: after a node that goes back, never comes back, or is not ready any
// more, no further one is touched.
func TestApplyStops(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*pi)
		state  State
		reason string
		err    error
	}{
		"goes back":        {func(p *pi) { p.lost = true }, RolledBack, "it was not confirmed within 5m0s", ErrRolledBack},
		"dies":             {func(p *pi) { p.dead = true }, Failed, "neither confirmed nor left: connect to host", ErrIncomplete},
		"not ready":        {func(p *pi) { p.unready = true }, Failed, "its k3s is not ready after", ErrIncomplete},
		"refuses it":       {func(p *pi) { p.refuses = "want lower-case letters" }, Failed, "want lower-case letters", nil},
		"keeps no configs": {func(p *pi) { p.fixed = "this node has no card" }, Failed, "this node has no card", nil},
	} {
		t.Run(what, func(t *testing.T) {
			r, nodes := cluster(t)
			c.change(r.nodes["server1"])
			list := r.apply(nodes)
			if list[1].State != c.state || !strings.Contains(list[1].Reason, c.reason) {
				t.Errorf("%+v", list[1])
			}
			if c.err == nil { // the node was not changed, and the others are none the worse
				want := []string{"applied", "failed", "applied", "applied", "applied"}
				if got := states(list); len(r.order) != 4 || !slices.Equal(got, want) {
					t.Errorf("%q were changed: %q", r.order, got)
				}
				return
			}
			if got := states(list); len(r.order) != 1 || got[0] != "untouched" || got[3] != "untouched" || !errors.Is(Outcome(list), c.err) {
				t.Errorf("%q were changed: %q, %v", r.order, got, Outcome(list))
			}
		})
	}
}

// TestApplyResumes: a node whose trial goes on since an interrupted run is confirmed,
// and not restarted once more.
func TestApplyResumes(t *testing.T) {
	r, nodes := cluster(t)
	text, err := nodes[0].Config.Encode()
	if err != nil {
		t.Fatal(err)
	}
	p := r.nodes["agent1"]
	p.trial = node.ConfigTrial{Step: node.TrialBegun, Digest: node.ConfigDigest(string(text)), Seconds: 300, Config: string(text)}
	if list := r.apply(nodes[:1]); list[0].State != Applied || p.tries != 0 || p.confirmed != 1 {
		t.Errorf("%+v, tried %d times, confirmed %d times", list, p.tries, p.confirmed)
	}
}
