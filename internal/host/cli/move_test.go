package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/pikelet-os/pikelet/internal/shared/backup"
)

// simulated is a simulated cluster: two nodes that could be its server, and agents.
// It lies in a file, and each call of ssh changes it.
type simulated struct {
	Nodes  map[string]*simNode
	Calls  int // of ssh so far
	CutAt  int // the call that is cut off; 0 for none
	Cut    cutting
	Twice  bool   // whether two servers of the cluster ran at once
	Agents string // where agents look for the server: a node's name
	Log    []string
}

// cutting is how a call is cut off.
type cutting string

const (
	before  cutting = "before"  // nothing of it happens
	middle  cutting = "middle"  // half of what is sent arrives
	after   cutting = "after"   // all of it happens, and no answer comes
	restart cutting = "restart" // as after, and the power of the node goes
)

// simNode is a node: backup.Status is what it says of itself.
type simNode struct {
	backup.Status
	Running string // the cluster whose server runs; "" for none
	Aside   []string
	Off     bool
}

const (
	ours  = "sha256:0123"
	fresh = "sha256:4567"
)

// start is what a node does when it starts.
func (n *simNode) start() {
	if n.Next != nil {
		if n.Cluster != "" {
			n.Aside = append(n.Aside, n.Cluster)
		}
		n.Cluster, n.Restored, n.Next, n.Moved = n.Next.Cluster, n.Next, nil, nil
	}
	n.Running = ""
	if n.Role == "server" && n.Moved == nil {
		n.Running = n.Cluster
	}
}

func newSimulated() *simulated {
	node := func(name, role, cluster string) *simNode {
		return &simNode{Running: cluster, Status: backup.Status{Node: name, Role: role, HostKey: "key of " + name, K3s: "v1.34.4+k3s1",
			Cluster: cluster, Answers: name + ":6443", Size: 1e6, Free: 1e9}}
	}
	return &simulated{Agents: "attic", Nodes: map[string]*simNode{"attic": node("attic", "server", ours), "loft": node("loft", "server", fresh)}}
}

// init has the test binary stand in for ssh.
func init() {
	if dir := os.Getenv("BE_SSH_IN"); dir != "" {
		os.Exit(beSSH(dir))
	}
}

// beSSH is ssh HOST doas /usr/sbin/pikeletd VERB... to a simulated node.
func beSSH(dir string) int {
	s := readSimulated(dir)
	args := os.Args[1:]
	for len(args) > 1 && args[0] == "-o" {
		args = args[2:]
	}
	s.Calls++
	n := s.Nodes[args[0]]
	is := func(c cutting) bool { return s.Calls == s.CutAt && s.Cut == c }
	status := 255
	var out []byte
	if n != nil && !n.Off && !is(before) {
		verb := strings.TrimPrefix(strings.Join(args[3:], " "), "backup ")
		s.Log = append(s.Log, args[0]+": "+verb)
		in := io.Reader(os.Stdin)
		if is(middle) {
			b, _ := io.ReadAll(in)
			in = bytes.NewReader(b[:len(b)/2])
		}
		var err error
		status = 0
		if out, err = s.do(dir, n, strings.Fields(verb), in); err != nil {
			fmt.Fprintln(os.Stderr, "pikelet-backup:", err)
			status = 1
		}
		switch {
		case is(middle):
			out, status = out[:len(out)/2], 255
		case is(after), is(restart):
			out, status = nil, 255
		}
		if is(restart) {
			n.start()
		}
	}
	running := 0
	for _, n := range s.Nodes {
		if n.Running == ours {
			running++
		}
	}
	s.Twice = s.Twice || running > 1
	if err := s.save(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Stdout.Write(out)
	return status
}

// do is a verb of a simulated node.
func (s *simulated) do(dir string, n *simNode, verb []string, in io.Reader) ([]byte, error) {
	flag := func(name string) string {
		if i := slices.Index(verb, name); i >= 0 {
			return verb[i+1]
		}
		return ""
	}
	switch verb[0] {
	case "status":
		n.Now = time.Now()
		n.Serving = n.Running != "" && n.Running == n.Cluster
		n.Heard = nil
		if n.Serving {
			n.Heard = map[string]time.Time{n.Node: n.Now, "cellar": {}}
			if s.Agents == n.Node {
				n.Heard["cellar"] = n.Now
			}
		}
		return n.Encode()
	case "fence":
		if n.Moved == nil {
			n.Moved = &backup.Moved{ID: flag("--id"), To: flag("--to"), At: time.Now()}
		}
		n.Running = ""
		return nil, nil
	case "unfence":
		n.Moved = nil
		n.start()
		return nil, nil
	case "write":
		return s.write(n, flag("--recipient"))
	case "restore":
		info, err := backup.Extract(in, func(backup.Info) error { return nil }, func(_ string, _ int64, r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err != nil {
			return nil, err
		}
		if n.Cluster != "" && n.Moved == nil && !slices.Contains(verb, "--replace") {
			return nil, errors.New("this node has a k3s server already")
		}
		n.Next = &info
		if s.Calls != s.CutAt || s.Cut != middle {
			n.start()
		}
		return nil, nil
	case "drop":
		n.Next = nil
		return nil, nil
	case "discard":
		n.Cluster = ""
		return nil, nil
	case "probe":
		host, _, _ := strings.Cut(verb[1], ":")
		if o := s.Nodes[host]; o != nil && o.Running == verb[2] {
			return []byte("yes\n"), nil
		}
		return []byte("no: connection refused\n"), nil
	case "config":
		b, err := io.ReadAll(in)
		return nil, errors.Join(err, os.WriteFile(filepath.Join(dir, "sent"), b, 0o600))
	case "reboot":
		if b, err := os.ReadFile(filepath.Join(dir, "sent")); err == nil && strings.Contains(string(b), "https://loft:6443") {
			s.Agents = "loft"
		}
		n.start()
		return nil, nil
	}
	return nil, fmt.Errorf("no verb %q", verb)
}

func (s *simulated) write(n *simNode, recipient string) ([]byte, error) {
	if n.Moved == nil || n.Running != "" {
		return nil, errors.New("this server is not fenced")
	}
	key, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, backup.Info{Node: n.Node, Cluster: n.Cluster, Made: time.Now().Add(-time.Minute), K3s: n.K3s,
		Datastore: backup.SQLite, Move: n.Moved.ID, To: n.Moved.To}, key)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{backup.Seed, backup.StateDB} {
		if err := w.Add(name, 4, strings.NewReader("text")); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return out.Bytes(), err
}

func readSimulated(dir string) *simulated {
	s := &simulated{}
	b, err := os.ReadFile(filepath.Join(dir, "simulated.json"))
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if err != nil {
		panic(err)
	}
	return s
}

func (s *simulated) save(dir string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "simulated.json"), b, 0o600)
}

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
		change func(s *simulated, old, new *simNode)
		args   []string
		want   string
	}{
		"a server of its own":      {func(_ *simulated, _, _ *simNode) {}, nil, "--replace puts it aside"},
		"no role":                  {func(_ *simulated, _, new *simNode) { new.Role = "agent" }, []string{"--replace"}, "no k3s.role: server"},
		"no server":                {func(_ *simulated, old, _ *simNode) { old.Cluster = "" }, []string{"--replace"}, "attic has no k3s server"},
		"etcd":                     {func(_ *simulated, old, _ *simNode) { old.Etcd = true }, []string{"--replace"}, "is etcd's"},
		"one name":                 {func(_ *simulated, _, new *simNode) { new.Node = "attic" }, []string{"--replace"}, "both called attic"},
		"an older Kubernetes":      {func(_ *simulated, _, new *simNode) { new.K3s = "v1.33.9+k3s1" }, []string{"--replace"}, "upgrade loft first"},
		"too little space":         {func(_ *simulated, _, new *simNode) { new.Free = 1e6 }, []string{"--replace"}, "too little space"},
		"the same cluster already": {func(_ *simulated, _, new *simNode) { new.Cluster = ours }, []string{"--replace"}, "a server of the same cluster"},
		"a move to another node": {func(_ *simulated, old, _ *simNode) { old.Moved = &backup.Moved{ID: "1", To: "roof"}; old.Running = "" },
			[]string{"--replace"}, "it moves to roof already"},
		"an old node that is off": {func(_ *simulated, old, _ *simNode) { old.Off = true }, []string{"--replace"}, "turn it on"},
		"a new node that is off":  {func(_ *simulated, _, new *simNode) { new.Off = true }, []string{"--replace"}, "ssh does not reach it"},
		"a volume that is missing": {func(_ *simulated, old, _ *simNode) { old.Waiting = "the volume is not there" }, []string{"--replace"},
			"the volume is not there"},
	} {
		s := newSimulated()
		c.change(s, s.Nodes["attic"], s.Nodes["loft"])
		d := newDesk(t, s)
		out, status := d.move(c.args...)
		if status == 0 || !strings.Contains(out, c.want) {
			t.Errorf("%s: status %d, no %q in %q", name, status, c.want, out)
		}
		got := readSimulated(d.dir)
		if slices.ContainsFunc(got.Log, func(l string) bool { return !strings.HasSuffix(l, ": status") }) || got.Nodes["loft"].Next != nil {
			t.Errorf("%s: it does %q all the same", name, got.Log)
		}
	}
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
	if out, status := d.move("--undo"); status == 0 || !strings.Contains(out, "nobody knows") {
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
