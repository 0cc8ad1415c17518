package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
)

// desk is a computer from which simulated nodes are reached.
type desk struct {
	t   *testing.T
	dir string
}

func newDesk(t *testing.T, s *simulated) desk {
	t.Helper()
	d := desk{t, t.TempDir()}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	write(t, d.dir+"/age.key", key.String()+"\n", 0o600)
	write(t, d.dir+"/bin/ssh", "#!/bin/sh\nBE_SSH_IN="+d.dir+" exec "+os.Args[0]+" \"$@\"\n", 0o755)
	d.set(s)
	return d
}

func (d desk) set(s *simulated) {
	d.t.Helper()
	if err := s.save(d.dir); err != nil {
		d.t.Fatal(err)
	}
}

// move runs pikelet move server attic loft.
func (d desk) move(args ...string) (string, int) {
	d.t.Helper()
	args = append([]string{"move", "server", "attic", "loft", "--identity", "age.key", "--wait", "1s", "--follow", "1ms"}, args...)
	return pikelet(d.t, d.dir, []string{"PATH=" + d.dir + "/bin:" + os.Getenv("PATH")}, args...)
}

// moved checks that a move came to its end.
func (d desk) moved(what string) {
	d.t.Helper()
	s := readSimulated(d.dir)
	old, new := s.Nodes["attic"], s.Nodes["loft"]
	if old.Running != "" || old.Moved == nil || new.Running != ours || new.Moved != nil || !new.Has(old.Moved.ID) || s.Twice {
		d.t.Errorf("%s: twice %v, old %+v, new %+v", what, s.Twice, old, new)
	}
	if !slices.Equal(new.Aside, []string{fresh}) {
		d.t.Errorf("%s: put aside %q, want %q", what, new.Aside, fresh)
	}
}

// TestMoveThroughCuts: a move is cut off in each call of ssh, in each way; the same
// command again ends it, and at no moment two servers run.
func TestMoveThroughCuts(t *testing.T) {
	s := newSimulated()
	s.Agents = "loft" // a name that leads there by then
	d := newDesk(t, s)
	if out, status := d.move("--replace"); status != 0 {
		t.Fatalf("without a cut: status %d: %s", status, out)
	}
	d.moved("without a cut")
	calls := readSimulated(d.dir).Calls
	t.Logf("%d calls: %q", calls, readSimulated(d.dir).Log)
	first, ways := 1, []cutting{before, middle, after, restart}
	if testing.Short() { // the calls that change something, in the ways that leave most behind
		first, calls, ways = 3, 5, []cutting{middle, restart}
	}
	for n := first; n <= calls; n++ {
		for _, c := range ways {
			s := newSimulated()
			s.Agents, s.CutAt, s.Cut = "loft", n, c
			d := newDesk(t, s)
			what := fmt.Sprintf("call %d cut off, %s", n, c)
			out, status := d.move("--replace")
			for i := 0; status != 0 && i < 2; i++ {
				out, status = d.move("--replace")
			}
			if status != 0 {
				t.Errorf("%s: status %d: %s", what, status, out)
			}
			d.moved(what)
		}
	}
}

// TestMoveRefuses: all that keeps a move from being begun is said, and nothing is
// changed.
func TestMoveRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(old, new *simNode)
		want   string
	}{
		"a server of its own":      {func(_, _ *simNode) {}, "--replace puts it aside"},
		"no role":                  {func(_, new *simNode) { new.Role = "agent" }, "no k3s.role: server"},
		"no server":                {func(old, _ *simNode) { old.Cluster = "" }, "attic has no k3s server"},
		"etcd":                     {func(old, _ *simNode) { old.Etcd = true }, "is etcd's"},
		"one name":                 {func(_, new *simNode) { new.Node = "attic" }, "both called attic"},
		"an older Kubernetes":      {func(_, new *simNode) { new.K3s = "v1.33.9+k3s1" }, "upgrade loft first"},
		"too little space":         {func(_, new *simNode) { new.Free = 1e6 }, "too little space"},
		"the same cluster already": {func(_, new *simNode) { new.Cluster = ours }, "a server of the same cluster"},
		"a move to another node": {func(old, _ *simNode) { old.Moved = &backup.Moved{ID: "1", To: "roof"}; old.Running = "" },
			"moves to roof already"},
		"an old node that is off":  {func(old, _ *simNode) { old.Off = true }, "turn it on"},
		"a new node that is off":   {func(_, new *simNode) { new.Off = true }, "ssh does not reach it"},
		"a volume that is missing": {func(old, _ *simNode) { old.Waiting = "the volume is not there" }, "the volume is not there"},
	} {
		s := newSimulated()
		c.change(s.Nodes["attic"], s.Nodes["loft"])
		d := newDesk(t, s)
		args := []string{"--replace"}
		if name == "a server of its own" {
			args = nil
		}
		out, status := d.move(args...)
		if status == 0 || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, no %q in %q", name, status, c.want, out)
		}
		got := readSimulated(d.dir)
		if slices.ContainsFunc(got.Log, func(l string) bool { return !strings.HasSuffix(l, ": status") }) || got.Nodes["loft"].Next != nil {
			t.Errorf("%s: it does %q all the same", name, got.Log)
		}
	}
}

// TestMoveKeepsFiles: what lies where the last backup is to lie stays, and the old
// server runs on.
func TestMoveKeepsFiles(t *testing.T) {
	d := newDesk(t, newSimulated())
	write(t, d.dir+"/attic-to-loft.backup", "of something else", 0o600)
	out, status := d.move("--replace")
	if status == 0 || !strings.Contains(out, "--output") || readSimulated(d.dir).Nodes["attic"].Running != ours {
		t.Errorf("status %d: %s", status, out)
	}
	if b, err := os.ReadFile(d.dir + "/attic-to-loft.backup"); err != nil || string(b) != "of something else" {
		t.Errorf("the file is %q, %v", b, err)
	}
	s := newSimulated()
	s.Agents = "loft"
	d.set(s)
	if out, status := d.move("--replace", "-o", "other.backup"); status != 0 {
		t.Errorf("to another file: status %d: %s", status, out)
	}
	d.moved("to another file")
}

// TestMoveWithoutTheOldNode: once the last backup is here, the old node may be gone.
func TestMoveWithoutTheOldNode(t *testing.T) {
	s := newSimulated()
	s.Agents, s.CutAt, s.Cut = "loft", 5, before
	d := newDesk(t, s)
	if out, status := d.move("--replace"); status == 0 {
		t.Fatal(out)
	}
	s = readSimulated(d.dir)
	if _, err := os.Stat(d.dir + "/attic-to-loft.backup"); err != nil || s.Nodes["loft"].Next != nil {
		t.Fatalf("not cut off where it should be: %v, %q", err, s.Log)
	}
	s.Nodes["attic"].Off, s.CutAt = true, 0
	d.set(s)
	if out, status := d.move("--replace"); status != 0 {
		t.Errorf("status %d: %s", status, out)
	}
	d.moved("without the old node")
}

// TestUndoMove: a move is taken back until the new node serves.
func TestUndoMove(t *testing.T) {
	s := newSimulated()
	s.CutAt, s.Cut = 4, before // the last backup
	d := newDesk(t, s)
	if out, status := d.move("--replace"); status == 0 || readSimulated(d.dir).Nodes["attic"].Running != "" {
		t.Fatalf("not fenced: %s", out)
	}
	s = readSimulated(d.dir)
	s.CutAt = 0
	s.Nodes["loft"].Next = &backup.Info{Move: s.Nodes["attic"].Moved.ID, Cluster: ours}
	d.set(s)
	s.Nodes["loft"].Off = true
	d.set(s)
	if out, status := d.move("--undo"); status == 0 || !strings.Contains(out, "may have begun to serve") {
		t.Errorf("while the new node is off: status %d, %q", status, out)
	}
	s.Nodes["loft"].Off = false
	d.set(s)
	if out, status := d.move("--undo"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	s = readSimulated(d.dir)
	s.Nodes["loft"].start()
	if old, new := s.Nodes["attic"], s.Nodes["loft"]; old.Running != ours || old.Moved != nil || new.Running != fresh {
		t.Errorf("old %+v, new %+v", old, new)
	}
	if out, status := d.move("--replace"); !strings.Contains(out, "have not followed: cellar") || status == 0 {
		t.Fatalf("once more: status %d: %s", status, out)
	}
	if out, status := d.move("--undo"); status == 0 || !strings.Contains(out, "pikelet move server loft attic") {
		t.Errorf("after its end: status %d: %s", status, out)
	}
	d.moved("after an undo that was refused")
}

// TestAgentsFollow: agents that know the old address are named, and sent the new one
// where that is asked for and leads to the server.
func TestAgentsFollow(t *testing.T) {
	s := newSimulated()
	s.Nodes["cellar"] = &simNode{Status: backup.Status{Node: "cellar", Role: "agent"}}
	d := newDesk(t, s)
	inventory := func(at string) {
		write(t, d.dir+"/nodes.yaml", "nodes:\n- {hostname: attic, k3s: {role: server}}\n- {hostname: cellar, k3s: {role: agent, token: t, "+
			"server: 'https://"+at+":6443'}}\n", 0o600)
	}
	if out, status := d.move("--replace"); status == 0 || !strings.Contains(out, "have not followed: cellar") {
		t.Fatalf("status %d: %s", status, out)
	}
	inventory("attic")
	out, status := d.move("--inventory", "nodes.yaml", "--send")
	if status == 0 || !strings.Contains(out, "leads to no server of this cluster") || !strings.Contains(out, "https://loft:6443") {
		t.Errorf("with the old address: status %d: %s", status, out)
	}
	if _, err := os.Stat(d.dir + "/sent"); err == nil {
		t.Error("a config is sent that leads nowhere")
	}
	inventory("loft")
	if out, status := d.move("--inventory", "nodes.yaml"); status == 0 || !strings.Contains(out, "--send") {
		t.Errorf("without --send: status %d: %s", status, out)
	}
	if out, status := d.move("--inventory", "nodes.yaml", "--send", "--discard"); status != 0 {
		t.Errorf("status %d: %s", status, out)
	}
	d.moved("with agents")
	if s := readSimulated(d.dir); s.Nodes["attic"].Cluster != "" {
		t.Error("--discard leaves the old server's data")
	}
	if out, status := d.move("--send"); status != 2 {
		t.Errorf("--send without an inventory: status %d: %s", status, out)
	}
}
