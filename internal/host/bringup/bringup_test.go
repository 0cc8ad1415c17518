package bringup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pikelet-os/pikelet/internal/host/apply"
	"github.com/pikelet-os/pikelet/internal/host/remote"
	"github.com/pikelet-os/pikelet/internal/shared/node"
	"github.com/pikelet-os/pikelet/internal/shared/nodeconfig"
)

// nodes returns nodes of roles, such as first, server, agent or none, in an inventory's
// order.
func nodes(t *testing.T, list ...string) (all []apply.Node) {
	t.Helper()
	for i, role := range list {
		text := map[string]string{
			"first":  "k3s: {role: server, token: t}\n",
			"server": "k3s: {role: server, server: 'https://10.0.0.1:6443', token: t}\n",
			"agent":  "k3s: {role: agent, server: 'https://10.0.0.1:6443', token: t}\n",
			"none":   "console: root\n",
		}[role]
		cfg, err := nodeconfig.Parse("nodes.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint(role, i)
		all = append(all, apply.Node{Name: name, At: remote.At{Host: name}, Config: cfg})
	}
	return all
}

// rack is some nodes, which start when somebody switches them on.
type rack struct {
	sync.Mutex
	on    map[string]time.Time // when they answer; k3s is ready a minute later
	asked []string
}

func (r *rack) run(_ context.Context, at remote.At, _ io.Reader, _ ...string) ([]byte, error) {
	r.Lock()
	defer r.Unlock()
	r.asked = append(r.asked, at.Host)
	on, ok := r.on[at.Host]
	if !ok || time.Now().Before(on) {
		return nil, &remote.Error{Status: 255, Text: "No route to host"}
	}
	s := node.Status{Node: node.Prepared{Hostname: at.Host}, K3s: node.K3sStatus{Role: strings.TrimRight(at.Host, "0123456789")}}
	if s.K3s.Role == "first" {
		s.K3s.Role = "server"
	}
	switch up := time.Since(on); {
	case up < 30*time.Second:
		s.K3s.Says = fmt.Sprintf("no kubelet after %v", up) // which is another one each time
	case up < time.Minute:
		s.K3s.Running, s.Cluster = true, &node.ClusterStatus{Ready: "False", Message: "no network plugin"}
	default:
		s.K3s.Running, s.Cluster = true, &node.ClusterStatus{Ready: "True"}
	}
	return s.Encode()
}

// told records what Up tells.
type told struct {
	missing, lines []string
	first          int
}

func (d *told) options(wait time.Duration, first error) Options {
	return Options{
		Wait: wait, Poll: time.Second,
		Missing: func(list []apply.Node) {
			for _, n := range list {
				d.missing = append(d.missing, n.Name)
			}
		},
		Waits: func(n apply.Node, what string) { d.lines = append(d.lines, strings.TrimSuffix(n.Name+": "+what, " ")) },
		First: func(apply.Node, node.Status) error { d.first++; return first },
	}
}

// TestUp: the first server, then the servers, then the rest; each change is told once.
func TestUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list, err := Order(nodes(t, "none", "agent", "server", "first"))
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		r := &rack{on: map[string]time.Time{
			"first3": now.Add(time.Minute), "server2": now.Add(3 * time.Minute), "agent1": now.Add(10 * time.Second), "none0": now,
		}}
		var d told
		if err := Up(t.Context(), list, r.run, d.options(time.Hour, nil)); err != nil {
			t.Fatal(err)
		}
		want := []string{
			"first3: an answer over ssh: No route to host", "first3: k3s: no kubelet after 0s",
			"first3: Ready, which is False: no network plugin", "first3:",
			"server2: an answer over ssh: No route to host", "server2: k3s: no kubelet after 0s",
			"server2: Ready, which is False: no network plugin", "server2:", "agent1:", "none0:",
		}
		if !slices.Equal(d.lines, want) {
			t.Errorf("it tells\n%s\nwant\n%s", strings.Join(d.lines, "\n"), strings.Join(want, "\n"))
		}
		if !slices.Equal(d.missing, []string{"first3", "server2", "agent1"}) || d.first != 1 {
			t.Errorf("missing %q; the first server was ready %d times", d.missing, d.first)
		}
		// Started again, it finds all as they are.
		d = told{}
		if err := Up(t.Context(), list, r.run, d.options(time.Hour, nil)); err != nil || d.missing != nil || d.first != 1 ||
			!slices.Equal(d.lines, []string{"first3:", "server2:", "agent1:", "none0:"}) {
			t.Errorf("the second time: %v, %+v", err, d)
		}
	})
}

// TestUpEnds: when the time is over, with what is waited for, when it is interrupted, and
// when the kubeconfig cannot be had.
func TestUpEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list, err := Order(nodes(t, "first", "agent"))
		if err != nil {
			t.Fatal(err)
		}
		r := &rack{on: map[string]time.Time{"first0": time.Now()}}
		var d told
		err = Up(t.Context(), list, r.run, d.options(5*time.Minute, nil))
		if !errors.Is(err, ErrTimeout) || err.Error() != "not all nodes are ready after 5m0s: agent1: an answer over ssh: No route to host" {
			t.Errorf("got %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(time.Minute, stop)
		if err := Up(ctx, list, r.run, d.options(time.Hour, nil)); !errors.Is(err, context.Canceled) {
			t.Errorf("interrupted: %v", err)
		}
		broken := errors.New("broken")
		if err := Up(t.Context(), list, r.run, d.options(time.Hour, broken)); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	})
}

// TestWaits: what a node that answers is not ready for.
func TestWaits(t *testing.T) {
	agent := nodes(t, "agent")[0]
	good := func() node.Status {
		return node.Status{Node: node.Prepared{Hostname: "agent0"}, K3s: node.K3sStatus{Role: "agent", Running: true},
			Cluster: &node.ClusterStatus{Ready: "True"}}
	}
	for want, change := range map[string]func(*node.Status){
		"|": func(*node.Status) {},
		"a node of this name|; the one that answers is lab-1":      func(s *node.Status) { s.Node.Hostname = "lab-1" },
		"its config of the inventory|, which pikelet apply brings": func(s *node.Status) { s.K3s.Role = "" },
		"the API server|":                                    func(s *node.Status) { s.Cluster = nil },
		"the API server|: it is away":                        func(s *node.Status) { s.Cluster.Problem = "it is away" },
		"the cluster to notice that the node has restarted|": func(s *node.Status) { s.Cluster.BootBefore = true },
		"Ready, which is Unknown|: silent":                   func(s *node.Status) { s.Cluster.Ready, s.Cluster.Message = "Unknown", "silent" },
		"k3s; check volume|: it is gone: no kubelet": func(s *node.Status) {
			s.K3s.Running, s.K3s.Says = false, "no kubelet"
			s.Checks = []node.Check{{Name: "time", OK: true}, {Name: "kubelet", Says: "the end of a log"}, {Name: "volume", Says: "it is gone"}}
		},
	} {
		s := good()
		change(&s)
		if what, detail := waits(agent, s); what+"|"+detail != want {
			t.Errorf("got %q, %q; want %q", what, detail, want)
		}
	}
}

func TestOrderNeedsOneFirst(t *testing.T) {
	_, err := Order(nodes(t, "server", "agent"))
	if err == nil || !strings.Contains(err.Error(), "no node of the inventory begins a cluster") {
		t.Errorf("got %v", err)
	}
	if _, err := Order(nodes(t, "first", "agent", "first")); err == nil || !strings.Contains(err.Error(), "first0, first2") {
		t.Errorf("got %v", err)
	}
}

// k3sYAML is a kubeconfig as k3s writes it, with data of some cluster.
func k3sYAML(ca string) []byte {
	return []byte(strings.ReplaceAll(`apiVersion: v1
clusters:
- cluster: {certificate-authority-data: CA, server: "https://127.0.0.1:6443"}
  name: default
contexts:
- context: {cluster: default, user: default}
  name: default
current-context: default
kind: Config
users:
- name: default
  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5, exec: {apiVersion: client.authentication.k8s.io/v1, command: rm}}
`, "CA", ca))
}

// TestKubeconfig: the kubeconfig names the cluster's address, runs no program, is for its
// owner alone, and replaces none of another cluster.
func TestKubeconfig(t *testing.T) {
	read := func(ca string) Kubeconfig {
		t.Helper()
		k, err := ReadKubeconfig(k3sYAML(ca))
		if err == nil {
			k, err = k.At("fd00::1")
		}
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	file := filepath.Join(t.TempDir(), "k3s.yaml")
	ours, others := read("b3Vycw=="), read("b3Vyfw==")
	for range 2 { // again: of the same cluster
		if err := ours.Write(file, "attic", false); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(b), "server: https://[fd00::1]:6443") || !strings.Contains(string(b), "client-key-data: a2V5") ||
		!strings.Contains(string(b), "current-context: attic") || strings.Contains(string(b), "exec") {
		t.Errorf("%v: %s", err, b)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := others.Write(file, "cellar", false); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("over another cluster's: %v", err)
	}
	if now, err := os.ReadFile(file); err != nil || string(now) != string(b) {
		t.Errorf("it became %s, %v", now, err)
	}
	if err := others.Write(file, "cellar", true); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(file, []byte("notes of mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ours.Write(file, "attic", false); !errors.Is(err, ErrOtherCluster) {
		t.Errorf("over something else: %v", err)
	}
	for _, text := range []string{"", "pikeletd: no", strings.Replace(string(k3sYAML("b3Vycw==")), "a2V5", "''", 1)} {
		if _, err := ReadKubeconfig([]byte(text)); err == nil {
			t.Errorf("%q is taken for a kubeconfig", text)
		}
	}
}
